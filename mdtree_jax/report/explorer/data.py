"""What the explorer shows of a collection, as plain values for JSON: axes, columns, neighbours, labels.

Rows keep the order of the table. Numbers have six significant digits; a missing one is None.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.collection.columns import COLUMN, DERIVED, finite_rows_of, missing_columns
from mdtree_jax.collection.grid import Grid, make_grid
from mdtree_jax.collection.moves import Move
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.measurement_type import KEYS, RESERVED
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.registry.questions import label_columns
from mdtree_jax.report.explorer import fitted, learning_curves
from mdtree_jax.report.planes import axis_name

#: Values of an axis from which it is drawn as a continuous one: points, not cells.
CONTINUOUS = 41
_DIGITS = 6


def collection_data(
    frame: pd.DataFrame,
    *,
    fit: str = "published",
    diagnoses: bool = True,
    history: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Return what the page needs of one collection.

    Args:
        frame: as `load_collection` returns it.
        fit: how the thresholds of the trees are fitted, of `mdtree_jax.trees.classifier.FITS`.
        diagnoses: whether every row is diagnosed (3 s per 1690 rows on one core).
        history: of `learning_curves.find_history`, None without curves.

    Returns:
        name, size, notes, axes, settings (knobs with one value), measures, columns (name -> one value per row),
        neighbours (one entry per axis and way), questions (with their trees) and, where there are some, diagnosis and
        curves (by row).
    """
    grid = make_grid(frame, allow_missing=True)
    measures = _measures(frame)
    notes = list(frame.attrs.get("notes", []))
    data = {
        "name": frame.attrs.get("name", "collection"),
        "size": len(frame),
        "notes": notes,
        "axes": [_axis(grid, place) for place in range(len(grid.axes))],
        "settings": [
            [axis_name(knob), _plain(frame[knob].iloc[0]), _unit(KNOBS[knob].unit)]
            for knob in KNOBS
            if knob in frame and knob not in grid.axes and frame[knob].nunique() == 1
        ],
        "measures": measures,
        "columns": {name: values for measure in measures for name, values in _columns(frame, measure["name"])},
        "neighbours": [_neighbours(grid, Move(axis, sign)) for axis in grid.lines for sign in (-1, 1)],
        "questions": fitted.questions(frame, fit, notes.append),
    }
    if diagnoses:
        data["diagnosis"] = fitted.diagnoses(frame, notes.append)
    if history is not None:
        data["curves"] = learning_curves.curves(frame, list(grid.axes), history)
    return data


def numbers(values: Iterable[Any]) -> list[float | None]:
    """Return numbers with six significant digits, None where one is not finite.

    >>> numbers([1 / 3, 2.0, float("nan")])
    [0.333333, 2, None]
    """
    return [_plain(value) for value in np.asarray(values, dtype=float).tolist()]


def _plain(value: Any) -> Any:
    if isinstance(value, (str, bool, np.bool_)):
        return str(value)
    value = float(value)
    if not np.isfinite(value):
        return None
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short


def _unit(unit: str) -> str:
    return "" if unit in ("1", "name", "class") else unit.removeprefix("-")  # -%: percent below zero


def _axis(grid: Grid, place: int) -> dict[str, Any]:
    name = grid.axes[place]
    knob = KNOBS[name]
    values = grid.values[name].tolist()
    return {
        "name": name,
        "label": axis_name(name),
        "unit": _unit(knob.unit),
        "ordered": knob.has_order,
        "continuous": knob.has_order and len(values) >= CONTINUOUS,
        "values": numbers(values) if knob.has_order else [str(value) for value in values],
        "place": grid.index[:, place].tolist(),
    }


def _neighbours(grid: Grid, move: Move) -> dict[str, Any]:
    """Return, for one way along an axis, the row of the next value and the row with the least error ahead, or -1."""
    lines, error = grid.lines[move.knob], grid.test_error
    best = np.full(len(error), -1)
    for target in lines.each_ahead(move.sign):
        found = (target >= 0) & ((best < 0) | (error[target] < error[best]))
        best = np.where(found, target, best)
    words = KNOBS[move.knob].words
    return {
        "knob": move.knob,
        "sign": move.sign,
        "way": f"{words.noun}, {words.up if move.sign > 0 else words.down}",
        "cause": move.cause or "",
        "next": lines.step(move.sign, None).tolist(),
        "best": best.tolist(),
    }


def _measures(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the columns that the page can colour by, test error first: measurements, rooms, own numbers."""
    derived = [name for name in DERIVED if name not in frame and not missing_columns(frame, [name])]
    skipped = {*KNOBS, *KEYS, *label_columns(), "num_finite"}
    own = [
        str(name)
        for name in frame
        if name not in skipped
        and not str(name).endswith(RESERVED)
        and pd.api.types.is_numeric_dtype(frame[name])
        and np.isfinite(frame[name].to_numpy(dtype=float)).any()
    ]
    order = {name: place for place, name in enumerate(["test_error", *MEASUREMENTS])}
    names = sorted([*own, *derived], key=lambda name: order.get(name, len(order)))
    return [_measure(frame, name) for name in names]


def _measure(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    entry = MEASUREMENTS.get(name)
    about = entry or COLUMN.get(name)
    is_room = name.startswith("rfi_")
    label = about.meaning if is_room and about else entry.label if entry else name.replace("_", " ")
    return {
        "name": name,
        "label": label,
        "unit": "points" if is_room else _unit(about.unit) if about else "",
        "meaning": about.meaning if about else "a column of this table",
        "group": "Room for improvement" if is_room else "Measurements" if entry else "Other columns",
        "has_error": f"{name}_se" in frame,
    }


def _columns(frame: pd.DataFrame, name: str) -> Iterable[tuple[str, list[float | None]]]:
    if name in frame:
        yield name, numbers(pd.to_numeric(frame[name], errors="coerce"))
    else:
        yield name, numbers(derived_values(frame, name))
    if f"{name}_se" in frame:
        yield f"{name}_se", numbers(pd.to_numeric(frame[f"{name}_se"], errors="coerce"))


def derived_values(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return a derived column, (rows,), NaN where one of its sources is not finite."""
    needed, formula = DERIVED[name]
    out, known = np.full(len(frame), np.nan), finite_rows_of(frame, [name])
    out[known] = formula(*(frame[source].to_numpy(dtype=float)[known] for source in needed))
    return out
