"""The columns of a collection table: one table of name, unit, published alias and meaning.

Everything that names a column (loading, labels, trees, baselines, documentation) reads it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.registry.questions import QUESTIONS, label_columns, published_classes


class Column(NamedTuple):
    """One column: its descriptive name, unit, meaning, and the other names under which it is understood.

    `aliases` maps another name to the function that turns its values into this column's unit, or to None where the
    values are the same.
    """

    name: str
    unit: str
    meaning: str
    aliases: Mapping[str, Callable[[pd.Series], pd.Series] | None] = {}


def _percent_complement(values: pd.Series) -> pd.Series:
    if values.max() <= 1.0:
        raise UserError(
            f"accuracies are percentages, and the largest of column '{values.name}' is {values.max():g}: it seems to "
            "hold fractions; multiply it by 100"
        )
    return 100.0 - values


def _tenths(values: pd.Series) -> pd.Series:
    # The published column counts tenths, 1 to 10; a column of the same name that stays below 1 holds fractions.
    return values if values.max() <= 1.0 and (values != 1.0).any() else values / 10.0


def _published_label(values: pd.Series) -> pd.Series:
    return values.replace(published_classes())


COLUMNS: tuple[Column, ...] = (
    Column("width", "channels", "channels of the first stage (`resnet8_fine`: of the last; `mlp`: units of a layer)"),
    Column("batch_size", "samples", "training batch size, the one optimizer knob varied", {"bs": None}),
    Column("data_fraction", "1", "share of the full training set, in (0, 1]", {"data": _tenths}),
    Column("num_samples", "samples", "size of the training subset", {"data_amount": None}),
    Column("num_parameters", "parameters", "trainable parameters of the network", {"para_amount": None}),
    Column("train_error", "%", "training error, evaluation-mode BatchNorm", {"train_acc": _percent_complement}),
    Column("test_error", "%", "test error", {"test_acc": _percent_complement}),
    Column("train_loss", "nats", "mean cross-entropy on the training subset"),
    Column("test_loss", "nats", "mean cross-entropy on the test set"),
    Column("log_hessian_trace", "ln", "ln of the Hessian trace, mean over networks (sharpness)", {"hessian_t": None}),
    Column(
        "log_hessian_max_eigenvalue", "ln", "ln of the size of the dominant Hessian eigenvalue", {"hessian_e": None}
    ),
    Column("mode_connectivity", "%", "mean error of the ends minus the error where the curve deviates most"),
    Column("mode_connectivity_peak", "-%", "minus the largest training error at t = .25, .5, .75; 0 is perfect"),
    Column("cka", "1", "linear CKA of the softmax outputs of two networks on mixed-up images", {"CKA": None}),
    Column("agreement", "1", "share of equal predictions of two networks on mixed-up images"),
    Column("l2_distance", "1", "distance of the parameters of two networks"),
    Column("barrier", "points", "rise of the training error on the straight line between two networks over its ends"),
    Column("barrier_loss", "nats", "the same of the training loss"),
    Column("aligned_barrier", "points", "`barrier` after the second network's units are matched to the first's"),
    Column("aligned_barrier_loss", "nats", "`barrier_loss` after matching"),
    Column("hessian_trace", "nats", "Hessian trace of the training loss, mean over networks; may be negative"),
    Column("hessian_max_eigenvalue", "nats", "eigenvalue of the Hessian largest in magnitude, with its sign"),
    Column("scale_invariant_trace", "nats", "sum of w^2 times the Hessian's diagonal over the parameters w"),
    Column("log_scale_invariant_trace", "ln", "ln of `scale_invariant_trace`"),
    Column("ball_sharpness", "nats", "worst-case increase of the training loss within 0.5 % of the parameters' norm"),
    Column("rfi_batch_down", "points", "room for improvement towards smaller batches", {"rfi_inc_temp": None}),
    Column("rfi_batch_up", "points", "room for improvement towards larger batches", {"rfi_dec_temp": None}),
    Column("rfi_width", "points", "room for improvement towards wider networks"),
    Column("rfi_data", "points", "room for improvement towards more data"),
    *(
        Column(question.label, "class", ", ".join(question.classes[::-1]), {question.published_label: _published_label})
        for question in QUESTIONS.values()
    ),
)

COLUMN = {column.name: column for column in COLUMNS}
ALIASES = {alias: column.name for column in COLUMNS for alias in column.aliases}

#: Loss that is added before a logarithm, nats: interpolating networks go down to 1e-5, which is below noise.
LEAST_LOSS = 1e-3


def _relative_to_loss(log_sharpness, train_loss):
    return log_sharpness - np.log(train_loss + LEAST_LOSS)


#: Columns that follow from others, with the columns they need: never stored, made where a method asks for them.
#: `log_effective_rank` is ln(trace / top eigenvalue), how many eigenvalues of the Hessian's top one make up its trace.
#: `log_relative_eigenvalue` is ln(top eigenvalue / training loss): the Hessian of a cross-entropy shrinks with the
#: loss, so that sharpness falls where networks interpolate; the quotient goes on rising with the batch size.
DERIVED: dict[str, tuple[tuple[str, ...], Callable[..., np.ndarray]]] = {
    "log_num_samples": (("num_samples",), np.log),
    "log_num_parameters": (("num_parameters",), np.log),
    "log_effective_rank": (("log_hessian_trace", "log_hessian_max_eigenvalue"), np.subtract),
    "log_relative_eigenvalue": (("log_hessian_max_eigenvalue", "train_loss"), _relative_to_loss),
}


def sources(name: str) -> tuple[str, ...]:
    """Return the columns that a feature needs: those it follows from, or itself."""
    return DERIVED[name][0] if name in DERIVED else (name,)


def canonical_name(name: str) -> str:
    """Return the descriptive name of a column, given that name or a published alias.

    >>> canonical_name("hessian_t"), canonical_name("width")
    ('log_hessian_trace', 'width')
    """
    return ALIASES.get(name, name)


def describe(name: str) -> str:
    """Return the name with its aliases, as messages show it.

    >>> describe("log_hessian_trace")
    "'log_hessian_trace' (published name 'hessian_t')"
    """
    aliases = " or ".join(f"'{alias}'" for alias in COLUMN[name].aliases) if name in COLUMN else ""
    return f"'{name}'" + (f" (published name {aliases})" if aliases else "")


def canonicalize(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy with published names and units turned into ours; unknown columns stay as they are.

    Where a column stands under two names the descriptive one wins.
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


def _without_text(frame: pd.DataFrame, name: str, target: str) -> pd.Series:
    """Return a column that is about to be converted; raise `UserError` if it is a number column that holds text."""
    if COLUMN[target].unit == "class":
        return frame[name]
    numbers = pd.to_numeric(frame[name], errors="coerce")
    text = (numbers.isna() & frame[name].notna()).to_numpy()
    if text.any():
        row = int(np.argmax(text))
        raise UserError(
            f"column '{name}' holds '{frame[name].iloc[row]}' in the row of index {frame.index[row]}; it takes numbers"
        )
    return numbers


def missing_columns(frame: pd.DataFrame, names: list[str] | tuple[str, ...]) -> list[str]:
    """Return those of `names` that `frame` (in descriptive names) neither holds nor can derive."""
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


def feature_values(frame: pd.DataFrame, names: list[str] | tuple[str, ...]) -> np.ndarray:
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
    return np.isfinite(np.stack(values, axis=1)).all(axis=1) if values else np.ones(len(frame), dtype=bool)


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
    """Return the columns as a Markdown table, as the documentation shows them."""
    lines = ["| column | unit | published name | meaning |", "|---|---|---|---|"]
    for column in COLUMNS:
        aliases = ", ".join(f"`{alias}`" for alias in column.aliases)
        lines.append(f"| `{column.name}` | {column.unit} | {aliases} | {column.meaning} |")
    return "\n".join(lines)
