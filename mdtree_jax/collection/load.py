"""Collections: tables of measured configurations, by name, file or folder, in descriptive columns."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.collection.columns import (
    COLUMN,
    LABEL_COLUMNS,
    canonicalize,
    missing_columns,
    missing_message,
    numeric_column,
)
from mdtree_jax.collection.grid import AXES, compute_labels, make_grid
from mdtree_jax.collection.published import FILES, published_file
from mdtree_jax.collection.tasks import OPTIMAL, TASKS
from mdtree_jax.files import record_names, records_folder
from mdtree_jax.registry.measurements import MEASUREMENTS

#: A short name for a pair: train on the first, test on the second. The default needs no download.
PAIRS = {"digits": ("digits", "digits_noisy"), "published": ("published/F", "published/F_noise")}
DEFAULT_PAIR = "digits"
_TABLE_FILES = ("collection.parquet", "collection.csv")


def load_collection(
    source: str | os.PathLike | pd.DataFrame,
    *,
    allow_missing: bool = False,
    published_dir: str | os.PathLike | None = None,
) -> pd.DataFrame:
    """Load a collection: one row per configuration, descriptive column names, labels present.

    Args:
        source: a name (`digits`, `digits_noisy`, `published/F`, `published/F_noise`), a `.csv` or `.parquet` file, a
            folder that holds `collection.parquet` or `collection.csv`, or a DataFrame. Published column names are
            understood.
        allow_missing: go on without the cells that the grid lacks. Rows without a finite test error are such cells; a
            metric that is not finite elsewhere stays in the table, and whoever asks for it leaves the row out.
        published_dir: a local folder with the two published files.

    Returns:
        A DataFrame with a fresh index; `attrs["name"]` is the source, `attrs["notes"]` says what is missing. Labels and
        RFI that the table does not hold are computed from its grid; those that it holds are kept, so that a part of a
        larger grid keeps the labels of the whole.

    Raises:
        UserError: unknown name, unreadable file, missing column, text or a value that is not finite in a number
            column, a configuration twice, or an incomplete grid.
    """
    # Row labels of a file mean nothing here, and need not be unique.
    frame = canonicalize(_read(source, published_dir).reset_index(drop=True))
    frame.attrs["name"] = "DataFrame" if isinstance(source, pd.DataFrame) else str(source)
    absent = missing_columns(frame, [*AXES, "test_error"])
    if absent:
        raise UserError(missing_message(frame, absent, why=", without which it is no grid of configurations"))
    frame = _numeric(frame, allow_missing)
    _check_ranges(frame)
    if allow_missing:
        frame = _known_rows(frame)
    grid = make_grid(frame, allow_missing=allow_missing)
    computed = compute_labels(grid).set_axis(frame.index)
    new = [column for column in computed if column not in frame]
    attributes = frame.attrs
    frame = frame.assign(**{column: computed[column] for column in new})
    holes = int(np.isnan(grid.test_error).sum())
    attributes["notes"] = [
        f"collection '{attributes['name']}' lacks {holes} of the {grid.test_error.size} configurations of its grid"
    ] * bool(holes)
    frame.attrs = attributes
    _check_label_values(frame)
    return frame


def _read(source: str | os.PathLike | pd.DataFrame, published_dir: str | os.PathLike | None) -> pd.DataFrame:
    if isinstance(source, pd.DataFrame):
        return source
    name = str(source)
    if name in FILES:
        return read_csv(published_file(name, published_dir))
    recorded = record_names()
    if name in recorded:
        return read_table(records_folder() / f"{name}.parquet", "recorded collection")
    if name in PAIRS:
        raise UserError(f"'{name}' is a pair of collections, {' and '.join(PAIRS[name])}: give it as collection={name}")
    path = Path(source).expanduser()
    if path.is_dir():
        found = [path / file for file in _TABLE_FILES if (path / file).is_file()]
        if not found:
            raise UserError(f"the folder '{name}' holds no collection: it needs {' or '.join(_TABLE_FILES)}")
        path = found[0]
    if not path.is_file():
        names = list(dict.fromkeys([*recorded, *FILES, *PAIRS]))
        raise UserError(
            f"unknown collection '{name}'{nearest(name, names)}: it is neither a name (there are: {', '.join(names)}) "
            "nor a file or folder here"
        )
    return read_table(path, "collection")


def read_csv(path: str | os.PathLike) -> pd.DataFrame:
    """Return a table of text, each number the float64 nearest to its digits.

    Before 3.1 pandas read one number in ten of the published files a last bit off unless asked; 3.1 warns if asked.
    """
    exact = tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1)
    return pd.read_csv(path) if exact else pd.read_csv(path, float_precision="round_trip")


def read_table(path: Path, what: str) -> pd.DataFrame:
    """Return the table of a `.csv` or `.parquet` file; `what` names it in the `UserError` if it cannot be read."""
    readers = {".csv": read_csv, ".parquet": pd.read_parquet}
    if not path.is_file():
        raise UserError(f"the {what} '{path}' does not exist or is no file")
    if path.suffix.lower() not in readers:
        raise UserError(f"the {what} '{path}' ends in '{path.suffix}'; a table is a .csv or a .parquet file")
    try:
        return readers[path.suffix.lower()](path)
    except (ValueError, OSError) as error:  # pandas' and Arrow's parse errors are ValueErrors
        raise UserError(f"the {what} '{path}' cannot be read: {str(error).splitlines()[0]}") from error


def _numeric(frame: pd.DataFrame, allow_missing: bool) -> pd.DataFrame:
    """Return the table with its known number columns as numbers: all finite, or NaN where they may be missing."""
    columns, name = [c for c in frame.columns if c in COLUMN and c not in LABEL_COLUMNS], frame.attrs["name"]
    converted = {}
    for column in columns:
        if allow_missing:
            values = pd.to_numeric(frame[column], errors="coerce")
            converted[column] = values.where(np.isfinite(values.to_numpy(dtype=float)))
            continue
        try:
            values = numeric_column(frame, column)
        except UserError as error:
            raise UserError(f"collection '{name}': {error}; mend these rows, or go on by allow_missing=true") from None
        if not pd.api.types.is_numeric_dtype(frame[column]):  # counts stay integers where the file has them so
            converted[column] = values
    frame = frame.assign(**converted)
    frame.attrs["name"] = name
    return frame


def _known_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have coordinates and a test error."""
    known = frame[frame[[*AXES, "test_error"]].notna().all(axis=1)].reset_index(drop=True)
    if not len(known):
        raise UserError(f"no row of collection '{frame.attrs['name']}' has coordinates and a test error")
    return known


