"""The five causes of the joint question, the step that each of them asks for, and which of them a grid says it was.

A cause is a knob and a way to turn it; `none` is that no knob helps. Two labels say which cause a configuration has:

- `step` (the default): the knob whose **step of about x2** gains most in test accuracy, `none` where every step gains
  less than `LEAST_GAIN` = 1 point. A step goes to the grid value ahead whose logarithm is nearest to that of the
  doubled (halved) value, the nearer one of two that are equally far: batch halved or doubled, one doubling of data,
  twice the width (one or two width steps on the published grid). At the edge of the grid there is no step and no gain.
- `room`: the knob with the largest room for improvement over the whole half-axis, `none` where all have less than
  `LEAST_GAIN`.

Exact ties go to the first cause in the order of `CAUSES`; a step to a missing configuration is no step.

Temperature is the noise of the optimizer: it is raised by a smaller batch or a larger learning rate. The collections
vary the batch size only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import check_choice
from mdtree_jax.collection.grid import (
    AXES,
    BATCH_DOWN,
    BATCH_UP,
    DIRECTIONS,
    MORE_DATA,
    WIDER,
    Direction,
    Grid,
    room_for_improvement,
)

#: Points of test accuracy that a change must gain to be worth naming.
LEAST_GAIN = 1.0
NONE = "none"
LABELS = ("step", "room")


class Cause(NamedTuple):
    """One cause: `direction` is the move on the grid that mends it, None for `none`; `sentence` says it to people."""

    name: str
    direction: Direction | None
    sentence: str


CAUSE = {
    cause.name: cause
    for cause in (
        Cause("temperature_too_low", BATCH_DOWN, "it was trained too cold: too little noise in the optimizer"),
        Cause("temperature_too_high", BATCH_UP, "it was trained too hot: too much noise in the optimizer"),
        Cause("model_too_small", WIDER, "the model is too small for its data"),
        Cause("too_little_data", MORE_DATA, "there is too little training data"),
        Cause(NONE, None, "no step of batch size, width or data gains a point, as far as the reference reaches"),
    )
}
CAUSES = tuple(CAUSE)


def step_targets(values: np.ndarray, direction: Direction, doublings: float = 1.0) -> np.ndarray:
    """Return, for each of the ascending coordinates, the place of the one that a step of about x2 leads to.

    At the edge it is the place itself. `doublings` = 2 is a step of about x4.

    >>> step_targets(np.array([16.0, 24, 32, 44, 64]), BATCH_DOWN).tolist()
    [0, 0, 0, 1, 2]
    >>> step_targets(np.array([0.2, 0.4, 0.5, 0.9, 1.0]), MORE_DATA).tolist()
    [1, 3, 4, 4, 4]
    """
    places = np.arange(len(values))
    distance = np.abs(np.log2(values)[None, :] - np.log2(values)[:, None] - direction.sign * doublings)
    ahead = (places[None, :] - places[:, None]) * direction.sign > 0
    # Whoever is nearer wins a tie: argmin takes the first, so places are ordered by how far they lead.
    order = places if direction.sign > 0 else places[::-1]
    best = order[np.where(ahead, np.round(distance, 9), np.inf)[:, order].argmin(axis=1)]
    return np.where(ahead.any(axis=1), best, places)


def step_gain(grid: Grid, direction: Direction) -> np.ndarray:
    """Return the signed gain in points of a step of about x2, in the shape of the grid.

    0 at the edge, NaN where the configuration or the one that the step leads to is missing.
    """
    axis = AXES.index(direction.axis)
    target = step_targets(grid.values[direction.axis], direction)
    return grid.test_error - np.take(grid.test_error, target, axis=axis)


def gains(grid: Grid, label: str = "step") -> np.ndarray:
    """Return what each cause's remedy would gain at each row of the collection, (rows, 4), points.

    `step`: signed gain of a step of about x2; `room`: RFI, at least 0. Columns as the first four of `CAUSES`.
    """
    check_choice("label", label, LABELS)
    gain = step_gain if label == "step" else room_for_improvement
    return np.stack([grid.at_rows(gain(grid, direction)) for direction in DIRECTIONS], axis=1)


def causes_of(gained: np.ndarray) -> np.ndarray:
    """Return each row's cause as its place in `CAUSES`, (rows,), from gains (rows, 4); NaN counts as no gain.

    >>> causes_of(np.array([[0.2, 3.0, 3.0, -1.0], [0.9, -5.0, np.nan, 0.0]])).tolist()
    [1, 4]
    """
    filled = np.where(np.isfinite(gained), gained, -np.inf)
    return np.where(filled.max(axis=1) < LEAST_GAIN, CAUSES.index(NONE), filled.argmax(axis=1))


def cause_labels(grid: Grid, label: str = "step") -> pd.Series:
    """Return each row's cause by name."""
    return pd.Series(np.array(CAUSES)[causes_of(gains(grid, label))], name=f"label_joint_{label}")
