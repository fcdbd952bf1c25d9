"""The columns of a collection table: name, unit, published alias and meaning of each.

Everything that names a column (loading, labels, trees, baselines, documentation) reads it here. Columns of measurements
follow from `mdtree_jax.registry.measurements`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError, is_misspelt, nearest
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.registry.questions import QUESTIONS, Question, label_columns, published_classes
from mdtree_jax.registry.views import ListView, MappingView


class Column(NamedTuple):
    """One column: its descriptive name, unit, meaning, and accepted aliases.

    `aliases` maps each alias to the function that converts its values to this column's unit, or to None if the values
    are the same.
    """

    name: str
    unit: str
    meaning: str
    aliases: Mapping[str, Callable[[pd.Series], pd.Series] | None] = {}


def _tenths(values: pd.Series) -> pd.Series:
    # The published column counts tenths, 1 to 10; a column of the same name that stays below 1 holds fractions.
    return values if values.max() <= 1.0 and (values != 1.0).any() else values / 10.0


def _published_label(values: pd.Series) -> pd.Series:
    return values.replace(published_classes())


#: Settings of a grid.
_SETTINGS = (
    Column(
        "width",
        "channels",
        "channels of the first stage (`resnet8_fine`: of the last stage; `mlp`: units of a hidden layer)",
    ),
    Column(
        "batch_size",
        "samples",
        "training batch size, the only optimizer knob in the published collections",
        {"bs": None},
    ),
    Column("data_fraction", "1", "share of the full training set that is used, in (0, 1]", {"data": _tenths}),
)
#: Columns computed from the test errors of a grid.
_OUTCOMES = (
    Column("rfi_batch_down", "points", "room for improvement towards smaller batches", {"rfi_inc_temp": None}),
    Column("rfi_batch_up", "points", "room for improvement towards larger batches", {"rfi_dec_temp": None}),
    Column("rfi_width", "points", "room for improvement towards wider networks"),
    Column("rfi_data", "points", "room for improvement towards more data"),
)


def _columns() -> tuple[Column, ...]:
    measured = (Column(m.name, m.unit, m.meaning, m.aliases) for m in MEASUREMENTS.values() if not m.is_derived)
    return (*_SETTINGS, *measured, *_OUTCOMES, *map(_label, QUESTIONS.values()))


def _label(question: Question) -> Column:
    aliases = {question.published_label: _published_label} if question.published_label else {}
    return Column(question.label, "class", ", ".join(question.classes[::-1]), aliases)


#: The columns; those of a measurement or question that is registered later appear in all of these views.
COLUMNS: Sequence[Column] = ListView(_columns, MEASUREMENTS, QUESTIONS)
COLUMN: Mapping[str, Column] = MappingView(lambda: {column.name: column for column in COLUMNS}, MEASUREMENTS, QUESTIONS)
ALIASES: Mapping[str, str] = MappingView(
    lambda: {alias: column.name for column in COLUMNS for alias in column.aliases}, MEASUREMENTS, QUESTIONS
)
#: Derived columns, with the columns they need: never stored, but computed on demand.
DERIVED: Mapping[str, tuple[tuple[str, ...], Callable[..., np.ndarray]]] = MappingView(
    lambda: {m.name: (m.sources, m.formula) for m in MEASUREMENTS.values() if m.formula is not None}, MEASUREMENTS
)


def sources(name: str) -> tuple[str, ...]:
    """Return the columns that a feature needs: those it is derived from, or itself."""
    return DERIVED[name][0] if name in DERIVED else (name,)


def canonical_name(name: str) -> str:
    """Return the descriptive name of a column, given that name or a published alias.

    >>> canonical_name("hessian_t"), canonical_name("width")
    ('log_hessian_trace', 'width')
    """
    return ALIASES.get(name, name)


def describe(name: str) -> str:
    """Return the name with its aliases, for messages.

    >>> describe("log_hessian_trace")
    "'log_hessian_trace' (published name 'hessian_t')"
    """
    aliases = " or ".join(f"'{alias}'" for alias in COLUMN[name].aliases) if name in COLUMN else ""
    return f"'{name}'" + (f" (published name {aliases})" if aliases else "")


def canonicalize(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy with published names and units converted to ours; unknown columns are unchanged.

    If a column is given under two names, the descriptive name takes precedence.
    """
    out = {}
    for name in frame.columns:
        target = canonical_name(name)
        if target != name and (target in frame.columns or target in out):
            continue
        convert = COLUMN[target].aliases.get(name) if target in COLUMN else None
        out[target] = convert(_without_text(frame, name, target)) if convert else frame[name]
    result = pd.DataFrame(out, index=frame.index)
    result.attrs.update(frame.attrs)
    return result


#: What the names of a metric's standard errors end in.
ERROR_SUFFIXES = ("_se", "_standard_error")


def metric_of(name: str) -> str:
    """Return the descriptive name of a column, or of the metric whose standard error it holds."""
    for suffix in ERROR_SUFFIXES:
        name = name.removesuffix(suffix)
    return canonical_name(name)


