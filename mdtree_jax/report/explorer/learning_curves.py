"""Learning curves of a collection's networks for the explorer, from the tables of a run folder or a record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.files import records_folder

SERIES = ("train_loss", "validation_loss", "validation_error")


def find_history(source: str | os.PathLike, axes: list[str]) -> pd.DataFrame | None:
    """Return the learning curves of a record or a run folder, with the axes' values beside, None if it has none.

    Args:
        source: as for `load_collection`; another table has no curves.
        axes: of the collection.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        history, networks = path / "history.parquet", path / "members.parquet"
    else:
        history, networks = (records_folder() / f"{source}-{kind}.parquet" for kind in ("history", "networks"))
    if not (history.is_file() and networks.is_file()):
        return None
    known = pd.read_parquet(networks)
    points = pd.read_parquet(history)
    if not {"configuration", *axes} <= set(known) or not {"configuration", "seed", "epoch"} <= set(points):
        return None
    where = known.drop_duplicates("configuration")[["configuration", *axes]]
    return points.merge(where, on="configuration")


def curves(frame: pd.DataFrame, axes: list[str], history: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return row -> its networks' curves: seed, epoch and the series of `SERIES` that were recorded; four digits."""
    rows = {key: row for row, key in enumerate(_keys(frame, axes))}
    series = [name for name in SERIES if name in history and np.isfinite(history[name].astype(float)).any()]
    out: dict[str, list[dict[str, Any]]] = {}
    points = history.assign(row=[rows.get(key, -1) for key in _keys(history, axes)])
    for (row, _), part in points[points["row"] >= 0].groupby(["row", "seed"], sort=True):
        part = part.sort_values("epoch")
        curve = {name: _short(part[name]) for name in ("epoch", *series)}
        out.setdefault(str(row), []).append({"seed": int(part["seed"].iloc[0]), **curve})
    return out


def _keys(frame: pd.DataFrame, axes: list[str]) -> list[tuple[str, ...]]:
    """Return each row's coordinates as texts; tables keep them in 32 or 64 bits."""
    columns = [
        [f"{value:.6g}" for value in frame[axis].astype(float)]
        if pd.api.types.is_numeric_dtype(frame[axis])
        else frame[axis].astype(str).tolist()
        for axis in axes
    ]
    return list(zip(*columns, strict=True))


def _short(values: pd.Series) -> list[float | None]:
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values.astype(float)]
