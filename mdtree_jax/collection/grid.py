"""A collection as a grid over width, batch size and data fraction; room for improvement; labels.

Everything here follows from the table of test errors (one row per configuration, no coordinate twice).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.collection.columns import missing_columns, missing_message, numeric_column
from mdtree_jax.collection.tasks import OPTIMAL
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.questions import QUESTIONS

AXES = ("width", "batch_size", "data_fraction")
#: What a sweep can vary beside them.
OTHER_AXES = ("learning_rate", "weight_decay", "train_epochs")


class Grid(NamedTuple):
    """A collection laid out on its axes.

    `values[axis]` are the sorted coordinates of an axis, `index` (rows, 3) is each row's place on the three axes,
    `test_error` (n_width, n_batch_size, n_data_fraction) is in percent, NaN where a cell is missing.
    """

    values: dict[str, np.ndarray]
    index: np.ndarray
    test_error: np.ndarray

    def at_rows(self, cube: np.ndarray) -> np.ndarray:
        """Return the cube's value at each row of the collection, shape (rows,)."""
        return cube[tuple(self.index.T)]


class Direction(NamedTuple):
    """A way to move on the grid: an axis and a sign; `rfi` is the column of its room for improvement."""

    axis: str
    sign: int
    rfi: str

    @property
    def cause(self) -> str | None:
        """The cause that the move mends; None if it mends none."""
        knob = KNOBS[self.axis]
        return knob.up if self.sign > 0 else knob.down


BATCH_DOWN = Direction("batch_size", -1, "rfi_batch_down")
BATCH_UP = Direction("batch_size", +1, "rfi_batch_up")
WIDER = Direction("width", +1, "rfi_width")
MORE_DATA = Direction("data_fraction", +1, "rfi_data")
DIRECTIONS = (BATCH_DOWN, BATCH_UP, WIDER, MORE_DATA)


def make_grid(frame: pd.DataFrame, *, allow_missing: bool = False) -> Grid:
    """Lay a collection (descriptive names) out on its grid.

    Raises:
        UserError: a coordinate or the test error is missing; a configuration stands twice; cells of the grid have no
            row and `allow_missing` is false.
    """
    absent = missing_columns(frame, [*AXES, "test_error"])
    if absent:
        raise UserError(missing_message(frame, absent, why=", without which no grid and no label can be made"))
    if not len(frame):
        raise UserError("the collection has no rows; a grid needs at least one configuration")
    values, columns = {}, []
    for axis in AXES:
        values[axis], places = np.unique(numeric_column(frame, axis), return_inverse=True)
        columns.append(places)
    index = np.stack(columns, axis=1)
    shape = tuple(len(values[axis]) for axis in AXES)
    _check_unique(frame, np.ravel_multi_index(columns, shape))
    test_error = np.full(shape, np.nan)
    test_error[tuple(columns)] = numeric_column(frame, "test_error")
    holes = np.argwhere(np.isnan(test_error))
    if len(holes) and not allow_missing:
        named = "; ".join(_cell_name(values, hole) for hole in holes[:3])
        more = f" and {len(holes) - 3} more" if len(holes) > 3 else ""
        raise UserError(
            f"the grid of {' x '.join(map(str, shape))} = {test_error.size} configurations lacks {len(holes)}: {named}"
            f"{more}; add these rows, or go on without them by allow_missing=true"
        )
    return Grid(values, index, test_error)


def _cell_name(values: dict[str, np.ndarray], cell: np.ndarray) -> str:
    return ", ".join(f"{axis}={values[axis][i]:g}" for axis, i in zip(AXES, cell, strict=True))


def _check_unique(frame: pd.DataFrame, flat: np.ndarray) -> None:
    order = np.argsort(flat, kind="stable")
    same = np.flatnonzero(flat[order][1:] == flat[order][:-1])
    if len(same):
        first, second = int(order[same[0]]), int(order[same[0] + 1])
        cell = ", ".join(f"{axis}={frame[axis].iloc[first]:g}" for axis in AXES)
        differing = [
            f"{name} is {frame[name].iloc[first]:g} and {frame[name].iloc[second]:g}"
            for name in OTHER_AXES
            if name in frame and frame[name].iloc[first] != frame[name].iloc[second]
        ]
        if differing:
            raise UserError(
                f"the configuration {cell} stands twice, in rows {first + 1} and {second + 1}, where "
                f"{' and '.join(differing)}; trees are fitted over {', '.join(AXES)}, so keep the rows of one value"
            )
        raise UserError(
            f"the configuration {cell} stands twice, in rows {first + 1} and {second + 1}; a collection holds one row "
            "per configuration (average over seeds first)"
        )


def best_in_direction(grid: Grid, direction: Direction, *, exclude_self: bool = False) -> np.ndarray:
    """Return the lowest test error along each cell's half-axis, in the shape of the grid.

    The cell itself counts unless `exclude_self`; NaN where nothing lies in that direction.
    """
    axis = AXES.index(direction.axis)
    # Running minimum from the far end of the half-axis towards the cell.
    errors = np.flip(grid.test_error, axis) if direction.sign > 0 else grid.test_error
    best = np.fmin.accumulate(errors, axis=axis)
    if exclude_self:
        nothing = np.full_like(np.take(best, [0], axis), np.nan)
        best = np.concatenate([nothing, np.delete(best, -1, axis)], axis)
    return np.flip(best, axis) if direction.sign > 0 else best


def room_for_improvement(grid: Grid, direction: Direction) -> np.ndarray:
    """Return RFI in points of test accuracy, in the shape of the grid: >= 0, NaN in missing cells.

    RFI is the best test accuracy along the half-axis, the cell included, minus the cell's own (Zhou et al., 2024).
    """
    return grid.test_error - best_in_direction(grid, direction)


def compute_labels(grid: Grid) -> pd.DataFrame:
    """Return RFI and labels, one row per row of the collection.

    Columns: rfi_batch_down, rfi_batch_up, rfi_width, rfi_data (points), and the label of every question whose answers
    both name a cause that a move on the grid mends: the answer whose moves have the larger room for improvement,
    'optimal' where the two are equal.
    """
    room = {d.rfi: grid.at_rows(room_for_improvement(grid, d)) for d in DIRECTIONS}
    labels = {}
    for question in QUESTIONS.values():
        moves = [[d.rfi for d in DIRECTIONS if d.cause in answer.causes] for answer in question.answers]
        if not all(moves):
            continue
        first, second = (np.maximum.reduce([room[name] for name in names]) for names in moves)
        a, b = question.classes
        labels[question.label] = np.where(first > second, a, np.where(first < second, b, OPTIMAL))
    return pd.DataFrame(room | labels)


def with_labels(frame: pd.DataFrame, *, allow_missing: bool = False) -> pd.DataFrame:
    """Return the collection with RFI and labels computed from its grid in place of whatever it held.

    Raises:
        UserError: as `make_grid`.
    """
    computed = compute_labels(make_grid(frame, allow_missing=allow_missing)).set_axis(frame.index)
    out = frame.assign(**computed)
    out.attrs.update(frame.attrs)
    return out


def cells_of(frame: pd.DataFrame) -> np.ndarray:
    """Return the (data, width) cell of each row as a number, (rows,)."""
    return pd.factorize(pd.MultiIndex.from_frame(frame[["data_fraction", "width"]]))[0]