def holds_numbers(name: str) -> bool:
    """Return whether a column of this name must hold numbers: a metric, its standard error, or a knob with an order.

    >>> holds_numbers("bs"), holds_numbers("cka_se"), holds_numbers("optimizer"), holds_numbers("label_size")
    (True, True, False, False)
    """
    own = metric_of(name)
    return KNOBS[own].has_order if own in KNOBS else own in COLUMN and COLUMN[own].unit != "class"


def check_spelling(columns: Iterable[Hashable], more: Iterable[str] = ()) -> None:
    """Raise `UserError` for a column that is nearly, but not quite, the name of a known one that the table lacks.

    It would be ignored silently. Columns that are near nothing are the user's own; so is `best_loss` beside
    `test_loss`.

    Args:
        columns: names of a table.
        more: names that are known as well.
    """
    names = {name for name in columns if isinstance(name, str)}
    there = {metric_of(name) for name in names}
    known = [name for name in (*COLUMN, *ALIASES, *KNOBS, *more) if canonical_name(name) not in there]
    for name in sorted(names - set(MEASUREMENTS)):
        if metric_of(name) in (*COLUMN, *KNOBS, *more):
            continue
        stem = name.removesuffix(ERROR_SUFFIXES[0])
        for meant in known:
            if is_misspelt(stem, meant):
                raise UserError(f"unknown column '{name}' (did you mean '{meant}'?); rename it, or remove it")


def check_cells(frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise `UserError` for a cell of the named columns that is no single value, such as a list of a Parquet file."""
    for name in names:
        if pd.api.types.is_numeric_dtype(frame[name]):
            continue
        for row, cell in enumerate(frame[name]):
            if not pd.api.types.is_scalar(cell):
                raise UserError(f"column '{name}' holds {cell!r:.60} in row {row + 1}; a cell must hold one value")


def _without_text(frame: pd.DataFrame, name: str, target: str) -> pd.Series:
    """Return a column that is about to be converted; raise `UserError` if it is a number column that holds text."""
    if COLUMN[target].unit == "class":
        return frame[name]
    numbers = pd.to_numeric(frame[name], errors="coerce")
    text = (numbers.isna() & frame[name].notna()).to_numpy()
    if text.any():
        row = int(np.argmax(text))
        raise UserError(
            f"column '{name}' holds '{frame[name].iloc[row]}' in the row with index {frame.index[row]}; it must hold "
            "numbers"
        )
    return numbers


def missing_columns(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return those of `names` that `frame` (with descriptive names) neither holds nor can derive."""
    return [name for name in names if any(source not in frame.columns for source in sources(name))]


def missing_message(frame: pd.DataFrame, names: list[str], why: str = "") -> str:
    """Return one sentence on missing columns, with the nearest unknown column of `frame` suggested."""
    strangers = [c for c in frame.columns if c not in COLUMN and c not in ALIASES]
    parts = []
    lacking = dict.fromkeys(source for name in names for source in sources(name) if source not in frame.columns)
    for source in lacking:
        if source not in COLUMN:
            known = [c for c in frame.columns if c not in label_columns()]
            parts.append(f"'{source}'{nearest(source, known)}, only {', '.join(map(str, known))}")
            continue
        options = [hit for alias in (source, *COLUMN[source].aliases) if (hit := nearest(alias, strangers))]
        parts.append(describe(source) + (options[0] if options else ""))
    where = frame.attrs.get("name")
    table = f"collection '{where}'" if where else "the table"
    return f"{table} has no column {', '.join(parts)}{why}"


def feature_values(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return the float64 array (rows, features) of the named columns, deriving those that are derived.

    Raises:
        UserError: a column is missing, holds text, or holds a value that is not finite.
    """
    absent = missing_columns(frame, names)
    if absent:
        raise UserError(missing_message(frame, absent))
    out = np.empty((len(frame), len(names)))
    for j, name in enumerate(names):
        values = [numeric_column(frame, source) for source in sources(name)]
        out[:, j] = DERIVED[name][1](*values) if name in DERIVED else values[0]
    return out


def finite_rows_of(frame: pd.DataFrame, names: Iterable[str]) -> np.ndarray:
    """Return which rows have a finite value of every named feature, (rows,) bool; none if a column is missing."""
    columns = list(dict.fromkeys(source for name in names for source in sources(name)))
    if missing_columns(frame, columns):
        return np.zeros(len(frame), dtype=bool)
    values = [pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float) for column in columns]
    finite = [np.isfinite(column) for column in values]
    return np.logical_and.reduce(finite) if finite else np.ones(len(frame), dtype=bool)


def numeric_column(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return one column as float64.

    Raises:
        UserError: the column holds text, or a value that is not finite; the first such row is named.
    """
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        shown = frame[name].iloc[row]
        raise UserError(
            f"column {describe(name)} holds '{shown}' in the row of index {frame.index[row]} ({int(bad.sum())} such of "
            f"{len(frame)} rows); "
            "it takes finite numbers" + ("" if name not in COLUMN else f" in {COLUMN[name].unit}")
        )
    return values


def markdown_table() -> str:
    """Return the columns as a Markdown table, for the documentation."""
    lines = ["| column | unit | published name | meaning |", "|---|---|---|---|"]
    for column in COLUMNS:
        aliases = ", ".join(f"`{alias}`" for alias in column.aliases)
        lines.append(f"| `{column.name}` | {column.unit} | {aliases} | {column.meaning} |")
    return "\n".join(lines)