def _check_ranges(frame: pd.DataFrame) -> None:
    """Refuse coordinates and errors outside their meaning, which would turn into labels without a word."""
    bounds = {"width": (0, np.inf), "batch_size": (0, np.inf), "data_fraction": (0, 1)}
    for column, (low, high) in bounds.items():
        values = frame[column].to_numpy(dtype=float)
        bad = (values <= low) | (values > high)
        if bad.any():
            allowed = f"({low:g}, {high:g}]" if np.isfinite(high) else "above 0"
            raise UserError(f"{column}={values[np.argmax(bad)]:g} in row {np.argmax(bad) + 1}; it must be {allowed}")
    errors = [m for m in MEASUREMENTS.values() if m.unit == "%" and m.name in frame.columns]
    for entry in errors:
        values = frame[entry.name].to_numpy(dtype=float)
        low, high = entry.bounds
        bad = (values < low) | (values > high)
        if bad.any():
            raise UserError(
                f"{entry.name}={values[np.argmax(bad)]:g} in row {np.argmax(bad) + 1}; errors are percentages in "
                f"[{low:g}, {high:g}]"
            )


def _check_label_values(frame: pd.DataFrame) -> None:
    for task in TASKS.values():
        known = {*task.classes, OPTIMAL}
        strange = set(frame[task.label].unique()) - known
        if strange:
            raise UserError(
                f"column '{task.label}' holds {sorted(map(str, strange))[0]!r}; it takes {', '.join(sorted(known))}, "
                "or the published labels"
            )
