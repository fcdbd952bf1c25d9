"""Collections: tables of measured configurations, by name, file or folder, in descriptive columns."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.collection.columns import (
    COLUMN,
    canonical_name,
    canonicalize,
    check_cells,
    missing_columns,
    missing_message,
    numeric_column,
)
from mdtree_jax.collection.grid import Grid, compute_labels, make_grid, missing_configurations
from mdtree_jax.collection.moves import AXES, axes_of, varying_knobs
from mdtree_jax.collection.published import FILES, published_file
from mdtree_jax.collection.tasks import OPTIMAL, TASKS
from mdtree_jax.files import record_names, records_folder
from mdtree_jax.registry.knobs import KNOBS, Knob
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.registry.questions import label_columns
from mdtree_jax.store.manifest import check_table

#: Short names for pairs: train on the first, test on the second. The default needs no download.
PAIRS = {"digits": ("digits", "digits_noisy"), "published": ("published/F", "published/F_noise")}
DEFAULT_PAIR = "digits"
_TABLE_FILES = ("collection.parquet", "collection.csv")


def load_collection(
    source: str | os.PathLike | pd.DataFrame,
    *,
    allow_missing: bool = False,
    published_dir: str | os.PathLike | None = None,
) -> pd.DataFrame:
    """Load a collection: one row per configuration, with descriptive column names and labels.

    Args:
        source: a name (`digits`, `digits_noisy`, `published/F`, `published/F_noise`), a `.csv` or `.parquet` file, a
            folder that holds `collection.parquet` or `collection.csv`, or a DataFrame. Published column names are
            accepted.
        allow_missing: accept an incomplete grid. Rows without a finite test error count as missing; other metrics that
            are not finite stay in the table, and methods that use them leave the row out. A random search has no
            missing configurations: rows that are near in the other knobs are compared (`mdtree_jax.collection.lines`).
        published_dir: a local folder with the two published files.

    Returns:
        A DataFrame with a new index; `attrs["name"]` is the source, `attrs["notes"]` says what is missing,
        `attrs["axes"]` names the axes, which are the knobs that vary (`mdtree_jax.collection.moves`), and
        `attrs["near"]` those along which near rows are compared. Missing labels and RFI are computed from the grid;
        existing ones are kept, so that a part of a larger grid keeps the labels of the whole. A label is NaN if it is
        unknown.

    Raises:
        UserError: unknown name, unreadable file, missing column, text or a value that is not finite in a number
            column, a duplicated configuration, or an incomplete grid.
    """
    # Row labels of a file mean nothing here, and need not be unique.
    table = _read(source, published_dir).reset_index(drop=True)
    if table.columns.has_duplicates:
        raise UserError(f"the table has the column '{table.columns[table.columns.duplicated()][0]}' twice; keep one")
    named = [name for name in table.columns if isinstance(name, str)]
    check_cells(table, [name for name in named if name in KNOBS or canonical_name(name) in COLUMN])
    frame = canonicalize(table)
    frame.attrs["name"] = "DataFrame" if isinstance(source, pd.DataFrame) else str(source)
    knobs = [name for name in KNOBS if name in frame]
    absent = missing_columns(frame, [*([] if knobs else AXES), "test_error"])
    if absent:
        raise UserError(missing_message(frame, absent, why=", so it is not a grid of configurations"))
    frame = _numeric(frame, allow_missing)
    _check_ranges(frame)
    if allow_missing:
        frame = _known_rows(frame)
    grid = make_grid(frame, allow_missing=allow_missing)
    computed = compute_labels(grid).set_axis(frame.index)
    new = [str(column) for column in computed if column not in frame]
    attributes = frame.attrs | {"axes": list(grid.axes), "near": list(grid.near)}
    attributes["notes"] = _notes(frame, grid)
    frame = pd.concat([frame, computed[new]], axis=1)
    frame.attrs = attributes
    _check_label_values(frame)
    return frame


def _notes(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Return what is missing in a collection, and what its axes are not, as sentences."""
    name, notes = f"collection '{frame.attrs['name']}'", []
    if holes := missing_configurations(grid):
        notes.append(f"{name} lacks {holes} of the {holes + len(frame)} configurations of its grid")
    if grid.near:
        counts = [
            f"{np.count_nonzero(np.isfinite(grid.best_ahead(move)))} towards {KNOBS[move.knob].words.noun} {move.way}"
            for move in grid.moves
            if move.knob in grid.near
        ]
        notes.append(
            f"{name} is not a grid along {', '.join(grid.near)}, so rows that are close in the other knobs are "
            f"compared; rows with such a neighbour, of {len(frame)}: {', '.join(counts)}"
        )
    if tied := [knob for knob in varying_knobs(frame) if knob not in grid.axes]:
        notes.append(f"{', '.join(tied)} of {name} is determined by the other knobs and does not count as an axis")
    return notes


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
        raise UserError(f"'{name}' is a pair of collections, {' and '.join(PAIRS[name])}; use collection={name}")
    path = Path(source).expanduser()
    if path.is_dir():
        found = [path / file for file in _TABLE_FILES if (path / file).is_file()]
        if not found:
            raise UserError(f"the folder '{name}' holds no collection: it needs {' or '.join(_TABLE_FILES)}")
        path = found[0]
    if not path.is_file():
        names = list(dict.fromkeys([*recorded, *FILES, *PAIRS]))
        raise UserError(
            f"unknown collection '{name}'{nearest(name, names)}: it is neither a name ({', '.join(names)}) "
            "nor a file or folder here"
        )
    return read_table(path, "collection")


