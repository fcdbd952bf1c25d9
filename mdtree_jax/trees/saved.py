"""Fitted trees as small readable JSON files.

A robust fit is stored as its training rows, rounded to its candidates, and refitted when it is read. The fit is the
same, and the file is smaller than the tables of votes.
"""

from __future__ import annotations

import os

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.files import parse_json, user_path
from mdtree_jax.trees import robust
from mdtree_jax.trees.members import STRUCTURES
from mdtree_jax.trees.structure import Structure

_FORMAT = "mdtree_jax tree 1"
#: Far beyond what `robust` fits, and far below where its powers vanish.
_LARGEST_EXPONENT = 100.0


def tree_to_dict(tree) -> dict:
    """Return a fitted `MDTreeClassifier` as plain values."""
    data = {
        "format": _FORMAT,
        "parameters": {name: value for name, value in tree.get_params().items() if name != "structure"},
        "structure": tree.structure_.to_dict(),
        "thresholds": tree.thresholds_.tolist(),
        "classes": tree.classes_.tolist(),
        "leaf_counts": tree.leaf_counts_.tolist(),
        "num_features_in": int(tree.n_features_in_),
        "agreement": tree.agreement_,
    }
    if hasattr(tree, "feature_names_in_"):
        data["feature_names_in"] = tree.feature_names_in_.tolist()
    if tree._average is not None:
        data["companions"] = [member.to_dict() for member in tree.members_[1:]]
        data["exponent"] = tree._average.exponent
        data["training"] = tree._rows
    return data


def read_tree(cls, path: str | os.PathLike):
    """Return the fitted tree, an instance of `cls`, in a file that holds what `tree_to_dict` returns.

    Raises:
        UserError: the file is missing, is not JSON, or does not hold a tree.
    """
    try:
        data = parse_json(user_path(path, "the saved tree").read_text(encoding="utf-8"))
        if data.get("format") != _FORMAT:
            raise UserError(f"'{path}' is not a saved tree: its format is {data.get('format')!r}, not '{_FORMAT}'")
        tree = _from_dict(cls, data)
    except UserError:
        raise
    except (
        OSError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
        ValueError,
    ) as error:
        raise UserError(f"the saved tree '{path}' cannot be read: {type(error).__name__} {error}") from error
    _check_together(tree, path)
    return tree


def _check_together(tree, path: str | os.PathLike) -> None:
    """Raise `UserError` unless the numbers of a tree that was read belong to its structure."""
    structure = tree.structure_
    nodes, leaves, classes = len(structure.nodes), len(structure.leaves), len(structure.classes)
    found = {"thresholds": tree.thresholds_, "leaf_counts": tree.leaf_counts_, "classes": tree.classes_}
    for name, shape in {"thresholds": (nodes,), "leaf_counts": (leaves, classes), "classes": (classes,)}.items():
        if found[name].shape != shape:
            raise UserError(
                f"the saved tree '{path}' is inconsistent: {name} must have the shape {shape}, not {found[name].shape}"
            )
    exponent = 1.0 if tree._average is None else tree._average.exponent
    for what, good in (
        ("thresholds that are not finite", np.isfinite(tree.thresholds_).all()),
        ("negative leaf counts", (tree.leaf_counts_ >= 0).all()),
        (f"num_features_in={tree.n_features_in_}", tree.n_features_in_ >= len(structure.features)),
        (f"agreement={tree.agreement_:g}", 0.0 <= tree.agreement_ <= 1.0),
        (f"exponent={exponent:g}", 0.0 < exponent <= _LARGEST_EXPONENT),
    ):
        if not good:
            raise UserError(f"the saved tree '{path}' is inconsistent: it has {what}")


def _from_dict(cls, data: dict):
    structure = Structure.from_dict(data["structure"])
    tree = cls(**data["parameters"], structure=None if structure in STRUCTURES.values() else structure)
    tree.structure_ = structure
    tree._set_thresholds(structure, np.array(data["thresholds"], dtype=float))
    if "training" in data:
        members = [structure, *map(Structure.from_dict, data["companions"])]
        average = robust.fit_robust(members, *robust.unsnap_rows(members, data["training"]))
        tree._set_average(members, average._replace(exponent=float(data["exponent"])))
        tree._rows = data["training"]
    tree.agreement_ = float(data["agreement"])
    tree.leaf_counts_ = np.array(data["leaf_counts"], dtype=int)
    tree._set_classes(np.array(data["classes"]))
    tree.n_features_in_ = int(data["num_features_in"])
    if (names := data.get("feature_names_in")) is not None:
        if names != list(structure.features):
            raise ValueError(f"feature_names_in={names!r:.80} are not the features of its structure")
        tree.feature_names_in_ = np.array(names, dtype=object)
    return tree
