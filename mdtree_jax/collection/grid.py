"""A collection on its axes; room for improvement; labels.

Everything here is computed from a table of test errors with one row per configuration. Only existing rows are stored,
never the product of all values, so that memory is proportional to the number of rows for a lattice, complete or not,
and for a random search. `mdtree_jax.collection.lines` finds the rows ahead of a row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.collection.columns import missing_columns, missing_message, numeric_column
from mdtree_jax.collection.lines import Lines, NearLines, lines_along
from mdtree_jax.collection.moves import AXES, Move, axes_of, causes_of_moves, cell_axes, moves_of, noted_axes
from mdtree_jax.collection.tasks import OPTIMAL, TASKS
from mdtree_jax.registry.knobs import KNOBS


@dataclass(frozen=True, eq=False)
class Grid:
    """A collection laid out on its axes.

    `axes` are knobs; `values[axis]` holds the sorted coordinates of an axis, and `index` (rows, axes) the indices of
    each row on them; `test_error` (rows,) is in percent; `lines[axis]` finds rows ahead, for ordered axes.
    """

    axes: tuple[str, ...]
    values: dict[str, np.ndarray]
    index: np.ndarray
    test_error: np.ndarray
    lines: Mapping[str, Lines | NearLines]

    @property
    def moves(self) -> tuple[Move, ...]:
        """The moves that address a cause, along the axes that vary.

        A collection over the three classic axes only has all their moves, as published: a move along an axis that does
        not vary gains nothing.
        """
        return moves_of(self.axes if self.axes == AXES else [axis for axis in self.axes if self.varies(axis)])

    @property
    def causes(self) -> tuple[str, ...]:
        """The causes that the moves address, followed by `none`."""
        return causes_of_moves(self.moves)

    @property
    def near(self) -> tuple[str, ...]:
        """The axes along which near rows replace exact lines, () for a lattice."""
        return tuple(axis for axis, lines in self.lines.items() if isinstance(lines, NearLines))

    def varies(self, knob: str) -> bool:
        """Return whether the knob is an axis with more than one value."""
        return knob in self.values and len(self.values[knob]) > 1

    def moves_against(self, cause: str) -> list[Move]:
        """Return the moves that address a cause."""
        return [move for move in self.moves if move.cause == cause]

    def edge(self, move: Move) -> np.ndarray:
        """Return the mask of the rows with no other row ahead, (rows,) bool."""
        return self.lines[move.knob].edge(move.sign)

    def best_ahead(self, move: Move) -> np.ndarray:
        """Return the lowest test error strictly ahead of each row, (rows,), NaN if there is none."""
        return self.lines[move.knob].best_ahead(self.test_error, move.sign)

    def gain(self, target: np.ndarray) -> np.ndarray:
        """Return the signed gain in points of going to the rows `target` (rows,), NaN where it is -1."""
        return np.where(target >= 0, self.test_error - self.test_error[target], np.nan)

    def step_gain(self, move: Move, doublings: float | None, within: float | None = None) -> np.ndarray:
        """Return the signed gain in points of a step of about 2**doublings, None to the next value, (rows,).

        NaN at the edge, if the configuration is missing, and if none lies within `within` doublings of that step.
        """
        return self.gain(self.lines[move.knob].step(move.sign, doublings, within))


def make_grid(frame: pd.DataFrame, *, allow_missing: bool = False) -> Grid:
    """Lay a collection (descriptive names) out on its axes.

    Raises:
        UserError: the table has no knob or no test error, or one is not a finite number; a configuration is duplicated;
            configurations of a lattice are missing and `allow_missing` is false (a random search lacks none).
    """
    axes, knobs = axes_of(frame), [name for name in KNOBS if name in frame]
    if knobs and len(frame) and not axes:
        raise UserError(
            f"{', '.join(knobs)} of the table has only one value, so there are no configurations to compare"
        )
    absent = missing_columns(frame, [*([] if axes else AXES), "test_error"])
    if absent:
        raise UserError(missing_message(frame, absent, why=", which grids and labels need"))
    if not len(frame):
        raise UserError("the collection has no rows; a grid needs at least one configuration")
    values, columns = {}, []
    for axis in axes:
        known = numeric_column(frame, axis) if KNOBS[axis].has_order else frame[axis].astype(str).to_numpy()
        values[axis], places = np.unique(known, return_inverse=True)
        columns.append(places)
    index = np.stack(columns, axis=1)
    _check_unique(frame, axes, index)
    lines = {axis: lines_along(i, axes, values, index) for i, axis in enumerate(axes) if KNOBS[axis].has_order}
    grid = Grid(axes, values, index, numeric_column(frame, "test_error"), lines)
    if not allow_missing and (lacking := missing_configurations(grid)):
        _refuse_holes(grid, lacking)
    return grid


def missing_configurations(grid: Grid) -> int:
    """Return the number of missing configurations of a lattice, 0 for another collection."""
    return 0 if grid.near else sum(map(math.prod, _shapes(grid))) - len(grid.index)


def _shapes(grid: Grid) -> list[tuple[int, ...]]:
    """Return how many values a lattice's axes with an order have, for each group of equal values of the others."""
    exact = [lines for lines in grid.lines.values() if isinstance(lines, Lines)]  # all of them are
    counts = [[len(values) for values in lines.coordinates()] for lines in exact]
    return list(zip(*counts, strict=True)) if counts else [(1,)] * len(grid.index)


