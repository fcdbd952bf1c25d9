"""Says why a trained network is not good enough, from its loss landscape, without retraining it.

    from mdtree_jax import load_collection, MDTreeClassifier

Importing the package imports neither JAX nor Hydra; what is named here is loaded at first use.
"""

from importlib import import_module
from typing import Any

from mdtree_jax.diagnosis import page as _page

#: Public name -> the module that defines it. The one table of modules that are imported by their name.
_HOME = {
    "load_collection": "mdtree_jax.collection.load",
    "MDTreeClassifier": "mdtree_jax.trees.classifier",
    "diagnose_model": "mdtree_jax.subject.from_model",
    "diagnose_metrics": "mdtree_jax.diagnosis.from_metrics",
    "Diagnosis": "mdtree_jax.diagnosis.result",
    "Reference": "mdtree_jax.diagnosis.reference",
    "fit_reference": "mdtree_jax.diagnosis.reference_fit",
    "write_report": "mdtree_jax.report.html",
    "write_reports": "mdtree_jax.report.html",
    "Structure": "mdtree_jax.trees.structure",
    "Node": "mdtree_jax.trees.structure",
    "UserError": "mdtree_jax.checks",
    "register": "mdtree_jax.registry.register",
    "Architecture": "mdtree_jax.registry.architectures",
    "Dataset": "mdtree_jax.registry.datasets",
    "Objective": "mdtree_jax.registry.objectives",
    "Knob": "mdtree_jax.registry.knobs",
    "Cause": "mdtree_jax.registry.causes",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mdtree_jax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


_page.register(lambda: __getattr__("write_report"))
