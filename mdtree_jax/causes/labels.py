"""The causes of the joint question, the step that addresses each of them, and the labels computed from a grid.

A cause is addressed by moves: changes of a knob in one direction. `none` means that no move helps. Several moves can
address the same cause, for example a smaller batch and a larger learning rate; the gain of its remedy is the largest of
their gains. The causes follow from the knobs that a collection varies (`Grid.causes`); for width, batch size and data
fraction they are `CAUSES`. There are two labels for the cause of a configuration:

- `step` (the default): the cause whose **step of about x2** (the first of `Knob.steps`) gains most test accuracy, or
  `none` if every step gains less than `LEAST_GAIN` = 1 point. A step leads to the grid value ahead whose logarithm is
  nearest to that of the doubled (halved) value; of two at equal distance, to the one closer to the start. Steps are:
  batch size halved or doubled, data doubled, width doubled (one or two width steps on the published grid). At the edge
  of the grid there is no step and no gain; a move at its edge is ignored if another move addresses the cause.
- `room`: the cause with the largest room for improvement over the whole half-axis, or `none` if all are below
  `LEAST_GAIN`.

Exact ties go to the first cause in order; a step to a missing configuration does not count.

Temperature is the noise of the optimizer: a smaller batch or a larger learning rate raises it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.collection.grid import Grid, room_for_improvement
from mdtree_jax.collection.lines import first_step
from mdtree_jax.collection.moves import AXES, Move, causes_of_moves, moves_of

#: Points of test accuracy that a change must gain to be worth naming.
LEAST_GAIN = 1.0
LABELS = ("step", "room")
#: The causes of a collection over width, batch size and data fraction.
CAUSES = causes_of_moves(moves_of(AXES))


def step_gain(grid: Grid, move: Move) -> np.ndarray:
    """Return the signed gain in points of a move's first step, (rows,).

    0 at the edge, NaN if the configuration that the step leads to is missing.
    """
    return np.where(grid.edge(move), 0.0, grid.step_gain(move, first_step(move.knob)))


def gains(grid: Grid, label: str = "step", causes: Sequence[str] | None = None) -> np.ndarray:
    """Return the gain of each cause's remedy for each row of the collection, (rows, causes), in points.

    `step`: signed gain of a step of about x2; `room`: RFI, at least 0. The gain is the largest over the moves that
    address the cause, ignoring unknown gains and moves at the edge; 0 if all moves are at the edge. Columns follow
    `causes` without `none`; None uses the causes of the grid.

    Raises:
        UserError: an unknown label, or a grid without a move that addresses a cause.
    """
    check_choice("label", label, LABELS)
    if not grid.moves:
        raise UserError(
            f"a collection over {', '.join(grid.axes)} cannot identify any cause: none of these settings has one"
        )
    gain = step_gain if label == "step" else room_for_improvement
    columns = []
    for cause in (grid.causes if causes is None else tuple(causes))[:-1]:
        moves = grid.moves_against(cause)
        edges = np.array([grid.edge(move) for move in moves])
        found = np.where(edges, np.nan, [gain(grid, move) for move in moves])
        columns.append(np.where(edges.all(axis=0), 0.0, np.fmax.reduce(found)))
    return np.stack(columns, axis=1)


def causes_of(gained: np.ndarray) -> np.ndarray:
    """Return the index of each row's cause, (rows,), from gains (rows, causes); NaN counts as no gain.

    The index after the last column means `none`.

    >>> causes_of(np.array([[0.2, 3.0, 3.0, -1.0], [0.9, -5.0, np.nan, 0.0]])).tolist()
    [1, 4]
    """
    filled = np.where(np.isfinite(gained), gained, -np.inf)
    return np.where(filled.max(axis=1) < LEAST_GAIN, gained.shape[1], filled.argmax(axis=1))


def cause_labels(grid: Grid, label: str = "step") -> pd.Series:
    """Return each row's cause by name."""
    return pd.Series(np.array(grid.causes)[causes_of(gains(grid, label))], name=f"label_joint_{label}")


def shared_causes(grids: Sequence[Grid]) -> tuple[str, ...]:
    """Return the causes that all of the grids can identify, in order, `none` last."""
    first, *others = grids
    return tuple(cause for cause in first.causes if all(cause in grid.causes for grid in others))