def _refuse_holes(grid: Grid, lacking: int) -> None:
    shapes = _shapes(grid)
    size = sum(map(math.prod, shapes))
    names = [_cell_name(grid, cell) for cell in itertools.islice(_holes(grid), 3)]
    more = f" and {lacking - 3} more" if lacking > 3 else ""
    shape = " + ".join(" x ".join(map(str, shape)) for shape in shapes)
    raise UserError(
        f"the grid of {shape} = {size} configurations lacks {lacking}: {'; '.join(names)}"
        f"{more}; add these rows, or set allow_missing=true"
    )


def _holes(grid: Grid) -> Iterator[tuple[int, ...]]:
    """Yield the cells without a row, as places on the axes; at most as many steps a hole as there are rows."""
    filled = set(map(tuple, grid.index.tolist()))
    free = [i for i, axis in enumerate(grid.axes) if not KNOBS[axis].has_order]
    for group in np.unique(grid.index[:, free], axis=0):
        rows = grid.index[(grid.index[:, free] == group).all(axis=1)]
        for cell in itertools.product(*(np.unique(column).tolist() for column in rows.T)):
            if cell not in filled:
                yield cell


def _cell_name(grid: Grid, cell: Sequence[int]) -> str:
    return ", ".join(_coordinate(axis, grid.values[axis][i]) for axis, i in zip(grid.axes, cell, strict=True))


def _coordinate(axis: str, value: object) -> str:
    return f"{axis}={value:g}" if KNOBS[axis].has_order else f"{axis}={value}"


def _check_unique(frame: pd.DataFrame, axes: Sequence[str], index: np.ndarray) -> None:
    order = np.lexsort(index.T[::-1])
    same = np.flatnonzero((index[order][1:] == index[order][:-1]).all(axis=1))
    if not len(same):
        return
    first, second = int(order[same[0]]), int(order[same[0] + 1])
    cell = ", ".join(_coordinate(axis, frame[axis].iloc[first]) for axis in axes)
    lacking = [axis for axis in AXES if axis not in axes]
    told = f", or a column that distinguishes them is missing: {missing_message(frame, lacking)}" if lacking else ""
    raise UserError(
        f"the configuration {cell} stands twice, in rows {first + 1} and {second + 1}; a collection holds one row "
        f"per configuration (average over seeds first){told}"
    )


def room_for_improvement(grid: Grid, move: Move) -> np.ndarray:
    """Return RFI in points of test accuracy, (rows,), at least 0.

    RFI is the best test accuracy along the half-axis, including the row's own, minus its own; 0 at the edge. If near
    rows replace lines, it is NaN for a row that is not at the edge and has no row ahead.
    """
    best = grid.best_ahead(move)
    room = grid.test_error - np.fmin(grid.test_error, best)
    if move.knob in grid.near:
        room[np.isnan(best) & ~grid.edge(move)] = np.nan
    return room


def compare(
    grid: Grid, room: Mapping[Move, np.ndarray], groups: Sequence[Sequence[str]], names: Sequence[str]
) -> np.ndarray:
    """Return which of two groups of causes has more room for improvement at each row, (rows,), as its name.

    The room of a group is the largest known one over the moves that address one of its causes.

    Args:
        grid: the collection.
        room: room for improvement of every move of the grid, (rows,), in points.
        groups: two groups of causes.
        names: of the groups.

    Returns:
        The name of the group with more room, `optimal` if both have the same, NaN if the room of a group is unknown:
        for all rows, if no move of the grid addresses one of its causes.
    """
    known = [[room[move] for move in grid.moves if move.cause in group] for group in groups]
    if not all(known):
        return np.full(len(grid.index), np.nan, dtype=object)
    first, second = (np.fmax.reduce(rooms) for rooms in known)
    label = np.where(first > second, names[0], np.where(first < second, names[1], OPTIMAL))
    unknown = np.isnan(first) | np.isnan(second)
    return np.where(unknown, np.nan, label.astype(object)) if unknown.any() else label


def compute_labels(grid: Grid) -> pd.DataFrame:
    """Return RFI and labels, one row per row of the collection.

    Columns: one for every move (rfi_batch_down, rfi_batch_up, rfi_width, rfi_data in a classic collection), in points,
    and the label of every question whose answers both name causes. A row with two equal rooms is 'optimal'.
    """
    room = {move: room_for_improvement(grid, move) for move in grid.moves}
    asked = [task for task in TASKS.values() if task.is_compared]
    labels = {task.label: compare(grid, room, task.groups, task.classes) for task in asked}
    return pd.DataFrame({move.rfi: values for move, values in room.items()} | labels)


def with_labels(frame: pd.DataFrame, *, allow_missing: bool = False) -> pd.DataFrame:
    """Return the collection with RFI and labels recomputed from its grid.

    Raises:
        UserError: as `make_grid`.
    """
    computed = compute_labels(make_grid(frame, allow_missing=allow_missing)).set_axis(frame.index)
    out = frame.assign(**{str(name): computed[name] for name in computed})
    out.attrs.update(frame.attrs)
    return out


def cells_of(frame: pd.DataFrame, axes: Sequence[str] | None = None) -> np.ndarray:
    """Return the cell of each row as a number, (rows,): rows that differ only in temperature knobs share a cell.

    `axes` are those of the whole collection; None uses those noted by `load_collection`, or else those of `frame`.
    """
    names = list(cell_axes(noted_axes(frame) if axes is None else axes))
    if not names:
        return np.zeros(len(frame), dtype=int)
    return pd.factorize(pd.MultiIndex.from_frame(frame[names]))[0]
