"""The member trees of the robust fit, by task: each question of a published tree is put to several measures.

A threshold on one measure carries badly: sharpness and connectivity shift with label noise, schedule and data set, each
in its own way. Every member asks the training error first, as published, or where sharpness comes first says why, and
then measures that answer the same question on other grounds; they vote.

- Sign of `mode_connectivity`: below 0 a barrier parts the networks; above 0 the curve finds less error than its ends,
  which are then not at the bottom of their valley.
- `cka`: networks that disagree on mixed-up images have not found the same function.
- `log_effective_rank`, ln(trace / top eigenvalue) of the Hessian: how many directions are as sharp as the sharpest.
- `train_loss` where the training error is 0: a wider network gets further below.
"""

from __future__ import annotations

from collections.abc import Callable

from mdtree_jax.trees.structure import Node, Structure


def _structure(name: str, classes: tuple[str, str], *rows: tuple) -> Structure:
    return Structure(name, tuple(Node(*row) for row in rows), classes)


_OPTIMIZER = ("temperature_too_high", "temperature_too_low")
_ERROR = ("train_error", 0.5, 0.0, 1.0)
_PEAK = ("mode_connectivity_peak", -10.0, -30.0, 0.0)
_SHARPNESS = ("log_hessian_trace", 7.0, 4.0, 9.0)
_CONNECTIVITY = ("mode_connectivity", 0.0, -15.0, 15.0)
_RANK = ("log_effective_rank", 2.0, 1.0, 3.0)
_CKA = ("cka", 0.5, 0.2, 0.8)
_RELATIVE = ("log_relative_eigenvalue", 6.5, 2.0, 9.5)
# Two thresholds that the published structures do not have; their initial values are rounded from collection F.
_FLATNESS = ("log_hessian_trace", 5.0, 4.0, 6.0)
_DISAGREEMENT = ("cka", 0.4, 0.2, 0.6)
_LOSS = ("train_loss", 1e-3, 1e-4, 1e-2)

#: The published structures (docs/explanation/trees.md). Node numbers are the published order of the thresholds.
OPTIMIZER = _structure(
    "optimizer", _OPTIMIZER,
    (*_ERROR, "temperature_too_low", 1),
    (*_PEAK, 2, "temperature_too_high"),
    (*_SHARPNESS, "temperature_too_high", "temperature_too_low"),
)  # fmt: skip
OPTIMIZER_SIMILARITY = _structure(
    "optimizer_similarity", _OPTIMIZER,
    (*_ERROR, "temperature_too_low", 1),
    (*_PEAK, 2, "temperature_too_high"),
    (*_CKA, "temperature_too_low", "temperature_too_high"),
)  # fmt: skip
SIZE = _structure(
    "size", ("temperature", "size"),
    (*_ERROR, 1, 2),
    (*_PEAK, "size", "temperature"),
    (*_PEAK, "size", "temperature"),
)  # fmt: skip
DATA = _structure(
    "data", ("temperature", "data"),
    (*_ERROR, 1, 3),
    (*_PEAK, 4, 2),
    (*_SHARPNESS, "data", "temperature"),
    (*_PEAK, "temperature", 5),
    (*_SHARPNESS, "data", "temperature"),
    (*_SHARPNESS, "data", "temperature"),
)  # fmt: skip

STRUCTURES = {structure.name: structure for structure in (OPTIMIZER, OPTIMIZER_SIMILARITY, SIZE, DATA)}


def _like(published: Structure, name: str, *rows: tuple) -> Structure:
    return Structure(name, tuple(Node(*row) for row in rows), published.classes)


def _optimizer(name: str, *last: tuple) -> Structure:
    head = (*_ERROR, "temperature_too_low", 1), (*_PEAK, 2, "temperature_too_high")
    return _like(OPTIMIZER, name, *head, *last)


OPTIMIZER_BARRIER = _optimizer("optimizer_barrier", (*_CONNECTIVITY, "temperature_too_low", "temperature_too_high"))
OPTIMIZER_RANK = _optimizer("optimizer_rank", (*_RANK, "temperature_too_high", "temperature_too_low"))
SIZE_SIMILARITY = _like(
    SIZE, "size_similarity",
    (*_ERROR, 1, 2),
    (*_CKA, "size", "temperature"),
    (*_CONNECTIVITY, "size", "temperature"),
)  # fmt: skip
SIZE_LOSS = _like(
    SIZE, "size_loss",
    (*_ERROR, 1, 2),
    (*_LOSS, "temperature", "size"),
    (*_RANK, "size", "temperature"),
)  # fmt: skip
#: Flat minima come of little data, very sharp ones of a low temperature; in between, networks short of data disagree.
DATA_SHARPNESS = _like(
    DATA, "data_sharpness",
    (*_FLATNESS, "data", 1),
    (*_SHARPNESS, 2, "temperature"),
    (*_DISAGREEMENT, "data", "temperature"),
)  # fmt: skip
#: The published order, with similarity as the last question to networks that do not fit their data.
DATA_SIMILARITY = _like(
    DATA, "data_similarity",
    (*_ERROR, 1, 2),
    (*_FLATNESS, "data", "temperature"),
    (*_SHARPNESS, 3, "temperature"),
    (*_DISAGREEMENT, "data", "temperature"),
)  # fmt: skip
#: Sharpness relative to the loss: the published tree where networks differ in how far they get.
OPTIMIZER_RELATIVE = _optimizer("optimizer_relative", (*_RELATIVE, "temperature_too_high", "temperature_too_low"))

#: Task -> members; the first is the one that is shown as the tree.
MEMBERS: dict[str, tuple[Structure, ...]] = {
    "optimizer": (OPTIMIZER, OPTIMIZER_SIMILARITY, OPTIMIZER_BARRIER, OPTIMIZER_RANK),
    "size": (SIZE, SIZE_SIMILARITY, SIZE_LOSS),
    "data": (DATA, DATA_SHARPNESS, DATA_SIMILARITY),
}
#: The same for collections that may be of another family than the models asked about (sweeps/transfer.md): the spread
#: of the sharpness, whose level a family sets, gives way to sharpness relative to the loss.
RELATIVE_MEMBERS: dict[str, tuple[Structure, ...]] = {
    "optimizer": (OPTIMIZER, OPTIMIZER_SIMILARITY, OPTIMIZER_BARRIER, OPTIMIZER_RELATIVE),
}

OPTIMIZER_SINGLE = _like(
    OPTIMIZER, "optimizer_single",
    (*_ERROR, "temperature_too_low", 1),
    (*_SHARPNESS, "temperature_too_high", "temperature_too_low"),
)  # fmt: skip
DATA_SINGLE = _like(DATA, "data_single", (*_FLATNESS, "data", "temperature"))

#: Task -> the tree that needs no second network: of a dozen without connectivity and similarity, averages of two
#: and three among them, the best by cross-validation within F over blocks of its grid (sweeps/joint.md).
ONE_CHECKPOINT: dict[str, Structure] = {"optimizer": OPTIMIZER_SINGLE, "size": SIZE_LOSS, "data": DATA_SINGLE}


def choose_members(structure: Structure, has: Callable[[str], bool]) -> list[Structure]:
    """Return the members of the robust fit of a structure: its companions too if it is a task's published one.

    A companion takes part if `has(feature)` is true for all its features; the structure itself always does.
    """
    companions = next((members[1:] for members in MEMBERS.values() if members[0] == structure), ())
    return [structure, *(tree for tree in companions if all(has(feature) for feature in tree.features))]
