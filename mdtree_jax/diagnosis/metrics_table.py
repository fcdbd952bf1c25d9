"""A user's table of metrics: names, units, standard errors and missing values, checked before it is diagnosed.

**Units.** Errors (`train_error`, `test_error`, `mode_connectivity`, `mode_connectivity_peak`, every measurement in
percent) are percentages here, but tables may also hold fractions. All error columns of one table share one unit, which
is inferred from all of them together:

====================================================  ==========
any value, or standard error, beyond 1 in size        percent
all accuracy columns (`train_acc`, ...) at most 1     fraction
only zeros                                            irrelevant
anything else (0.4 is 0.4 % or 40 %)                  UserError that asks for units=fraction or units=percent
====================================================  ==========

**Standard errors** are columns `<name>_se` (or `<name>_standard_error`), in the unit of the metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.checks import UserError, check_choice, nearest
from mdtree_jax.collection.columns import (
    ALIASES,
    COLUMN,
    ERROR_SUFFIXES,
    canonical_name,
    canonicalize,
    check_spelling,
    metric_of,
)
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.table_outlook import CHANCE, used_columns
from mdtree_jax.registry.measurements import MEASUREMENTS, percent_complement
from mdtree_jax.registry.views import ListView, MappingView

UNITS = ("fraction", "percent")
#: What the answer to a table may use.
EVIDENCE = ("all", "landscape")
ERRORS: Sequence[str] = ListView(
    lambda: [m.name for m in MEASUREMENTS.values() if m.unit in ("%", "-%") and not m.is_derived], MEASUREMENTS
)
ACCURACIES: Sequence[str] = ListView(
    lambda: [a for m in MEASUREMENTS.values() for a, turn in m.aliases.items() if turn is percent_complement],
    MEASUREMENTS,
)
#: Two names of one metric may differ by rounding: this share of the value, or of 1.
SAME = 0.01
#: Rows needed to detect a pattern, and an error that is not a rounded fraction.
_SEVERAL, _SURELY_PERCENT = 5, 5.0
#: Columns that name the model of a row.
NAMES = ("name", "model")
#: Metric -> its logarithm, of those that a diagnosis looks at.
_WITHOUT_LOGARITHM: Mapping[str, str] = MappingView(
    lambda: {
        m.logarithm_of: m.name for name in (*joint.COLUMNS, *joint.SHOWN) if (m := MEASUREMENTS[name]).logarithm_of
    },
    MEASUREMENTS,
)
#: Columns that a diagnosis looks at.
_USED: Sequence[str] = ListView(
    lambda: [*joint.COLUMNS, *joint.SHOWN, "test_error", "validation_error", *_WITHOUT_LOGARITHM], MEASUREMENTS
)
#: Common spellings of missing values, in addition to those of pandas.
_EMPTY = {"", "-", "–", "?", "nan", "none", "null", "na", "n/a", "inf", "-inf"}


def read_metrics(table: pd.DataFrame | Mapping | list[Mapping], units: str | None = None) -> pd.DataFrame:
    """Return the table with descriptive names and our units; metrics that are not finite numbers become NaN.

    Args:
        table: a DataFrame, one row as a mapping, or a list of rows. Published names are understood.
        units: of the error columns, `fraction` or `percent`; None infers them as described above.

    Returns:
        A DataFrame with a fresh index; columns `<name>_se` hold the standard errors.

    Raises:
        UserError: no rows, no column of `joint.COLUMNS`, text instead of a number, ambiguous units, or a value out of
            range.
    """
    if units is not None:
        check_choice("units", units, UNITS)
    frame = _as_frame(table)
    given = frame.columns
    numbers = [c for c in frame.columns if isinstance(c, str) and metric_of(c) in COLUMN]
    numeric = {c: _numbers(frame, c) for c in numbers if COLUMN[metric_of(c)].unit != "class"}
    frame = frame.assign(**numeric)
    decided = units or detect_units(frame)
    factor = 100.0 if decided == "fraction" else 1.0
    scaled = {c: frame[c] * factor for c in frame.columns if _is_error(c)}
    frame = _one_name_each(_rename_errors(frame.assign(**scaled)))
    if units or decided == "fraction":  # else an accuracy of at most 1 beside errors in percent is refused below
        frame = frame.assign(**{metric_of(c): 100.0 - frame[c] for c in ACCURACIES if c in frame}).drop(
            columns=[c for c in ACCURACIES if c in frame]
        )
    frame = canonicalize(frame)
    numbers = frame.select_dtypes("number")  # of text pandas before 3 would change the type
    frame[numbers.columns] = numbers.replace([np.inf, -np.inf], np.nan)
    frame = frame.assign(**_logarithms(frame))
    if not any(column in frame for column in joint.COLUMNS):
        raise UserError(_nothing_known(frame))
    check_spelling(given, CHANCE)
    _check_values(frame)
    return frame


def detect_units(frame: pd.DataFrame) -> str:
    """Return `fraction` or `percent`, inferred from all error columns together.

    Raises:
        UserError: the units are ambiguous.

    >>> detect_units(pd.DataFrame({"train_error": [0.2], "mode_connectivity_peak": [-12.0]}))
    'percent'
    >>> detect_units(pd.DataFrame({"train_error": [0.2], "test_acc": [0.71]}))
    'fraction'
    """
    columns = [c for c in frame.columns if _is_error(c)]
    values = {c: np.abs(frame[c].to_numpy(dtype=float)) for c in columns}
    largest = {c: v[np.isfinite(v)].max() for c, v in values.items() if np.isfinite(v).any()}
    if not largest or max(largest.values()) == 0:
        return "percent"
    if max(largest.values()) > 1:
        return "percent"
    if any(c in ACCURACIES and value > 0 for c, value in largest.items()):
        return "fraction"
    known = {c: frame[c][values[c] == value].iloc[0] for c, value in largest.items() if value > 0}
    shown = ", ".join(f"'{c}' up to {value:g}" for c, value in known.items())
    raise UserError(f"the errors may be fractions or percentages ({shown}); set units=fraction or units=percent")


def note_on_units(frame: pd.DataFrame) -> list[Fact]:
    """Return a fact on error columns that may be fractions among percentages, as a list, empty if there are none.

    Args:
        frame: several rows that `read_metrics` returned without given units.
    """
    largest = {c: np.abs(frame[c]).max() for c in ERRORS if c in frame and np.isfinite(frame[c]).sum() >= _SEVERAL}
    small = [c for c, value in largest.items() if 0 < value <= 1]
    if not small or max(largest.values()) <= _SURELY_PERCENT:
        return []
    return [fact("read_as_percent", metrics=small)]


def standard_errors(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return the standard errors of a column of what `read_metrics` returned, (rows,); NaN where there is none."""
    name = f"{column}_se"
    if name not in frame:
        return np.full(len(frame), np.nan)
    values = frame[name].to_numpy(dtype=float)
    return np.where(values > 0, values, np.nan)


