"""Answers of methods to rows they were not fitted on, and their accuracy at a coverage, calibration and intervals.

A method that may say "I can't tell" answers only the models about which it is most confident. The published questions
are answered as in a diagnosis, by the mean of two probabilities: that of the tree average (`MDTreeClassifier`) and that
of the joint model of the rooms for improvement. The two make different errors. Within F, the mean is right more often
than the trees alone in 8 of 12 pairs of task and kind of fold (sweeps/joint.md). Baselines are the trees alone, and a
random forest on the metrics of the joint model.

Intervals are from a percentile bootstrap over the cells of the test side, with 1000 resamples and the training side
fixed. A cell is a combination of all axes except the temperature knobs (data fraction and width in a classic
collection), because configurations that differ only in temperature are similar.

If two collections vary different knobs, only the causes that both can identify are considered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.causes.labels import causes_of, gains, shared_causes
from mdtree_jax.causes.method_protocol import AnyTask, Gains, Method, Sample, asks_causes, usable_methods
from mdtree_jax.checks import UserError
from mdtree_jax.collection.columns import missing_columns, missing_message, sources
from mdtree_jax.collection.grid import cells_of, make_grid
from mdtree_jax.collection.tasks import task_rows

_RESAMPLES = 1000


class Answers(NamedTuple):
    """Answers of one method, each (rows,): `right` or not, the `confidence` stated, the `cell` of the grid."""

    right: np.ndarray
    confidence: np.ndarray
    cell: np.ndarray


def calibration_error(answers: Answers, bins: int = 10) -> float:
    """Return the mean absolute difference between confidence and accuracy over equal-count bins, in points."""
    order = np.argsort(answers.confidence, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return 100 * float(np.mean([abs(answers.confidence[p].mean() - answers.right[p].mean()) for p in parts]))


def accuracy_at(answers: Answers, coverage: float) -> float:
    """Return the accuracy of the `coverage` % most confident answers, in percent; ties by order in the table."""
    number = max(1, int(coverage / 100 * len(answers.right)))
    surest = np.argsort(-answers.confidence, kind="stable")[:number]
    return 100 * float(answers.right[surest].mean())


def bootstrap_interval(answers: Answers, coverage: float, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of `accuracy_at`, by resampling cells."""
    rng = np.random.default_rng(seed)
    cells, place = np.unique(answers.cell, return_inverse=True)
    order = np.argsort(-answers.confidence, kind="stable")
    right, place = answers.right[order], place[order]
    values = []
    for _ in range(_RESAMPLES):
        weight = np.bincount(rng.integers(0, len(cells), len(cells)), minlength=len(cells))[place]
        upto = np.cumsum(weight)
        surest = np.clip(coverage / 100 * upto[-1] - (upto - weight), 0, weight)
        values.append(100 * float(surest @ right / max(surest.sum(), 1e-12)))
    return tuple(np.percentile(values, [2.5, 97.5]).tolist())


def answer_all(
    methods: Sequence[Method],
    task: AnyTask,
    train: pd.DataFrame,
    test: pd.DataFrame | None,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Answers]:
    """Return method -> answers to one task, for every method that supports it and states probabilities.

    Methods are fitted on all of `train`, or on half of its cells if there is no test side. All of them see the same
    rows: those in which every column used by any of them is finite and every gain is known.
    """
    collections = [train] if test is None else [train, test]
    methods = usable_methods(collections, task, methods, say)
    columns = list(dict.fromkeys(s for m in methods for name in m.features(task) for s in sources(name)))
    label, causes = task.label if asks_causes(task) else "room", causes_told(collections, say, allow_missing=True)
    sides = [make_joint_side(frame, label, columns, allow_missing=True, causes=causes) for frame in collections]
    learned, asked = (joint_sample(side, task, causes) for side in (sides if len(sides) > 1 else halves(sides[0])))
    cell, out = cells_of(asked.frame), {}
    for method in methods:
        fitted = method.fit(learned, 0)
        if fitted.chances is not None:
            chances = fitted.chances(asked)
            out[method.name] = Answers(chances.argmax(axis=1) == asked.y, chances.max(axis=1), cell)
    return out


def joint_sample(side: JointSide, task: AnyTask, causes: Sequence[str]) -> Sample:
    """Return the rows of a side that take part in a task; gains are learned from all of its rows.

    `causes` are those that the side's gains and places stand for, `none` last.
    """

    def known() -> Gains:
        return Gains(side.frame, side.gained, tuple(causes))

    if asks_causes(task):
        return Sample(side.frame, task._replace(classes=tuple(causes)), side.y, known)
    return Sample.of(task_rows(side.frame, task), task, gains=known)


def halves(side):
    """Return a side (`make_joint_side`) in two: half of its cells, drawn from seed 0."""
    cell = cells_of(side.frame)
    number = cell.max() + 1
    chosen = np.isin(cell, np.random.default_rng(0).permutation(number)[: number // 2])
    return type(side)(*(part[chosen] for part in side)), type(side)(*(part[~chosen] for part in side))


class JointSide(NamedTuple):
    """The rows of one collection that take part: metrics finite, every step's gain known."""

    frame: pd.DataFrame
    gained: np.ndarray
    y: np.ndarray


def causes_told(
    collections: Sequence[pd.DataFrame], say: Callable[[str], None] = lambda message: None, *, allow_missing: bool
) -> tuple[str, ...]:
    """Return the causes that every collection can identify, `none` last; `say` gets a sentence about the others.

    Raises:
        UserError: no cause is common to all collections.
    """
    grids = [make_grid(frame, allow_missing=allow_missing) for frame in collections]
    causes = shared_causes(grids)
    others = dict.fromkeys(cause for grid in grids for cause in grid.causes if cause not in causes)
    if len(causes) == 1:
        raise UserError(
            "the collections have no cause in common that all can identify: "
            f"{', '.join(others) or 'none of them has any'}"
        )
    if others:
        say(f"{', '.join(others)} cannot be identified in every collection; only the other causes are considered")
    return causes


def make_joint_side(
    frame: pd.DataFrame,
    label: str,
    columns: Sequence[str] = joint.COLUMNS,
    *,
    allow_missing: bool = False,
    causes: Sequence[str] | None = None,
) -> JointSide:
    """Return the rows of a loaded collection that take part in the joint question.

    Args:
        frame: the collection.
        label: `step` or `room`.
        columns: metrics that must be present and finite.
        allow_missing: accept a grid with missing configurations.
        causes: the causes to consider, `none` last; None for all that the collection can identify.

    Raises:
        UserError: a column is missing, or no row is left.
    """
    absent = missing_columns(frame, columns)
    if absent:
        raise UserError(missing_message(frame, absent, why=", which the joint question uses"))
    gained = gains(make_grid(frame, allow_missing=allow_missing), label, causes)
    numbers = frame[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    keep = np.asarray(np.isfinite(np.concatenate([gained, numbers], axis=1)).all(axis=1))
    if not keep.any():
        raise UserError("no configuration has both complete metrics and all of its grid neighbours")
    return JointSide(frame.loc[keep], gained[keep], causes_of(gained[keep]))
