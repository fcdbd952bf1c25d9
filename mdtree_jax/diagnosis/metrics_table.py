"""A user's table of metrics: names, units, standard errors, and what is missing, before it is diagnosed.

**Units.** Errors are percentages here (`train_error`, `test_error`, `mode_connectivity`, `mode_connectivity_peak`), and
people also store fractions. All error columns of one table have one unit, which is decided from them together:

====================================================  ==========
any value, or standard error, beyond 1 in size        percent
all accuracy columns (`train_acc`, ...) at most 1     fraction
nothing but zeros                                     no matter
anything else (0.4 is 0.4 % or 40 %)                  UserError that asks for units=fraction or units=percent
====================================================  ==========

**Standard errors** stand beside their metric as `<name>_se` (or `<name>_standard_error`), in its unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError, check_choice, nearest
from mdtree_jax.diagnosis import joint
from mdtree_jax.diagnosis.columns import ALIASES, COLUMN, canonical_name, canonicalize

UNITS = ("fraction", "percent")
ERRORS = ("train_error", "test_error", "mode_connectivity", "mode_connectivity_peak")
ACCURACIES = ("train_acc", "test_acc")
SUFFIXES = ("_se", "_standard_error")


def read_metrics(table: pd.DataFrame | Mapping | list[Mapping], units: str | None = None) -> pd.DataFrame:
    """Return the table in descriptive names and our units; metrics that cannot be read as finite numbers are NaN.

    Args:
        table: a DataFrame, one row as a mapping, or a list of rows. Published names are understood.
        units: `fraction` or `percent` of the error columns; None decides as the table above says.

    Returns:
        A DataFrame with a fresh index; columns `<name>_se` hold the standard errors.

    Raises:
        UserError: no rows, no column of `joint.COLUMNS`, units that cannot be decided, a value outside its meaning.
    """
    if units is not None:
        check_choice("units", units, UNITS)
    frame = _as_frame(table)
    numbers = [c for c in frame.columns if isinstance(c, str) and _metric_of(c) in COLUMN]
    numeric = {}
    for column in numbers:
        if COLUMN[_metric_of(column)].unit != "class":
            numeric[column] = pd.to_numeric(frame[column], errors="coerce").astype(float)
    frame = frame.assign(**numeric)
    factor = 100.0 if (units or detect_units(frame)) == "fraction" else 1.0
    scaled = {c: frame[c] * factor for c in frame.columns if _is_error(c)}
    frame = canonicalize(_rename_errors(frame.assign(**scaled)))
    frame = frame.replace([np.inf, -np.inf], np.nan)
    if not any(column in frame for column in joint.COLUMNS):
        raise UserError(_nothing_known(frame))
    _check_values(frame)
    return frame


def detect_units(frame: pd.DataFrame) -> str:
    """Return `fraction` or `percent`, decided from all error columns together.

    Raises:
        UserError: they can be either.

    >>> detect_units(pd.DataFrame({"train_error": [0.2], "mode_connectivity_peak": [-12.0]}))
    'percent'
    >>> detect_units(pd.DataFrame({"train_error": [0.2], "test_acc": [0.71]}))
    'fraction'
    """
    columns = [c for c in frame.columns if _is_error(c)]
    values = {c: np.abs(frame[c].to_numpy(dtype=float)) for c in columns}
    largest = {c: np.nanmax(v) for c, v in values.items() if np.isfinite(v).any()}
    if not largest or max(largest.values()) == 0:
        return "percent"
    if max(largest.values()) > 1:
        return "percent"
    if any(c in ACCURACIES and value > 0 for c, value in largest.items()):
        return "fraction"
    shown = ", ".join(f"'{c}' up to {value:g}" for c, value in largest.items())
    raise UserError(
        f"errors can be fractions or percentages here ({shown}); say which by units=fraction or units=percent"
    )


def standard_errors(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return the standard errors of a column of what `read_metrics` returned, (rows,); NaN where there is none."""
    name = f"{column}_se"
    if name not in frame:
        return np.full(len(frame), np.nan)
    values = frame[name].to_numpy(dtype=float)
    return np.where(values > 0, values, np.nan)


def _as_frame(table) -> pd.DataFrame:
    if isinstance(table, pd.Series):
        table = table.to_dict()
    frame = pd.DataFrame([table]) if isinstance(table, Mapping) else pd.DataFrame(table)
    if not len(frame):
        raise UserError("the table of metrics has no rows; it needs at least one model")
    return frame.reset_index(drop=True)


def _metric_of(column: str) -> str:
    """Return the descriptive name of a column or of the metric whose standard error it holds."""
    for suffix in SUFFIXES:
        column = column.removesuffix(suffix)
    return canonical_name(column)


def _is_error(column) -> bool:
    if not isinstance(column, str):
        return False
    name = next((column.removesuffix(s) for s in SUFFIXES if column.endswith(s)), column)
    return canonical_name(name) in ERRORS


def _rename_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Give standard errors the descriptive name of their metric and the suffix `_se`."""
    names = {c: f"{_metric_of(c)}_se" for c in frame.columns if isinstance(c, str) and c.endswith(SUFFIXES)}
    return frame.rename(columns={old: new for old, new in names.items() if new == old or new not in frame})


def _nothing_known(frame: pd.DataFrame) -> str:
    hints = [nearest(name, map(str, frame.columns)) for name in (*joint.COLUMNS, *ALIASES)]
    hint = next((h for h in hints if h), "")
    there = ", ".join(map(str, frame.columns))
    return f"the table has none of the metrics {', '.join(joint.COLUMNS)}{hint}; it has {there}"


def _check_values(frame: pd.DataFrame) -> None:
    bounds = {
        "train_error": (0, 100),
        "mode_connectivity_peak": (-100, 0),
        "cka": (-1e-6, 1 + 1e-6),
        "train_loss": (0, np.inf),
    }
    for name, (low, high) in bounds.items():
        if name not in frame:
            continue
        values = frame[name].to_numpy(dtype=float)
        bad = (values < low) | (values > high)
        if bad.any():
            row = int(np.argmax(bad))
            raise UserError(
                f"{name}={values[row]:g} in row {row + 1}; it lies in [{low:g}, {high:g}] ({COLUMN[name].unit}: "
                f"{COLUMN[name].meaning})"
            )
    errors = [c for c in frame.columns if str(c).endswith("_se") and str(c).removesuffix("_se") in COLUMN]
    negative = [c for c in errors if (frame[c].to_numpy(dtype=float) < 0).any()]
    if negative:
        raise UserError(f"column '{negative[0]}' holds a negative standard error; it is at least 0")
