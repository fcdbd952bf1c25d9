"""Accuracy against coverage: how often the surest share of all answers is right, and whether the stated chances hold.

A method that may say "I can't tell" answers the models of which it is surest. The published questions are answered as a
diagnosis answers them: by the mean of two probabilities, the tree average's (`MDTreeClassifier`) and the joint model's
of the rooms for improvement, which err on other models; within F it is right more often than the trees in 8 of 12 pairs
of task and kind of fold, not in all (sweeps/joint.md). Rivals are the trees alone, and a random forest on the joint
model's metrics with its own probabilities.

Intervals: percentile bootstrap over the cells of the test side (all axes but the knobs of temperature: data fraction
and width of a classic collection), because the temperatures of one cell are alike; 1000 resamples, the training side
fixed.

Of two collections that vary other knobs the causes that both tell are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.causes.joint import question_probabilities
from mdtree_jax.causes.labels import causes_of, gains, shared_causes
from mdtree_jax.checks import UserError
from mdtree_jax.collection.columns import feature_values, missing_columns, missing_message
from mdtree_jax.collection.grid import cells_of, make_grid
from mdtree_jax.collection.tasks import TASKS, Task, task_rows
from mdtree_jax.trees.classifier import MDTreeClassifier

_RESAMPLES = 1000


class Answers(NamedTuple):
    """Answers of one method, each (rows,): `right` or not, the `confidence` stated, the `cell` of the grid."""

    right: np.ndarray
    confidence: np.ndarray
    cell: np.ndarray


def calibration_error(answers: Answers, bins: int = 10) -> float:
    """Return the mean distance between stated and true share right over equal-count bins, in points."""
    order = np.argsort(answers.confidence, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return 100 * float(np.mean([abs(answers.confidence[p].mean() - answers.right[p].mean()) for p in parts]))


def accuracy_at(answers: Answers, coverage: float) -> float:
    """Return the accuracy on the surest `coverage` percent of the answers, in percent; ties by place in the table."""
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
    task: str,
    train: pd.DataFrame,
    test: pd.DataFrame | None,
    say: Callable[[str], None] = lambda message: None,
    *,
    rivals: bool = True,
    columns: Sequence[str] = joint.COLUMNS,
) -> dict[str, Answers]:
    """Return the answers of every method to one task, ours first, and alone unless `rivals`; method -> answers.

    `columns` are those of `joint.COLUMNS` that may be asked.
    """
    collections = [train] if test is None else [train, test]
    absent = sorted({name for frame in collections for name in missing_columns(frame, columns)})
    columns = [name for name in columns if name not in absent]
    if absent:
        say(f"coverage goes without {', '.join(absent)}, which a collection lacks")
    label, causes = JOINT_TASKS.get(task, "room"), causes_told(collections, say, allow_missing=True)
    sides = [make_joint_side(frame, label, columns, allow_missing=True, causes=causes) for frame in collections]
    learn, ask = sides if len(sides) > 1 else halves(sides[0])
    model = joint.fit_joint(learn.frame, learn.gained, columns)
    if task not in JOINT_TASKS:
        return _answer_task(TASKS[task], model, causes, learn.frame, ask.frame, rivals)
    chances = {"md_tree_joint": joint.predict_joint(model, ask.frame)}
    if rivals:
        chances["forest"] = _forest(learn.frame, learn.y, ask.frame, model.metrics, len(causes))
    cell = cells_of(ask.frame)
    return {name: Answers(p.argmax(axis=1) == ask.y, p.max(axis=1), cell) for name, p in chances.items()}


def _answer_task(
    task: Task,
    model: joint.JointModel,
    causes: Sequence[str],
    train: pd.DataFrame,
    test: pd.DataFrame,
    rivals: bool,
) -> dict[str, Answers]:
    learn, ask = task_rows(train, task), task_rows(test, task)
    y, truth = (np.array([task.classes.index(v) for v in frame[task.label]]) for frame in (learn, ask))
    tree = MDTreeClassifier(task.name).fit(learn, learn[task.label])
    order = [tree.classes_.tolist().index(name) for name in task.classes]
    room = joint.task_probabilities(*joint.gain_posterior(model, ask), task, causes)
    alone = tree.predict_proba(ask)[:, order]
    chances = {"trees_and_gains": question_probabilities(alone, room)}
    if rivals:
        chances["md_tree_robust"] = alone
        chances["forest"] = _forest(learn, y, ask, model.metrics, 2)
    cell = cells_of(ask)
    return {name: Answers(p.argmax(axis=1) == truth, p.max(axis=1), cell) for name, p in chances.items()}


def _forest(train, y, test, metrics, classes: int) -> np.ndarray:
    model = forest(random_state=0).fit(feature_values(train, metrics), y)
    out = np.zeros((len(test), classes))
    out[:, model.classes_] = model.predict_proba(feature_values(test, metrics))
    return out


def halves(side):
    """Return a side (`make_joint_side`) in two: half of its cells, drawn from seed 0."""
    cell = cells_of(side.frame)
    number = cell.max() + 1
    chosen = np.isin(cell, np.random.default_rng(0).permutation(number)[: number // 2])
    return type(side)(*(part[chosen] for part in side)), type(side)(*(part[~chosen] for part in side))


#: Task of the results table -> label.
JOINT_TASKS = {"joint": "step", "joint_room": "room"}
_TREES = 100


def forest(random_state: int):
    """Return the rival: a random forest as scikit-learn sets it up."""
    from sklearn.ensemble import RandomForestClassifier  # slow to import, and few runs need it

    return RandomForestClassifier(_TREES, random_state=random_state)


class JointSide(NamedTuple):
    """The rows of one collection that take part: metrics finite, every step's gain known."""

    frame: pd.DataFrame
    gained: np.ndarray
    y: np.ndarray


def causes_told(
    collections: Sequence[pd.DataFrame], say: Callable[[str], None] = lambda message: None, *, allow_missing: bool
) -> tuple[str, ...]:
    """Return the causes that all of the collections tell, `none` last; `say` gets a sentence on the others.

    Raises:
        UserError: there is none but `none`.
    """
    grids = [make_grid(frame, allow_missing=allow_missing) for frame in collections]
    causes = shared_causes(grids)
    others = dict.fromkeys(cause for grid in grids for cause in grid.causes if cause not in causes)
    if len(causes) == 1:
        raise UserError(f"no cause can be told from every collection: {', '.join(others) or 'none of their moves'}")
    if others:
        say(f"{', '.join(others)} cannot be told from every collection: the others are asked")
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
        columns: metrics that must be there and finite.
        allow_missing: go on where the grid lacks configurations.
        causes: those that are asked, `none` last; None for all that the collection tells.

    Raises:
        UserError: a column is missing, or no row is left.
    """
    absent = missing_columns(frame, columns)
    if absent:
        raise UserError(missing_message(frame, absent, why=", which the joint question asks"))
    gained = gains(make_grid(frame, allow_missing=allow_missing), label, causes)
    numbers = frame[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    keep = np.isfinite(gained).all(axis=1) & np.isfinite(numbers).all(axis=1)
    if not keep.any():
        raise UserError("no configuration has all its metrics and all its neighbours on the grid")
    return JointSide(frame[keep], gained[keep], causes_of(gained[keep]))