def read_csv(path: str | os.PathLike) -> pd.DataFrame:
    """Return the table of a text file, with correctly rounded float64 numbers.

    By default, pandas before 3.1 changed the last bit of one number in ten of the published files; 3.1 warns about the
    option that prevents this.
    """
    exact = tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1)
    return pd.read_csv(path) if exact else pd.read_csv(path, float_precision="round_trip")


def read_table(path: Path, what: str) -> pd.DataFrame:
    """Return the table of a `.csv` or `.parquet` file; `what` names it in the `UserError` if it cannot be read."""
    readers = {".csv": read_csv, ".parquet": pd.read_parquet}
    if not path.is_file():
        raise UserError(f"the {what} '{path}' does not exist or is not a file")
    if path.suffix.lower() not in readers:
        raise UserError(f"the {what} '{path}' ends in '{path.suffix}'; it must be a .csv or .parquet file")
    check_table(path)
    try:
        return readers[path.suffix.lower()](path)
    except (ValueError, OSError) as error:  # pandas' and Arrow's parse errors are ValueErrors
        raise UserError(f"the {what} '{path}' cannot be read: {str(error).splitlines()[0]}") from error


def _numeric(frame: pd.DataFrame, allow_missing: bool) -> pd.DataFrame:
    """Return the table with its known number columns as finite numbers, or NaN where they may be missing.

    A knob with at most one value is not an axis and is left unchanged.
    """
    wanted = {*COLUMN, *(name for name in varying_knobs(frame) if KNOBS[name].has_order)} - set(label_columns())
    columns, name = [c for c in frame.columns if c in wanted], frame.attrs["name"]
    converted = {}
    for column in columns:
        if allow_missing:
            values = pd.to_numeric(frame[column], errors="coerce")
            converted[column] = values.where(np.isfinite(values.to_numpy(dtype=float)))
            continue
        # Rooms for improvement are not known everywhere in a random search.
        there = frame[column].notna().to_numpy() if column.startswith("rfi_") else np.ones(len(frame), dtype=bool)
        values = np.full(len(frame), np.nan)
        try:
            values[there] = numeric_column(frame[there], column)
        except UserError as error:
            raise UserError(f"collection '{name}': {error}; correct these rows, or set allow_missing=true") from None
        if not pd.api.types.is_numeric_dtype(frame[column]):  # counts stay integers where the file has them so
            converted[column] = values
    frame = frame.assign(**converted)
    frame.attrs["name"] = name
    return frame


def _known_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have coordinates and a test error."""
    known = frame[frame[[*axes_of(frame), "test_error"]].notna().all(axis=1)].reset_index(drop=True)
    if not len(known):
        raise UserError(f"no row of collection '{frame.attrs['name']}' has coordinates and a test error")
    return known


def _check_ranges(frame: pd.DataFrame) -> None:
    """Raise `UserError` for coordinates and errors out of range, which would silently give wrong labels."""
    for column in axes_of(frame):
        knob = KNOBS[column]
        if not knob.has_order:
            continue
        low, above = _least(knob)
        values = frame[column].to_numpy(dtype=float)
        bad = ((values <= low) if above else (values < low)) | (values > knob.high)
        if knob.excludes_high:
            bad |= values == knob.high
        if bad.any():
            start = f"above {low:g}" if above else f"at least {low:g}"
            allowed = (
                f"{'(' if above else '['}{low:g}, {knob.high:g}{')' if knob.excludes_high else ']'}"
                if np.isfinite(knob.high)
                else start
            )
            raise UserError(f"{column}={values[np.argmax(bad)]:g} in row {np.argmax(bad) + 1}; it must be {allowed}")
    errors = [m for m in MEASUREMENTS.values() if m.unit == "%" and m.name in frame.columns]
    for entry in errors:
        values = frame[entry.name].to_numpy(dtype=float)
        low, high = entry.limits
        bad = (values < low) | (values > high)
        if bad.any():
            raise UserError(
                f"{entry.name}={values[np.argmax(bad)]:g} in row {np.argmax(bad) + 1}; errors must be percentages in "
                f"[{low:g}, {high:g}]"
            )


def _least(knob: Knob) -> tuple[float, bool]:
    """Return the lower limit of a knob in a collection, and whether values must be above it.

    Counts may be fractions in other collections, such as a width multiplier: anything above 0 is accepted.
    """
    return (0.0, True) if knob.low > 0 else (knob.low, knob.excludes_low)


def _check_label_values(frame: pd.DataFrame) -> None:
    for task in (task for task in TASKS.values() if task.label in frame):
        known = {*task.classes, OPTIMAL}
        strange = set(frame[task.label].dropna().unique()) - known
        if strange:
            raise UserError(
                f"column '{task.label}' holds {sorted(map(str, strange))[0]!r}; it must hold "
                f"{', '.join(sorted(known))}, or the published labels"
            )