def training_of(frame: pd.DataFrame, known: Training) -> list[Training]:
    """Return the training settings of each row of a `read_metrics` table: those given, or else from its columns."""
    given = known.known
    columns = {"batch_size": "batch_size", "learning_rate": "learning_rate"}
    columns["epochs"] = "epochs" if "epochs" in frame else "train_epochs"
    values = {
        name: pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float)
        for name, column in columns.items()
        if column in frame and name not in given
    }
    if not values:
        return [known] * len(frame)
    found = []
    for row in range(len(frame)):
        own: dict[str, Any] = {name: float(v[row]) for name, v in values.items() if 0 < v[row] < 2**53}
        if "batch_size" in own:
            own["batch_size"] = max(1, round(own["batch_size"]))
        found.append(Training(**given | own))
    return found


def unused_columns(table: pd.DataFrame, evidence: str = "all") -> list[str]:
    """Return the columns of a user's table that a diagnosis with this evidence does not use."""
    more = used_columns() if evidence == "all" else set()
    used = {*_USED, *more, *(f.name for f in fields(Training)), "train_epochs", "num_samples"}
    errors = {f"{name}{suffix}" for name in {*_USED} - {"test_error"} for suffix in ERROR_SUFFIXES}
    names = [str(c) for c in table.columns if str(c) not in NAMES]
    return [c for c in names if canonical_name(c) not in used and f"{metric_of(c)}_se" not in errors]


def _numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as numbers, NaN where a cell is empty.

    Raises `UserError` for a cell that holds text, of a column that a diagnosis looks at.
    """
    values = pd.to_numeric(frame[column], errors="coerce").astype(float)
    if metric_of(column) not in _USED:
        return values
    for row in np.flatnonzero(values.isna() & frame[column].notna()):
        cell = frame[column].iloc[row]
        if str(cell).strip().lower() not in _EMPTY:
            raise UserError(f"column '{column}' holds '{cell}' in row {row + 1}; it must hold numbers")
    return values


def _logarithms(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the logarithms of metrics that are given only without it; NaN where the value is not positive.

    For an eigenvalue, which may be negative, it is the logarithm of its magnitude, as in `store.tables.collect`.
    """
    out = {}
    for name, logarithm in _WITHOUT_LOGARITHM.items():
        if name not in frame:
            continue
        size = frame[name].abs() if MEASUREMENTS[logarithm].of_size else frame[name]
        positive = size.where(size > 0)
        own = {logarithm: pd.Series(np.log(positive))}
        if f"{name}_se" in frame:
            own[f"{logarithm}_se"] = frame[f"{name}_se"] / positive
        missing = frame[logarithm].isna() if logarithm in frame else pd.Series(True, frame.index)
        for column, values in own.items():
            before = frame[column] if column in frame else pd.Series(np.nan, frame.index)
            out[column] = before.where(~missing, values)
    return out


