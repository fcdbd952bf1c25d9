"""The table of a run folder: configurations selected from it, and those that are measured diagnosed. No JAX."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.checks import UserError
from mdtree_jax.collection.load import read_table
from mdtree_jax.diagnosis.cost import make_cost
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.from_metrics import diagnose_metrics
from mdtree_jax.diagnosis.reference import Reference, reference_names
from mdtree_jax.diagnosis.result import Diagnosis
from mdtree_jax.recipe.measure_settings import chosen_pairs
from mdtree_jax.registry.datasets import DATASETS
from mdtree_jax.registry.kernels import KERNELS
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE
from mdtree_jax.store.manifest import read_manifest
from mdtree_jax.store.tables import has_value

#: Columns that a collection made by `sweep` has, beside the metrics.
_SWEPT = ("width", "batch_size", "data_fraction", "num_samples", "num_finite")


def selected(run: str, select: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of a run's collection that `select` leaves, at least one; a value of None selects nothing.

    Raises:
        UserError: no collection, one that no sweep made, one without rows, a selection that it has no row of.
    """
    folder = Path(run).expanduser()
    if not (folder / "collection.parquet").is_file():
        raise UserError(f"run={run} is not a run folder with finished networks: it has no collection.parquet")
    table = read_table(folder / "collection.parquet", "collection")
    if lacking := [name for name in _SWEPT if name not in table]:
        raise UserError(
            f"run={run} was not made by sweep: its collection.parquet has no column '{lacking[0]}'; to "
            f"diagnose other metrics, use metrics={run}/collection.parquet"
        )
    if not len(table):
        raise UserError(f"run={run} has no finished cohort yet: its collection.parquet has no rows")
    for name, value in select.items():
        if value is None:
            continue
        if name not in table:
            raise UserError(f"select.{name} cannot be used: the collection of {run} has no column '{name}'")
        there = sorted(set(table[name]))
        table = table[has_value(table[name], value)]
        if not len(table):
            raise UserError(
                f"select.{name}={shown(value)} matches no configuration; available: {', '.join(map(shown, there))}"
            )
    return table


def diagnose_rows(
    folder: Path, rows: Sequence[pd.Series], reference: Reference, training: Mapping[str, Any], evidence: str
) -> list[Diagnosis]:
    """Return the diagnoses of measured configurations, made together; the cost is that of the sweep.

    A configuration whose networks all diverged gets the answer that nothing was measured.

    Args:
        folder: of the run.
        rows: of its collection.
        reference: to compare with.
        training: settings that the collection has no columns of; those of a table stand in its columns.
        evidence: as of `diagnose_metrics`.
    """
    start = time.perf_counter()
    pairs = ((read_manifest(folder / "manifest.json") or {}).get("measure") or {}).get("pairs", "ring")
    classes = _num_classes(folder)
    table: list[Mapping] = [classes | row.to_dict() for row in rows]
    diagnoses = diagnose_metrics(table, reference, "percent", training, evidence)
    answered = (time.perf_counter() - start) / len(rows)
    basis = fact("of_sweep")
    out = []
    for row, diagnosis in zip(rows, diagnoses, strict=True):
        if has_diverged(row):
            action = dataclasses.replace(diagnosis.action, kind="stabilize")
            out.append(dataclasses.replace(diagnosis, action=action, abstention=fact("diverged")))
            continue
        seconds, flops = _measuring(row, pairs)
        trained = (float(row.get(c, nan)) for c in ("train_seconds", "train_flops"))
        again = [None if isnan(x) else x for x in trained]
        cost = make_cost(seconds + answered, flops, None, again[0], again[1], basis)
        out.append(dataclasses.replace(diagnosis, cost=cost))
    return out


def note_on_label_noise(folder: Path, reference: str | None) -> list[Fact]:
    """Return a note if a run was trained on noisy labels, which no packaged reference contains, as a list of facts.

    `reference` is the name or file that was asked for, None for a packaged one.
    """
    share = (read_manifest(folder / "manifest.json") or {}).get("config", {}).get("label_noise_fraction") or 0
    if not share or reference not in (None, *reference_names()):
        return []
    return [fact("label_noise", share=float(share))]


def is_measured(row: pd.Series) -> bool:
    """Say whether a row of a collection has anything that only measuring gives."""
    there = [name for name in joint.COLUMNS if name in row.index and not name.startswith("train_")]
    return bool(np.isfinite(row[there].to_numpy(dtype=float)).any())


def has_diverged(row: pd.Series) -> bool:
    """Say whether all networks of a configuration diverged."""
    return "num_finite" in row.index and row["num_finite"] == 0


def _num_classes(folder: Path) -> dict[str, int]:
    """Return the number of classes of a run's data set as a column, empty where it is not known or not classes."""
    made = (read_manifest(folder / "manifest.json") or {}).get("config", {})
    shape = DATASETS[made["dataset"]].shape if made.get("dataset") in DATASETS else None
    is_of_classes = made.get("objective", DEFAULT_OBJECTIVE) == DEFAULT_OBJECTIVE
    return {"num_classes": shape.num_classes} if shape is not None and is_of_classes else {}


def _measuring(row: pd.Series, which_pairs: str) -> tuple[float, float]:
    """Return seconds and operations to measure a configuration, from means over its networks and pairs."""
    networks = int(row["num_finite"])
    pairs = len(chosen_pairs([True] * networks, which_pairs))
    totals = {"seconds": 0.0, "flops": 0.0}
    for column in row.index:
        group, _, kind = str(column).rpartition("_")
        if kind in totals and group != "train" and row[column] == row[column]:
            totals[kind] += float(row[column]) * (
                pairs if group in KERNELS and KERNELS[group].is_of_pairs else networks
            )
    return totals["seconds"], totals["flops"]


def shown(value: float | str) -> str:
    """Return a value of a knob in words."""
    return value if isinstance(value, str) else f"{value:g}"
