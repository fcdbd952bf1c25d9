"""The axes of a collection, and the moves along them: which knobs vary, and which direction addresses which cause.

An axis is a registered knob (`mdtree_jax.registry.knobs`) that varies in the table; width, batch size and data fraction
are axes whenever they are columns. An unordered knob (optimizer, schedule) is also an axis: configurations are compared
at equal values of it, but it has no moves.

A knob that is determined by others does not count as an axis, for example a learning rate that is scaled with the batch
size. Two rules detect this. (1) If at least two of width, batch size and data fraction vary, identify all rows uniquely
and cover half of their combinations, nothing else is an axis. (2) A knob follows an axis if it is equal in all rows
with the same value of that axis, and either there are two rows per value on average, or it is monotonic in the axis
over at least `LEAST_VALUES` values; by chance, this holds in one of sixty random searches of that size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from mdtree_jax.registry.causes import CAUSES, NONE
from mdtree_jax.registry.knobs import KNOBS

#: The knobs of the published collections: axes wherever they are in a table.
AXES = ("width", "batch_size", "data_fraction")
LEAST_VALUES = 5
#: Moves whose column of room for improvement does not name a direction, because there is only one.
_NAMED = {("width", 1): "rfi_width", ("data_fraction", 1): "rfi_data"}


class Move(NamedTuple):
    """A change of a knob in one direction: its name, and +1 for a larger value, -1 for a smaller one.

    >>> move = Move("learning_rate", +1)
    >>> move.way, move.rfi, move.cause
    ('up', 'rfi_learning_rate_up', 'temperature_too_low')
    """

    knob: str
    sign: int

    @property
    def way(self) -> str:
        """`up` or `down`."""
        return "up" if self.sign > 0 else "down"

    @property
    def cause(self) -> str | None:
        """The cause that the move addresses, None if there is none."""
        return getattr(KNOBS[self.knob], self.way)

    @property
    def rfi(self) -> str:
        """The column of the room for improvement in this direction."""
        return _NAMED.get(self, f"rfi_{KNOBS[self.knob].short}_{self.way}")


def axes_of(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the axes of a table, in the order of the knobs' table; see the module for the rules.

    >>> axes_of(pd.DataFrame({"batch_size": [32, 32], "learning_rate": [0.1, 0.2], "weight_decay": [0.0, 0.0]}))
    ('batch_size', 'learning_rate')
    """
    varying = varying_knobs(frame)
    axes = [name for name in AXES if name in frame]
    if len(varying) == len(set(varying) & set(AXES)) or _fills(frame, [name for name in axes if name in varying]):
        return tuple(axes)
    for name in varying:
        if name not in axes and not any(_follows(frame, name, axis) for axis in axes):
            axes.append(name)
    return tuple(name for name in KNOBS if name in axes)


def noted_axes(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the axes noted by `load_collection`, which `frame` may be a part of, or else those of `frame`."""
    noted = frame.attrs.get("axes")
    return axes_of(frame) if noted is None or not set(noted) <= set(frame.columns) else tuple(noted)


def varying_knobs(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the knobs of a table that have more than one value."""
    return tuple(name for name in KNOBS if name in frame and frame[name].nunique() > 1)


def _fills(frame: pd.DataFrame, axes: Sequence[str]) -> bool:
    """Return whether at least two axes identify all rows and cover half of the combinations of their values."""
    if len(axes) < 2 or frame.duplicated(list(axes)).any():
        return False
    return math.prod(frame[axis].nunique() for axis in axes) <= 2 * len(frame)


def _follows(frame: pd.DataFrame, name: str, axis: str) -> bool:
    """Return whether a knob follows an axis, by rule (2) of the module."""
    groups = frame.groupby(axis)[name]
    if (groups.nunique() > 1).any():
        return False
    if 2 * groups.ngroups <= len(frame):
        return True
    if groups.ngroups < LEAST_VALUES or not (KNOBS[name].has_order and KNOBS[axis].has_order):
        return False
    values = groups.first()  # by the axis's value
    return values.is_monotonic_increasing or values.is_monotonic_decreasing


def moves_of(axes: Sequence[str]) -> tuple[Move, ...]:
    """Return the moves along axes that address a cause, in the order of the causes, then of the axes.

    >>> [move.rfi for move in moves_of(AXES)]
    ['rfi_batch_down', 'rfi_batch_up', 'rfi_width', 'rfi_data']
    """
    moves = [Move(axis, sign) for axis in axes if KNOBS[axis].has_order for sign in (-1, +1)]
    order = {name: place for place, name in enumerate(CAUSES)}
    mending = [(order[CAUSES.find(cause).name], move) for move in moves if (cause := move.cause) is not None]
    return tuple(move for _, move in sorted(mending, key=lambda pair: pair[0]))


def causes_of_moves(moves: Sequence[Move]) -> tuple[str, ...]:
    """Return the causes that moves address, without duplicates, followed by `none`.

    >>> causes_of_moves(moves_of(AXES))
    ('temperature_too_low', 'temperature_too_high', 'model_too_small', 'too_little_data', 'none')
    """
    return (*dict.fromkeys(cause for move in moves if (cause := move.cause) is not None), NONE)


def knobs_of_moves(moves: Sequence[Move]) -> tuple[str, ...]:
    """Return the knobs of moves, without duplicates.

    >>> knobs_of_moves(moves_of(AXES))
    ('batch_size', 'width', 'data_fraction')
    """
    return tuple(dict.fromkeys(move.knob for move in moves))


def cell_axes(axes: Sequence[str]) -> tuple[str, ...]:
    """Return the axes that make up a cell: all but the temperature knobs, with data fraction first.

    >>> cell_axes(("width", "batch_size", "data_fraction", "learning_rate", "weight_decay"))
    ('data_fraction', 'width', 'weight_decay')
    """
    classic = [name for name in ("data_fraction", "width") if name in axes]
    return (*classic, *(name for name in axes if name not in classic and not KNOBS[name].temperature))