def _as_frame(table) -> pd.DataFrame:
    if isinstance(table, pd.Series):
        table = table.to_dict()
    frame = pd.DataFrame([table]) if isinstance(table, Mapping) else pd.DataFrame(table)
    # pandas reads the second of two equal names of a file as NAME.1.
    names = set(map(str, frame.columns))
    again = [c[:-2] for c in sorted(names) if c.endswith(".1") and c[:-2] in names and metric_of(c[:-2]) in _USED]
    if frame.columns.has_duplicates or again:
        twice = again[0] if again else frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"the table of metrics has two columns '{twice}'; keep one of them")
    if not len(frame):
        raise UserError("the table of metrics has no rows; it needs at least one model")
    return frame.reset_index(drop=True)


def _is_error(column) -> bool:
    if not isinstance(column, str):
        return False
    name = next((column.removesuffix(s) for s in ERROR_SUFFIXES if column.endswith(s)), column)
    return canonical_name(name) in ERRORS


def _rename_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Give standard errors the descriptive name of their metric and the suffix `_se`."""
    names = {c: f"{metric_of(c)}_se" for c in frame.columns if isinstance(c, str) and c.endswith(ERROR_SUFFIXES)}
    return frame.rename(columns={old: new for old, new in names.items() if new == old or new not in frame})


def _one_name_each(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with one column per metric: duplicate names are merged, filling each other's gaps.

    Raises `UserError` if the two columns differ.
    """
    twice = [c for c in frame.columns if canonical_name(c) != c and canonical_name(c) in {*frame.columns} & {*_USED}]
    for column in twice:
        name = canonical_name(column)
        own, other = frame[name], 100.0 - frame[column] if column in ACCURACIES else frame[column]
        apart = ((own - other).abs() > SAME * own.abs().clip(lower=1.0)).to_numpy()
        if apart.any():
            row = int(np.argmax(apart))
            raise UserError(
                f"columns '{name}' and '{column}' are two names of one metric, but differ in row {row + 1}: "
                f"{own.iloc[row]:g} and {other.iloc[row]:g}; remove one of them, or correct it"
            )
    known = {canonical_name(c): 100.0 - frame[c] if c in ACCURACIES else frame[c] for c in twice}
    return frame.assign(**{name: frame[name].fillna(other) for name, other in known.items()}).drop(columns=twice)


def _nothing_known(frame: pd.DataFrame) -> str:
    known = [n for n in (*COLUMN, *ALIASES) if canonical_name(n) in {*joint.COLUMNS, *_WITHOUT_LOGARITHM}]
    strangers = [str(column) for column in frame.columns if metric_of(str(column)) not in COLUMN]
    hints = {column: hint for column in strangers if (hint := nearest(column, known))}
    there = ", ".join(map(str, frame.columns))
    text = f"the table has none of the metrics {', '.join(joint.COLUMNS)}; it has {there}"
    if len(frame.columns) == 1 and any(mark in there for mark in (";", "\t")):
        return f"{text}: its columns do not seem to be separated by commas"
    return text + "".join(f"; '{column}'{hint}" for column, hint in hints.items())


def _check_values(frame: pd.DataFrame) -> None:
    for name in _USED:
        if name not in frame:
            continue
        entry = MEASUREMENTS[name]
        values, (low, high) = frame[name].to_numpy(dtype=float), entry.limits
        bad = (values < low - entry.tolerance) | (values > high + entry.tolerance)
        if bad.any():
            row = int(np.argmax(bad))
            wanted = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"at least {low:g}"
            raise UserError(
                f"{name}={values[row]:g} in row {row + 1}; it must be {wanted} ({entry.unit}: {entry.meaning})"
            )
    errors = [c for c in frame.columns if str(c).endswith("_se") and str(c).removesuffix("_se") in COLUMN]
    negative = [c for c in errors if (frame[c].to_numpy(dtype=float) < 0).any()]
    if negative:
        raise UserError(f"column '{negative[0]}' holds a negative standard error; standard errors must be at least 0")
