"""Training histories from files: our CSV, JSON lines, and the logs of Lightning, Keras, Hugging Face and TensorBoard.

`read_history(path)` returns one row per point with the columns `epoch, step, train_loss, train_error, validation_loss,
validation_error, learning_rate`, NaN where a value is not known. Files are parsed as text or, of TensorBoard, as
records of numbers; nothing in them is executed, so pickles are refused.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.collection.history_events import read_events
from mdtree_jax.collection.history_names import COLUMNS, VALUES, chosen_columns
from mdtree_jax.files import parse_json, user_path

_FORMAT = f"one of the columns {', '.join(VALUES)}, as in docs/reference/history.md"
_IN_FOLDER = ("trainer_state.json", "metrics.csv", "history.csv", "history.jsonl")
_KEYS = ("configuration", "seed")


class Log(NamedTuple):
    """A log as it is in a file: rows of name -> number, without the names that have no value in a row.

    `counts_from_zero` says whether its epochs do: None where that is to be seen from them.
    """

    rows: Sequence[Mapping[str, Any]]
    counts_from_zero: bool | None = None


def read_history(path: str | os.PathLike) -> pd.DataFrame:
    """Return the training history in a file or folder.

    Args:
        path: a CSV or JSON-lines file with a column or key per quantity, under our names or common ones; Lightning's
            `metrics.csv`; the JSON of Keras's `History.history`, or the file of its `CSVLogger`; `trainer_state.json`
            of Hugging Face; a TensorBoard event file; or a folder with one of these logs.

    Returns:
        One row per point, by step, else by epoch: `epoch` and `step` (finished ones), `train_loss`, `train_error`,
        `validation_loss`, `validation_error` (percent), `learning_rate`; float64, NaN where not known.

    Raises:
        UserError: a file that cannot be read, is of another kind, or has no loss and no error; of several networks.
    """
    path = user_path(path, "history=")
    if path.is_dir():
        inside = next((path / name for name in _IN_FOLDER if (path / name).is_file()), None)
        return _table(path, _events(path)) if inside is None else read_history(inside)
    if "tfevents" in path.name:
        return _table(path, _events(path))
    text = _text(path)
    return _table(path, _from_json(path, text) if text.lstrip()[:1] in ("{", "[") else _from_csv(path, text))


def as_history(history: str | os.PathLike | pd.DataFrame | Mapping[str, Any]) -> pd.DataFrame:
    """Return the training history that a user gives: the path of one, or a table with a row per point.

    A table, or a mapping of names to equally long lists, has the columns of a file that `read_history` reads.

    Raises:
        UserError: as `read_history`, and for another type.
    """
    if isinstance(history, (str, os.PathLike)):
        return read_history(history)
    if isinstance(history, Mapping):
        lengths = {len(values) for values in history.values() if hasattr(values, "__len__")}
        if len(lengths) != 1:
            raise UserError("the history is a mapping; give equally long lists of values by name, or a path")
        history = pd.DataFrame(dict(history))
    if not isinstance(history, pd.DataFrame):
        raise UserError(f"the history is a {type(history).__name__}; give a path or a DataFrame, or a list of them")
    rows = [{str(k): v for k, v in row.items() if not pd.isna(v)} for row in history.to_dict("records")]
    return _table(Path("DataFrame"), Log([row for row in rows if row]))


def _events(path: Path) -> Log:
    rows, counts_from_zero = read_events(path)
    return Log(rows, counts_from_zero)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"history='{path}' cannot be read: {error.strerror or error}") from error
    if content[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"):
        raise UserError(
            f"history='{path}' is a pickle, which could run code when it is read; write History.history as JSON, or a "
            "table as CSV"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(
            f"history='{path}' is a binary file; give CSV, JSON, or a TensorBoard file with tfevents in its name"
        )
    if not text.strip():
        raise UserError(f"history='{path}' is empty; expected at least one row with {_FORMAT}")
    return text


def _from_csv(path: Path, text: str) -> Log:
    lines = text.splitlines()
    separator = max(",;\t", key=lines[0].count)
    reader = csv.reader(lines, delimiter=separator)
    try:
        header = [name.strip() for name in next(reader)]
        rows = []
        for cells in reader:
            if len(cells) > len(header):
                raise UserError(
                    f"line {reader.line_num} of history='{path}' has {len(cells)} cells, but the first line names "
                    f"{len(header)} columns"
                )
            rows.append({name: cell for name, cell in zip(header, cells, strict=False) if cell.strip()})
    except csv.Error as error:
        raise UserError(f"history='{path}' is no CSV file ({error}); give CSV, JSON lines or a log") from error
    return Log([row for row in rows if row])


def _from_json(path: Path, text: str) -> Log:
    try:
        content = parse_json(text)
    except ValueError:
        content = _json_lines(path, text)
    if isinstance(content, Mapping) and isinstance(content.get("log_history"), list):
        # The last entry sums the training up, and calls the mean over all of it train_loss.
        rows = [row for row in content["log_history"] if not (isinstance(row, Mapping) and "train_runtime" in row)]
        return Log(_checked(path, rows), counts_from_zero=False)
    if isinstance(content, Mapping) and isinstance(content.get("history"), Mapping):
        epochs = {"epoch": content["epoch"]} if "epoch" in content else {}
        content = {**epochs, **content["history"]}
    if isinstance(content, Mapping) and content and all(isinstance(values, list) for values in content.values()):
        lengths = {len(values) for values in content.values()}
        if len(lengths) > 1:
            raise UserError(
                f"history='{path}' has lists of {min(lengths)} to {max(lengths)} values; expected equal ones"
            )
        rows = [dict(zip(content, values, strict=True)) for values in zip(*content.values(), strict=True)]
        return Log(_checked(path, rows))
    return Log(_checked(path, content if isinstance(content, list) else [content]))


def _json_lines(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows += [parse_json(line)] if line.strip() else []
        except ValueError as error:
            raise UserError(f"line {number} of history='{path}' is not JSON ({error}); expected an object") from error
    return rows


def _checked(path: Path, rows: Sequence[Any]) -> list[Mapping[str, Any]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise UserError(
                f"entry {number} of history='{path}' is a {type(row).__name__}; expected an object with {_FORMAT}"
            )
    return [{str(name): value for name, value in row.items() if value is not None} for row in rows]


def _table(path: Path, log: Log) -> pd.DataFrame:
    """Return the rows of a log in our columns: names, units, counts from one, one row per point."""
    names = list(dict.fromkeys(name for row in log.rows for name in row))
    chosen = chosen_columns(names)
    if not set(chosen) & set(VALUES):
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        raise UserError(f"history='{path}' has {shown or 'no values'}; expected {_FORMAT}")
    _check_one_network(path, log.rows)
    is_ours = not set(names) - {*COLUMNS, *_KEYS}
    values = {
        column: np.array([_number(path, name, row[name]) if name in row else np.nan for row in log.rows])
        for column, (name, _) in chosen.items()
    }
    is_there = {column: np.array([name in row for row in log.rows]) for column, (name, _) in chosen.items()}
    values |= _as_errors(path, {column: (values[column], kind) for column, (_, kind) in chosen.items()})
    table = pd.DataFrame(values).reindex(columns=COLUMNS).astype(float)
    table = _counted(table, log.counts_from_zero, is_ours)
    table["is_point"] = np.any([is_there[column] for column in VALUES if column in is_there], axis=0)
    table = _one_row_a_point(table)
    if not is_ours:  # logged at other steps than losses
        table["learning_rate"] = table["learning_rate"].ffill().bfill()
    return table[table.pop("is_point").astype(bool)].reset_index(drop=True)


def _check_one_network(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    networks = {tuple(str(row.get(key)) for key in _KEYS) for row in rows}
    if len(networks) > 1:
        raise UserError(
            f"history='{path}' is of {len(networks)} networks, as its columns {' and '.join(_KEYS)} say; give the rows "
            "of one"
        )


def _number(path: Path, name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        shown = str(value)[:40]
        raise UserError(f"history='{path}' has {shown!r} as {name}; expected a number") from None


def _as_errors(path: Path, columns: Mapping[str, tuple[np.ndarray, str]]) -> dict[str, np.ndarray]:
    """Return accuracies and errors as errors in percent; they are fractions where none of their kind is above 1."""
    found = {}
    for kind in ("accuracy", "error"):
        known = {column: values for column, (values, of) in columns.items() if of == kind}
        finite = np.concatenate([values[np.isfinite(values)] for values in known.values()] or [np.empty(0)])
        if len(finite) and (finite.min() < 0 or (kind == "accuracy" and finite.max() > 100)):
            wrong = finite.min() if finite.min() < 0 else finite.max()
            raise UserError(f"history='{path}' has an {kind} of {wrong:g}; expected fractions or percent")
        scale = 100.0 if not len(finite) or finite.max() <= 1.0 else 1.0
        for column, values in known.items():
            found[column] = 100.0 - scale * values if kind == "accuracy" else scale * values
    return found


def _counted(table: pd.DataFrame, from_zero: bool | None, is_ours: bool) -> pd.DataFrame:
    """Return the table with finished epochs and steps, and with epochs where nothing is counted.

    Keras and Lightning call the first epoch 0, and its first step too. In our own files a point of epoch 0 is one
    before training, unless steps were done.
    """
    epoch, step = table["epoch"], table["step"]
    if epoch.isna().all() and step.isna().all():
        return table.assign(epoch=np.arange(1.0, len(table) + 1))
    if from_zero is None:
        from_zero = bool(epoch.min() == 0) and (not is_ours or bool((step[epoch == 0] > 0).any()))
    return table.assign(epoch=epoch + 1, step=step + 1) if from_zero else table


def _one_row_a_point(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with rows of the same step, or else epoch, in one, in order."""
    key = "epoch" if table["step"].isna().any() else "step"
    if table[key].isna().any():
        return table
    merged = table.groupby(table[key].to_numpy(), sort=True).last()
    is_point = table.groupby(table[key].to_numpy(), sort=True)["is_point"].any()
    return merged.assign(is_point=is_point).reset_index(drop=True)
