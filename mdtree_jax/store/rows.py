"""A table that grows by a row at a time: `append_row`. Readers see whole tables, also after a killed process."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.files import one_sentence_on_write_failure, write_atomically
from mdtree_jax.store.lock import locked

_SUFFIXES = (".csv", ".parquet")


def check_appendable(path: Path) -> None:
    """Raise `UserError` for a file that is no table, before anything is measured."""
    if path.suffix not in _SUFFIXES:
        raise UserError(f"append_to='{path}' must be a .csv or .parquet file")
    _read(path)


def append_row(path: Path, row: Mapping[str, Any], same: Sequence[str] = ()) -> int:
    """Append a row to a `.csv` or `.parquet` table, which is made if there is none; return its number of rows.

    Columns that only one side has are empty on the other. Two processes take turns.

    Args:
        path: the table.
        row: column -> number or text.
        same: columns in which a row of the table that is to be replaced equals the new one.

    Raises:
        UserError: a file that is no table, a full disk.
    """
    check_appendable(path)
    with one_sentence_on_write_failure(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            table = _read(path)
            if table is not None and same and set(same) <= set(table):
                is_old = pd.concat([table[name] == row[name] for name in same], axis=1).all(axis=1)
                table = table[~is_old]
            new = pd.DataFrame([dict(row)])
            table = new if table is None or not len(table) else pd.concat([table, new], ignore_index=True)
            write = functools.partial(table.to_csv if path.suffix == ".csv" else table.to_parquet, index=False)
            write_atomically(path, write)
    return len(table)


def _read(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pandas' and Arrow's parse errors are ValueErrors
        raise UserError(f"'{path}' cannot be read as a table: {str(error).splitlines()[0]}") from error
