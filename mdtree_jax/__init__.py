"""Says why a trained network is not good enough, from its training and loss landscape, without retraining it in full.

    from mdtree_jax import load_collection, MDTreeClassifier

Importing the package imports neither JAX nor Hydra; what is named here is loaded at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mdtree_jax import moved as _moved
from mdtree_jax.diagnosis import page as _page

if TYPE_CHECKING:  # what type checkers and editors read; the same names as in `_HOME`
    from mdtree_jax.checks import UserError as UserError
    from mdtree_jax.collection.history import read_history as read_history
    from mdtree_jax.collection.load import load_collection as load_collection
    from mdtree_jax.diagnosis.from_metrics import diagnose_metrics as diagnose_metrics
    from mdtree_jax.diagnosis.reference import Reference as Reference
    from mdtree_jax.diagnosis.reference_fit import fit_reference as fit_reference
    from mdtree_jax.diagnosis.result import Diagnosis as Diagnosis
    from mdtree_jax.provenance import __version__ as __version__
    from mdtree_jax.registry.architectures import Architecture as Architecture
    from mdtree_jax.registry.causes import Cause as Cause
    from mdtree_jax.registry.datasets import Dataset as Dataset
    from mdtree_jax.registry.kernels import Kernel as Kernel
    from mdtree_jax.registry.knobs import Knob as Knob
    from mdtree_jax.registry.measurements import Measurement as Measurement
    from mdtree_jax.registry.objectives import Objective as Objective
    from mdtree_jax.registry.questions import Answer as Answer
    from mdtree_jax.registry.questions import Question as Question
    from mdtree_jax.registry.register import register as register
    from mdtree_jax.registry.tree import Tree as Tree
    from mdtree_jax.report.html import write_report as write_report
    from mdtree_jax.report.html import write_reports as write_reports
    from mdtree_jax.subject.from_model import diagnose_model as diagnose_model
    from mdtree_jax.subject.from_model import measure_model as measure_model
    from mdtree_jax.trees.classifier import MDTreeClassifier as MDTreeClassifier
    from mdtree_jax.trees.structure import Node as Node
    from mdtree_jax.trees.structure import Structure as Structure

#: Public name -> the module that defines it. The one table of modules that are imported by their name.
_HOME = {
    "__version__": "mdtree_jax.provenance",
    "load_collection": "mdtree_jax.collection.load",
    "read_history": "mdtree_jax.collection.history",
    "MDTreeClassifier": "mdtree_jax.trees.classifier",
    "diagnose_model": "mdtree_jax.subject.from_model",
    "measure_model": "mdtree_jax.subject.from_model",
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
    "Measurement": "mdtree_jax.registry.measurements",
    "Kernel": "mdtree_jax.registry.kernels",
    "Question": "mdtree_jax.registry.questions",
    "Answer": "mdtree_jax.registry.questions",
    "Tree": "mdtree_jax.registry.tree",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mdtree_jax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


_moved.install()  # the modules of the release before, by their old names
_page.register(lambda: __getattr__("write_report"))
