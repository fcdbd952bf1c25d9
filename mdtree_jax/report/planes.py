"""The two knobs that a phase plot is drawn over, the third one that its rows of panels show, and the cells between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.collection.moves import noted_axes
from mdtree_jax.registry.knobs import KNOBS

#: Values of an axis at the most; of more the rows are put into bins of equal counts.
MOST_VALUES, _BINS, _PANELS = 24, 12, 3


class Axis(NamedTuple):
    """One axis of a plot: the knob, '' for none; each row's cell along it (rows,), -1 outside; the cells' names."""

    knob: str
    place: np.ndarray
    ticks: list[str]


class Plane(NamedTuple):
    """A plane through a collection: the axes of the plot and of its rows of panels, and what else is held fixed."""

    x: Axis
    y: Axis
    panel: Axis
    fixed: str

    def matrix(self, values: np.ndarray, panel: int) -> np.ndarray:
        """Return the mean of values (rows,) in each cell of a panel, (y, x), NaN where no row is."""
        here = (self.panel.place == panel) & (self.x.place >= 0) & (self.y.place >= 0) & np.isfinite(values)
        shape = (len(self.y.ticks), len(self.x.ticks))
        cell = np.ravel_multi_index((self.y.place[here], self.x.place[here]), shape)
        size = shape[0] * shape[1]
        count = np.bincount(cell, minlength=size).astype(float)
        count[count == 0] = np.nan
        return (np.bincount(cell, values[here], minlength=size) / count).reshape(shape)

    def commonest(self, codes: np.ndarray, number: int, panel: int) -> np.ndarray:
        """Return the commonest of `number` codes (rows,), -1 for none, in each cell of a panel, as `matrix`."""
        counts = [self.matrix(np.where(codes < 0, np.nan, codes == code), panel) for code in range(number)]
        known = np.isfinite(counts).all(axis=0)
        return np.where(known, np.argmax(np.nan_to_num(counts), axis=0), np.nan)


def make_plane(frame: pd.DataFrame, axes: Sequence[str] | None = None) -> Plane:
    """Return the plane of a collection's phase plots.

    Args:
        frame: a loaded collection.
        axes: the knobs along x and y; None is a knob of temperature, the batch size first, along x, and another knob
            along y, the width first. A third one that varies makes the rows of panels; of a lattice the plane goes
            through the middle values of the others, of a random search all rows are in it.

    Raises:
        UserError: `axes` are not two different axes with an order.
    """
    known = [axis for axis in noted_axes(frame) if KNOBS[axis].has_order]
    known.sort(key=lambda axis: frame[axis].nunique() <= 1)
    x, y = _chosen(known, axes)
    rest = [axis for axis in dict.fromkeys((*known, *noted_axes(frame))) if axis not in (x, y)]
    panel = rest[0] if rest else ""
    fixed, inside = [], np.ones(len(frame), dtype=bool)
    if not frame.attrs.get("near"):
        for axis in rest[1:]:
            values = np.unique(frame[axis])
            if len(values) > 1:
                middle = values[(len(values) - 1) // 2]
                inside &= (frame[axis] == middle).to_numpy()
                fixed.append(f"{axis_name(axis)} {_shown(middle)}")
    return Plane(
        _axis(frame, x, inside, MOST_VALUES, _BINS),
        _axis(frame, y, inside, MOST_VALUES, _BINS),
        _panels(_axis(frame, panel, inside, MOST_VALUES, _PANELS)),
        ", ".join(fixed),
    )


def _chosen(known: list[str], axes: Sequence[str] | None) -> tuple[str, str]:
    if axes is not None:
        names = [check_choice("axis", name, known) for name in axes]
        if len(names) != 2 or names[0] == names[1]:
            raise UserError(f"axes={list(axes)}: a phase plot has two different axes, of {', '.join(known)}")
        return names[0], names[1]
    x = next((axis for axis in known if KNOBS[axis].temperature), known[0] if known else "")
    others = [axis for axis in known if axis != x]
    return x, next((axis for axis in others if not KNOBS[axis].temperature), others[0] if others else "")


def _axis(frame: pd.DataFrame, knob: str, inside: np.ndarray, most: int, bins: int) -> Axis:
    if not knob:
        return Axis("", np.where(inside, 0, -1), [""])
    values, place = np.unique(frame[knob], return_inverse=True)
    if len(values) > most:
        edges = np.quantile(frame[knob], np.linspace(0, 1, bins + 1)[1:-1])
        place = np.searchsorted(edges, frame[knob], side="right")
        values = [np.median(frame[knob][place == i]) for i in range(bins)]
    return Axis(knob, np.where(inside, place, -1), [_shown(value) for value in values])


def _panels(axis: Axis) -> Axis:
    """Return the axis with its first, middle and last values alone."""
    last = len(axis.ticks) - 1
    kept = list(dict.fromkeys((0, last // 2, last)))
    place = np.full_like(axis.place, -1)
    for new, old in enumerate(kept):
        place[axis.place == old] = new
    return Axis(axis.knob, place, [axis.ticks[old] for old in kept])


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3g}" if value != round(value) else f"{value:g}"


def panel_name(axis: Axis, place: int) -> str:
    """Return what a row of panels shows, '' where there is one only, of no knob."""
    if axis.knob == "data_fraction":
        return f"{100 * float(axis.ticks[place]):g} % of the data"
    return f"{axis_name(axis.knob)} {axis.ticks[place]}" if axis.knob else ""


def axis_name(knob: str) -> str:
    """Return what people call an axis of a phase plot."""
    return KNOBS[knob].words.noun if knob else ""


def axis_label(knob: str) -> str:
    """Return the label of an axis: what people call the knob, and its unit."""
    unit = KNOBS[knob].unit if knob else "1"
    return axis_name(knob) + ("" if unit in ("1", "name") else f", {unit}")
