"""Rows of the per-seed table and of the learning curves, from a trained cohort. No JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.store.tables import DIVERGED, OK, VALIDATION_COLUMNS, typed_members


def member_rows(cohort: Cohort, trained: Any) -> pd.DataFrame:
    """Return the per-seed rows of a trained cohort, in the order of its members."""
    per_member = {
        name: np.asarray(getattr(trained, name))
        for name in ("train_error", "test_error", "train_loss", "test_loss", "stop_epoch", "train_seconds")
    }
    if trained.validation_loss is not None:
        per_member |= {name: np.asarray(getattr(trained, name)) for name in VALIDATION_COLUMNS}
    members = cohort.members
    rows = pd.DataFrame(
        {
            "configuration": [member.index for member in members],
            "seed": [member.seed for member in members],
            "status": np.where(np.asarray(trained.is_finite), OK, DIVERGED),
            "cohort": cohort.key,
            "width": cohort.width,
            "batch_size": cohort.batch_size,
            "data_fraction": [member.data_fraction for member in members],
            "num_samples": [member.num_samples for member in members],
            "num_parameters": count_parameters(trained.variables["params"]),
            "learning_rate": [member.learning_rate for member in members],
            "weight_decay": [member.weight_decay for member in members],
            "train_epochs": cohort.train_epochs,
            **_further_knobs(cohort),
            **per_member,
            "train_flops": np.asarray(trained.train_flops),
        }
    )
    return typed_members(rows)


def history_rows(cohort: Cohort, trained: Any) -> pd.DataFrame | None:
    """Return the points of the learning curves of a trained cohort, None if they were not recorded."""
    if trained.history is None:
        return None
    values = dict(trained.history)
    members = [cohort.members[number] for number in values.pop("member")]
    keys = {"configuration": [member.index for member in members], "seed": [member.seed for member in members]}
    counts = dict.fromkeys((*keys, "epoch", "step"), np.int64)
    unknown = dict.fromkeys(("train_loss", "validation_loss", "validation_error"), np.nan)
    return pd.DataFrame({**keys, "epoch": 0, "step": 0, **unknown, **values}).astype(counts)


def _further_knobs(cohort: Cohort) -> dict[str, list[Any]]:
    """Return the values of the knobs that not every grid has, by member; true is 1."""
    columns = {name: [value] * len(cohort.members) for name, value in cohort.knobs}
    columns |= {name: [member.value(name) for member in cohort.members] for name in cohort.batched}
    return {name: [int(v) if isinstance(v, bool) else v for v in values] for name, values in columns.items()}


def count_parameters(stacked: Any) -> int:
    """Return the number of parameters of one member of a nested dict of arrays (members, …).

    >>> count_parameters({"dense": {"kernel": np.zeros((7, 4, 3)), "bias": np.zeros((7, 3))}})
    15
    """
    if isinstance(stacked, Mapping):
        return sum(count_parameters(value) for value in stacked.values())
    return int(np.prod(stacked.shape[1:]))
