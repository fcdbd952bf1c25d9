"""Says why a trained network is not good enough, from its loss landscape, without retraining it.

    from mdtree_jax import load_collection, MDTreeClassifier

Importing the package imports neither JAX nor Hydra; what is named here is loaded at first use.
"""

from importlib import import_module

_HOME = {
    "load_collection": "mdtree_jax.diagnosis.collection",
    "MDTreeClassifier": "mdtree_jax.diagnosis.classifier",
    "diagnose_model": "mdtree_jax.subject.diagnose",
    "diagnose_metrics": "mdtree_jax.diagnosis.verdict",
    "Diagnosis": "mdtree_jax.diagnosis.verdict",
    "Reference": "mdtree_jax.diagnosis.reference",
    "fit_reference": "mdtree_jax.diagnosis.reference",
    "write_reports": "mdtree_jax.report.html",
    "Structure": "mdtree_jax.diagnosis.structures",
    "Node": "mdtree_jax.diagnosis.structures",
    "UserError": "mdtree_jax.checks",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mdtree_jax' has no attribute '{name}'")


def __dir__():
    return sorted([*globals(), *_HOME])
