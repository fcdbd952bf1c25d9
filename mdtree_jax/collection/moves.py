"""The axes of a collection, and the moves along them: which knobs vary, which way mends which cause.

An axis is a registered knob (`mdtree_jax.registry.knobs`) that varies in the table; width, batch size and data fraction
count wherever they stand in it. A knob without an order (optimizer, schedule) is an axis too: configurations are
compared at equal values of it, and it has no move.

A knob that only follows others is no axis of its own: the learning rate of a grid that scales it with the batch size,
say. Two rules find it. (1) Where at least two of width, batch size and data fraction vary, tell all rows apart and fill
half of their combinations, nothing else is an axis. (2) A knob follows an axis if it is the same in all rows with an
equal value of that axis, and either there are two rows a value on average, or it rises or falls with the axis
throughout, over `LEAST_VALUES` values at least: by chance one in sixty random searches of that size would.
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
#: Moves whose column of room for improvement does not say the way, because there is one only.
_NAMED = {("width", 1): "rfi_width", ("data_fraction", 1): "rfi_data"}


class Move(NamedTuple):
    """A way to turn a knob: its name, and +1 for a larger value, -1 for a smaller one.

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
        """The cause that the move mends, None for none."""
        return getattr(KNOBS[self.knob], self.way)

    @property
    def rfi(self) -> str:
        """The column of the room for improvement that way."""
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
    """Return the axes that `load_collection` has noted, of which `frame` may be a part, else those of `frame`."""
    noted = frame.attrs.get("axes")
    return axes_of(frame) if noted is None or not set(noted) <= set(frame.columns) else tuple(noted)


def varying_knobs(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the knobs of a table that have more than one value."""
    return tuple(name for name in KNOBS if name in frame and frame[name].nunique() > 1)


def _fills(frame: pd.DataFrame, axes: Sequence[str]) -> bool:
    """Return whether at least two axes tell all rows apart and half of the combinations of their values are there."""
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
    """Return the moves along axes that mend a cause, in the order of the causes, then of the axes.

    >>> [move.rfi for move in moves_of(AXES)]
    ['rfi_batch_down', 'rfi_batch_up', 'rfi_width', 'rfi_data']
    """
    moves = [Move(axis, sign) for axis in axes if KNOBS[axis].has_order for sign in (-1, +1)]
    order = {name: place for place, name in enumerate(CAUSES)}
    mending = [(order[CAUSES.find(cause).name], move) for move in moves if (cause := move.cause) is not None]
    return tuple(move for _, move in sorted(mending, key=lambda pair: pair[0]))


def causes_of_moves(moves: Sequence[Move]) -> tuple[str, ...]:
    """Return the causes that moves mend, each once, and `none` as the last.

    >>> causes_of_moves(moves_of(AXES))
    ('temperature_too_low', 'temperature_too_high', 'model_too_small', 'too_little_data', 'none')
    """
    return (*dict.fromkeys(cause for move in moves if (cause := move.cause) is not None), NONE)


def knobs_of_moves(moves: Sequence[Move]) -> tuple[str, ...]:
    """Return the knobs of moves, each once.

    >>> knobs_of_moves(moves_of(AXES))
    ('batch_size', 'width', 'data_fraction')
    """
    return tuple(dict.fromkeys(move.knob for move in moves))


def cell_axes(axes: Sequence[str]) -> tuple[str, ...]:
    """Return the axes that make up a cell: all but the knobs of temperature, the classic ones data fraction first.

    >>> cell_axes(("width", "batch_size", "data_fraction", "learning_rate", "weight_decay"))
    ('data_fraction', 'width', 'weight_decay')
    """
    classic = [name for name in ("data_fraction", "width") if name in axes]
    return (*classic, *(name for name in axes if name not in classic and not KNOBS[name].temperature))
