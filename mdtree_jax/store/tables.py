"""Tables of trained members: one part per finished cohort, the per-seed table, and the collection.

| table | rows | values |
|---|---|---|
| part, `members.parquet` | one per configuration and seed | as measured; `status` is ok or diverged |
| `collection.parquet` | one per configuration | means over the finite seeds, and `<column>_se`, their standard errors |

Errors are percent, losses nats, both with BatchNorm in evaluation mode, over the whole training subset (labels as
trained on, noise included) and the whole test set. `train_seconds` and `train_flops` are per network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.files import write_atomically

OK, DIVERGED = "ok", "diverged"
CONFIGURATION_COLUMNS = (
    "width",
    "batch_size",
    "data_fraction",
    "num_samples",
    "num_parameters",
    "learning_rate",
    "weight_decay",
    "train_epochs",
)
METRIC_COLUMNS = ("train_error", "test_error", "train_loss", "test_loss")
COST_COLUMNS = ("train_seconds", "train_flops")
MEMBER_COLUMNS = (
    "configuration",
    "seed",
    "status",
    "cohort",
    *CONFIGURATION_COLUMNS,
    *METRIC_COLUMNS,
    "stop_epoch",
    *COST_COLUMNS,
)
_TEXT_COLUMNS = ("status", "cohort")
_FLOAT_COLUMNS = ("data_fraction", "learning_rate", "weight_decay", *METRIC_COLUMNS, *COST_COLUMNS)
_METADATA_KEY = b"mdtree_jax"


def typed_members(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the member columns of `rows` in their fixed order and types (float64, int64, text).

    So a table is the same whether its rows were just measured or read back from a part.
    """
    types = {column: np.float64 if column in _FLOAT_COLUMNS else np.int64 for column in MEMBER_COLUMNS}
    return rows[list(MEMBER_COLUMNS)].astype(types | dict.fromkeys(_TEXT_COLUMNS, str))


def write_table(path: Path, table: pd.DataFrame, metadata: dict[str, Any] | None = None) -> None:
    """Write `table` as parquet, whole or not at all, with `metadata` (JSON) in the file's schema."""
    import pyarrow
    import pyarrow.parquet

    arrow = pyarrow.Table.from_pandas(table, preserve_index=False)
    if metadata is not None:
        arrow = arrow.replace_schema_metadata({**arrow.schema.metadata, _METADATA_KEY: json.dumps(metadata).encode()})
    write_atomically(path, lambda temporary: pyarrow.parquet.write_table(arrow, temporary))


def read_part(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the rows and the metadata of a part; raises `UserError` if the file is damaged or no part."""
    import pyarrow
    import pyarrow.parquet

    try:
        arrow = pyarrow.parquet.read_table(path)
        metadata = json.loads(arrow.schema.metadata[_METADATA_KEY])
        table = typed_members(arrow.to_pandas())
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{path} is damaged or no part of a sweep; delete it, and its cohort is trained again"
        ) from error
    return table, metadata


def join_members(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return all rows of `parts` in the order of the grid, whatever order the cohorts finished in."""
    if not parts:
        return typed_members(pd.DataFrame(columns=list(MEMBER_COLUMNS)))
    return pd.concat(parts, ignore_index=True).sort_values(["configuration", "seed"], ignore_index=True)


def collect(members: pd.DataFrame) -> pd.DataFrame:
    """Return one row per configuration of the per-seed table `members`.

    Means of errors and losses are over the finite members only, NaN where all diverged; the standard error is the
    sample standard deviation over √(number of finite members), NaN for fewer than two. Costs are means over all
    members, `num_finite` counts the finite ones.
    """
    by_configuration = members.groupby("configuration", sort=True)
    collection = by_configuration[list(CONFIGURATION_COLUMNS)].first()
    finite = members[members["status"] == OK].groupby("configuration", sort=True)[list(METRIC_COLUMNS)]
    collection = collection.join(finite.mean()).join(finite.sem(ddof=1).add_suffix("_se"))
    counts = (members["status"] == OK).groupby(members["configuration"]).sum()
    collection["num_finite"] = counts.astype(np.int64)
    collection = collection.join(by_configuration[list(COST_COLUMNS)].mean())
    first = [c for c in CONFIGURATION_COLUMNS if c not in ("learning_rate", "weight_decay", "train_epochs")]
    metrics = [name for column in METRIC_COLUMNS for name in (column, f"{column}_se")]
    last = ["num_finite", "learning_rate", "weight_decay", "train_epochs", *COST_COLUMNS]
    return collection[[*first, *metrics, *last]].reset_index(drop=True)
