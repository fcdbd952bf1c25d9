"""Probabilities of the causes and of the questions' classes, integrated over the standard errors of the metrics. NumPy.

If metrics have standard errors, all probabilities are averages over `NODES` fixed draws of the true metrics around the
measured ones (a Latin hypercube with mirrored points: deterministic, with exact means), so that an error bar that
straddles a threshold is reflected in the probability. Metrics are drawn independently and clipped to their range (no
training error below 0). The standard deviation of the joint model's gains is that at the measured point.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
from scipy.special import ndtri

from mdtree_jax.causes import joint
from mdtree_jax.causes.joint import question_probabilities
from mdtree_jax.collection.columns import sources
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.diagnosis.metrics_table import standard_errors
from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.registry.measurements import bounds_of

#: Number of draws for the standard errors, even; half of them are mirrored.
NODES = 16
_ORDERS = 2**14


class Chances(NamedTuple):
    """Probabilities of rows, each (rows,) or (rows, causes).

    Attributes:
        causes: of each cause, (rows, causes), columns as those of the reference.
        questions: task -> class -> probability: the mean over the trees and the joint model of the rooms for
            improvement, which make different errors (`joint.question_probabilities`); the trees alone if the joint
            model has no cause for one of the classes.
        trees: the same, from the tree averages alone.
    """

    causes: np.ndarray
    questions: dict[str, dict[str, np.ndarray]]
    trees: dict[str, dict[str, np.ndarray]]


def all_chances(reference: Reference, frame: pd.DataFrame, have: list[str]) -> Chances:
    """Return the probabilities of causes and of the questions' classes, integrated over the standard errors.

    Tasks whose trees need a column outside `have` are left out.

    Args:
        reference: the reference, with its joint models and trees.
        frame: rows that `read_metrics` returned, all with finite values of the columns `have`.
        have: the columns that may be used.
    """
    trees = _tree_chances(reference, frame, have)
    models = [reference.joint_model(have), reference.room_model(have)]
    steps, rooms = joint.gain_posteriors(models, frame)
    causes = joint.cause_probabilities(*steps)
    known = reference.causes
    both = {task: joint.task_probabilities(*rooms, TASKS[task], known) for task in trees}
    room = {task: chances for task, chances in both.items() if chances is not None}
    rows, drawn = draw_metrics(frame, models[0].columns)
    if len(rows):
        means = joint.gain_means(models, drawn)
        causes[rows] = _over_draws(joint.cause_probabilities, means[0], steps[1][rows])
        for task, chances in room.items():
            judge = partial(joint.task_probabilities, task=TASKS[task], causes=known)
            # Of the tasks of `room` it returns no None.
            chances[rows] = _over_draws(cast(Callable[..., np.ndarray], judge), means[1], rooms[1][rows])
    questions = {
        task: {
            name: question_probabilities(classes[name], room[task][:, place] if task in room else None)
            for place, name in enumerate(TASKS[task].classes)
        }
        for task, classes in trees.items()
    }
    return Chances(causes, questions, trees)


def _over_draws(judge: Callable[..., np.ndarray], means: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return the mean over each row's draws of `judge(means, spread)`, the draws of a row one after the other."""
    spread = np.repeat(spread, NODES, axis=0)
    parts = [judge(means[i : i + 4096], spread[i : i + 4096]) for i in range(0, len(means), 4096)]
    whole = np.concatenate(parts)
    return whole.reshape(-1, NODES, whole.shape[1]).mean(axis=1)


def _tree_chances(reference: Reference, frame: pd.DataFrame, have: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return task -> class -> (rows,) probability of the tree averages, integrated over the standard errors."""
    out = {}
    for task in TASKS:
        tree = reference.tree(task, have)
        if tree is None:
            continue
        usable = frame[have]
        chances = tree.predict_proba(usable)
        asked = {source for member in tree.members_ for name in member.features for source in sources(name)}
        rows, drawn = draw_metrics(frame, [c for c in have if c in asked])
        if len(rows):
            chances[rows] = tree.predict_proba(drawn).reshape(len(rows), NODES, -1).mean(axis=1)
        out[task] = {str(name): chances[:, i] for i, name in enumerate(tree.classes_)}
    return out


def draw_metrics(frame: pd.DataFrame, columns) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the rows that have a standard error in one of the columns, and `NODES` draws of each, row after row.

    The draws hold the named columns only. A column without a standard error keeps its value.
    """
    columns = list(columns)
    errors = np.stack([standard_errors(frame, c) for c in columns], axis=1)
    errors = np.where(np.isfinite(errors), errors, 0.0)
    rows = np.flatnonzero((errors > 0).any(axis=1))
    values = frame[columns].to_numpy(dtype=float)[rows]
    drawn = values[:, None, :] + errors[rows][:, None, :] * _normal_points(len(columns))[None]
    for i, name in enumerate(columns):
        drawn[:, :, i] = np.clip(drawn[:, :, i], *bounds_of(name))
    return rows, pd.DataFrame(drawn.reshape(-1, len(columns)), columns=columns)


@lru_cache(maxsize=16)
def _normal_points(dimensions: int) -> np.ndarray:
    """Return (NODES, dimensions) points of mean 0 and variance 1 in each dimension, hardly correlated between them.

    Each dimension holds the normal quantiles, one per stratum, in its own order: of many random orders, the one least
    correlated with the preceding dimensions (with up to seven dimensions, at most 0.12).
    """
    half = NODES // 2
    sizes = ndtri(0.5 + (np.arange(half) + 0.5) / NODES)
    sizes /= np.sqrt((sizes**2).mean())
    rng = np.random.default_rng(2)
    columns = np.empty((0, half))
    for _ in range(dimensions):
        orders = rng.permuted(np.tile(sizes, (_ORDERS, 1)), axis=1) * rng.choice([-1.0, 1.0], (_ORDERS, half))
        worst = np.abs(orders @ columns.T).max(axis=1, initial=0.0)
        columns = np.concatenate([columns, orders[[worst.argmin()]]])
    return np.concatenate([columns.T, -columns.T])
