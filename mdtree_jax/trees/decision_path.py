"""The path of a model through a diagnostic tree, step by step, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mdtree_jax.collection.columns import COLUMN, DERIVED
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.trees.structure import Structure


@dataclass(frozen=True)
class EvidenceStep:
    """One question on a model's path.

    `side` is `at_most` or `above` the threshold; `interval` is the 90 % interval of the threshold, or None;
    `distance_in_standard_errors` is (value - threshold) / standard_error, None without a standard error; `is_close`
    says that the other side cannot be ruled out: the value lies in the interval of the threshold, or within two
    standard errors of the threshold.
    """

    question: str
    feature: str
    unit: str
    value: float
    standard_error: float | None
    threshold: float
    interval: tuple[float, float] | None
    side: str
    distance_in_standard_errors: float | None
    is_close: bool


def tree_path(
    question: str,
    structure: Structure,
    thresholds: Sequence[float] | np.ndarray,
    intervals: np.ndarray | None,
    values: dict[str, float],
    errors: dict[str, float | None],
) -> tuple[list[EvidenceStep], str]:
    """Return the questions that a model passes in a tree, from the root to the leaf, and the class of that leaf.

    Args:
        question: the task that the tree answers.
        structure, thresholds: the tree; `intervals` (nodes, 2) are the ends of its thresholds' intervals, or None.
        values, errors: the model's features and their standard errors, by name.
    """
    steps, node = [], 0
    while isinstance(node, int):
        name, threshold = structure.nodes[node].feature, float(thresholds[node])
        value, error = float(values[name]), errors.get(name)
        above = value > threshold
        interval = None if intervals is None else (float(intervals[node][0]), float(intervals[node][1]))
        distance = (value - threshold) / error if error else None
        close = bool(interval and interval[0] <= value <= interval[1]) or bool(distance and abs(distance) < 2)
        steps.append(
            EvidenceStep(
                question,
                name,
                _unit(name),
                value,
                error,
                threshold,
                interval,
                "above" if above else "at_most",
                distance,
                close,
            )
        )
        node = structure.children(node)[int(above)]
    return steps, node


def feature_error(name: str, metrics: Mapping[str, float], errors: Mapping[str, float | None]) -> float | None:
    """Return the standard error of a feature from those of its source columns, assumed to be independent."""
    if name not in DERIVED:
        return errors.get(name)
    needed, formula = DERIVED[name]
    centre = np.array([metrics[source] for source in needed], dtype=float)
    moved = [centre + np.eye(len(needed))[i] * error for i, s in enumerate(needed) if (error := errors.get(s))]
    changes = [float(formula(*point) - formula(*centre)) for point in moved]
    return float(np.sqrt(np.sum(np.square(changes)))) if changes else None


def _unit(name: str) -> str:
    entry = MEASUREMENTS.get(name) or COLUMN.get(name)
    return entry.unit if entry else ""
