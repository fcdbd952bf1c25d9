"""Tables of trained and measured members: parts per finished cohort, the per-seed tables, and the collection.

| table | rows | values |
|---|---|---|
| part, `members.parquet` | one per configuration and seed | as measured; `status` is ok or diverged |
| `pairs.parquet` | one per pair of finite networks of a configuration | metrics of two networks, curves |
| `layers.parquet` | one per network and parameter array | its share of the Hessian trace |
| `history.parquet` | one per network and recorded epoch | its learning curve, where it was recorded |
| `collection.parquet` | one per configuration | means over the finite seeds or pairs, and `<column>_se` |

Errors are percent, losses nats, both with BatchNorm in evaluation mode, over the whole training subset (labels as
trained on, noise included), the whole test set and, in runs that have one, the whole validation set. The training loss
of a learning curve is the mean over the batches of its epoch, as the optimizer saw it. Columns that end in `_seconds`
and `_flops` are costs per network, or per pair.

Knobs (`mdtree_jax.registry.knobs`) that a grid uses beside those of `CONFIGURATION_COLUMNS` have a column each, after
`train_epochs`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import DamagedFile
from mdtree_jax.files import write_atomically
from mdtree_jax.registry.kernels import KERNELS
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.measurement_type import Measurement
from mdtree_jax.registry.measurements import MEASUREMENTS, of_kernel
from mdtree_jax.registry.views import ListView, MappingView

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
#: Of runs with a validation set, after those.
VALIDATION_COLUMNS = ("validation_error", "validation_loss")
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
#: Metric -> the measurement that is the logarithm of its mean over the networks.
LOGARITHMS: Mapping[str, Measurement] = MappingView(
    lambda: {m.logarithm_of: m for m in MEASUREMENTS.values() if m.logarithm_of}, MEASUREMENTS
)
_COST_ENDINGS = ("_seconds", "_flops")
#: Seconds of a kernel -> metrics that it makes.
_MEASURED: Mapping[str, tuple[str, ...]] = MappingView(
    lambda: {f"{k.name}_seconds": of_kernel(k.name) for k in KERNELS.values() if not k.compares}, MEASUREMENTS, KERNELS
)
_COMPARED: Sequence[str] = ListView(
    lambda: [name for k in KERNELS.values() if k.compares for name in of_kernel(k.name)], MEASUREMENTS, KERNELS
)
_CONVERGED = "hessian_max_eigenvalue_converged"
_DETAIL_ENDINGS = ("_residual", "_converged", "_products")  # how a kernel ended: of one network, without a mean
_NOT_METRICS = ("_se", *_DETAIL_ENDINGS, *_COST_ENDINGS)
_KEYS = {"members": ("configuration", "seed"), "pairs": ("configuration", "seed_a", "seed_b")}
_KEYS["layers"] = ("configuration", "seed", "layer")
_KEYS["history"] = ("configuration", "seed", "epoch")
#: Column of a trained part whose cohort was extended: 0 for a network of its first training, else of which addition.
ADDITION = "addition"


class Measured(NamedTuple):
    """What was measured of a cohort, or of the part of it that was there then.

    Attributes:
        metrics: groups of metrics.
        members, pairs, layers: the tables; every network that was looked at has a row in `members`.
    """

    metrics: frozenset[str]
    members: pd.DataFrame
    pairs: pd.DataFrame
    layers: pd.DataFrame

    @property
    def networks(self) -> frozenset[tuple[int, int]]:
        """Configuration and seed of every network that was looked at."""
        return networks_of(self.members)


def typed_members(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the member columns of `rows` in their fixed order and types (float64, int64, text).

    So a table is the same whether its rows were just measured or read back from a part.
    """
    types = {column: np.float64 if column in _FLOAT_COLUMNS else np.int64 for column in MEMBER_COLUMNS}
    types |= dict.fromkeys(_TEXT_COLUMNS, str)
    further = further_knobs(rows)
    types |= {c: str for c in further if not pd.api.types.is_numeric_dtype(rows[c])}
    validation = [c for c in VALIDATION_COLUMNS if c in rows]
    types |= dict.fromkeys(validation, np.float64)
    place, end = (1 + MEMBER_COLUMNS.index(columns[-1]) for columns in (CONFIGURATION_COLUMNS, METRIC_COLUMNS))
    columns = [*MEMBER_COLUMNS[:place], *further, *MEMBER_COLUMNS[place:end], *validation, *MEMBER_COLUMNS[end:]]
    return rows[columns].astype(types)


def further_knobs(members: pd.DataFrame) -> list[str]:
    """Return the columns of knobs that not every grid has, of a per-seed table.

    By their place, behind the columns of the configuration, so that the table can be read where they are not known.
    """
    columns = list(members.columns)
    return columns[1 + columns.index(CONFIGURATION_COLUMNS[-1]) : columns.index(METRIC_COLUMNS[0])]


def has_value(column: pd.Series, value: float | str) -> np.ndarray:
    """Return which rows of a column of numbers or names hold a value; numbers count as equal but for rounding."""
    if isinstance(value, str) or not pd.api.types.is_numeric_dtype(column):
        return (column.astype(str) == str(value)).to_numpy()
    return np.isclose(column.to_numpy(float), value, rtol=1e-9, atol=0)


def networks_of(rows: pd.DataFrame) -> frozenset[tuple[int, int]]:
    """Return (configuration, seed) of every row."""
    return frozenset(zip(rows["configuration"].tolist(), rows["seed"].tolist(), strict=True))


def sorted_rows(rows: pd.DataFrame, kind: str = "trained") -> pd.DataFrame:
    """Return the rows of a part or table of this kind in the order of the grid."""
    return rows.sort_values(list(_KEYS.get(kind, _KEYS["members"])), kind="stable", ignore_index=True)


def write_table(path: Path, table: pd.DataFrame, metadata: dict[str, Any] | None = None) -> None:
    """Write `table` as parquet, whole or not at all, with `metadata` (JSON) in the file's schema."""
    write_atomically(path, table_writer(table, metadata))


def table_writer(table: pd.DataFrame, metadata: dict[str, Any] | None = None) -> Callable[[Path], object]:
    """Return a function of a path that writes `table` there as parquet, with `metadata` (JSON) in its schema."""
    import pyarrow
    import pyarrow.parquet

    arrow = pyarrow.Table.from_pandas(table, preserve_index=False)
    if metadata is not None:
        arrow = arrow.replace_schema_metadata({**arrow.schema.metadata, _METADATA_KEY: json.dumps(metadata).encode()})
    return lambda path: pyarrow.parquet.write_table(arrow, path, write_page_checksum=True)


def read_part(path: Path, kind: str = "trained", content: bytes | None = None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the rows and the metadata of a part; raises `DamagedFile` if the file is damaged or no part.

    `kind` is `trained`, `history`, or the table of measurements it is a part of: `members`, `pairs` or `layers`.
    `content` is that of the file, where it was read before. Trained rows have a column `ADDITION` if the cohort was
    extended.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        arrow = pyarrow.parquet.read_table(path if content is None else pyarrow.BufferReader(content))
        metadata = json.loads(arrow.schema.metadata[_METADATA_KEY])
        table = arrow.to_pandas()
        if kind == "trained":
            added = {ADDITION: table[ADDITION]} if ADDITION in table else {}
            table = typed_members(table).assign(**added)
        table = sorted_rows(table, kind)
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise DamagedFile(f"{path} is damaged or not a part of a sweep") from error
    return table, metadata


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that `write_table` put into a file, empty if none."""
    import pyarrow.parquet

    found = (pyarrow.parquet.read_schema(path).metadata or {}).get(_METADATA_KEY)
    return {} if found is None else json.loads(found)


def join_members(trained: list[pd.DataFrame], measured: Sequence[pd.DataFrame] = ()) -> pd.DataFrame:
    """Return all rows of the parts in the order of the grid, whatever order the cohorts finished in.

    Columns of `measured` are NaN for members of cohorts that were not measured yet.
    """
    if not trained:
        return typed_members(pd.DataFrame(columns=list(MEMBER_COLUMNS)))
    members = concat_members(trained)
    if measured:
        members = members.merge(pd.concat(measured, ignore_index=True), "left", on=["configuration", "seed"])
    return members.sort_values(["configuration", "seed"], ignore_index=True)


def concat_members(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the trained rows of all parts, one below the other.

    A knob that a part has no column of was at its default there. Columns come as in a table that was made at once:
    static knobs first, then those of the members.
    """
    members = pd.concat(parts, ignore_index=True)
    further = dict.fromkeys(name for part in parts for name in further_knobs(part))
    if all(further_knobs(part) == list(further) for part in parts):
        return members
    places = {name: (not knob.is_static, place) for place, (name, knob) in enumerate(KNOBS.items())}
    further = sorted(further, key=lambda name: places.get(name, (True, len(places))))
    kinds = {name: part[name].dtype for part in parts for name in further_knobs(part)}
    defaults: dict[str, Any] = {name: kinds[name].type(KNOBS[name].default) for name in further if name in KNOBS}
    filled = {name: members[name].fillna(value).astype(kinds[name]) for name, value in defaults.items()}
    first = [*MEMBER_COLUMNS[: 1 + MEMBER_COLUMNS.index(CONFIGURATION_COLUMNS[-1])], *further]
    return typed_members(members.assign(**filled)[[*first, *(c for c in members if c not in first)]])


def join_parts(parts: list[pd.DataFrame], kind: str) -> pd.DataFrame:
    """Return all rows of the parts of a table of pairs, layers or learning curves, in the order of the grid."""
    keys = list(_KEYS[kind])
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame(columns=keys)
    return sorted_rows(pd.concat(parts, ignore_index=True), kind)


def collect(members: pd.DataFrame, pairs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one row per configuration of the per-seed table `members` and the table of `pairs`.

    Means are over the finite members only, NaN where all diverged; the standard error is the sample standard deviation
    over √(number of finite members); with one member it is that of the estimate itself, where there is one, else NaN.
    Over pairs, which share networks, it is a jackknife that leaves out one network at a time (Efron and Stein, 1981),
    NaN with fewer than three networks. Costs are means over all members or pairs, `num_finite` counts the finite ones,
    `num_not_measurable`, where something was measured, the networks and pairs among those with a metric that came out
    NaN or infinite, which the means leave out.

    `num_not_converged`, where there is an eigenvalue, counts those whose iteration spent its budget.

    A logarithm is that of the mean over networks. A mean that is below its standard error, or not positive, is a
    measurement of nothing but "small": its logarithm is that of the standard error, or `SMALLEST` if that is 0 or NaN.
    Of the dominant eigenvalue, which may be negative, it is that of its size.
    """
    by_configuration = members.groupby("configuration", sort=True)
    further = further_knobs(members)
    collection = by_configuration[[*CONFIGURATION_COLUMNS, *further]].first()
    is_finite = members["status"] == OK
    known = {*MEMBER_COLUMNS, *further}
    measured = [c for c in members.columns if c not in known and not c.endswith(_NOT_METRICS)]
    metrics = [*METRIC_COLUMNS, *measured]
    failed = not_measurable(members[is_finite], pairs)
    members = without_infinities(members)
    finite = members[is_finite].groupby("configuration", sort=True)
    means, errors = finite[metrics].mean(), finite[metrics].sem(ddof=1)
    for column in measured:
        if f"{column}_se" in members:
            own = finite[f"{column}_se"].mean()
            errors[column] = errors[column].where(finite[column].count() > 1, own)
    if pairs is not None and len(pairs):
        pairs = without_infinities(pairs)
        more = pair_means(pairs)
        means, errors = means.join(more[0], how="outer"), errors.join(more[1], how="outer")
    columns = {}
    for column in means.columns:
        columns |= {column: means[column], f"{column}_se": errors[column]}
        if column in LOGARITHMS:
            log = LOGARITHMS[column]
            size = means[column].abs() if log.of_size else means[column]
            columns[log.name], columns[f"{log.name}_se"] = log_feature(size, errors[column])
    collection = collection.join(pd.DataFrame(columns))
    collection["num_finite"] = is_finite.groupby(members["configuration"]).sum().astype(np.int64)
    if failed is not None:
        collection["num_not_measurable"] = failed.reindex(collection.index, fill_value=0)
    stopped = not_converged(members[is_finite])
    if stopped is not None:
        collection["num_not_converged"] = stopped.reindex(collection.index, fill_value=0)
    costs = [column for column in members.columns if column.endswith(_COST_ENDINGS)]
    collection = collection.join(by_configuration[costs].mean())
    if pairs is not None and len(pairs):
        costs += (of_pairs := [column for column in pairs.columns if column.endswith(_COST_ENDINGS)])
        collection = collection.join(pairs.groupby("configuration")[of_pairs].mean())
    first = [c for c in CONFIGURATION_COLUMNS if c not in ("learning_rate", "weight_decay", "train_epochs")]
    last = [name for name in ("num_finite", "num_not_measurable", "num_not_converged") if name in collection]
    last += ["learning_rate", "weight_decay", "train_epochs", *further, *costs]
    return collection[[*first, *columns, *last]].reset_index(drop=True)


def not_measurable(members: pd.DataFrame, pairs: pd.DataFrame | None = None) -> pd.Series | None:
    """Return how many networks and pairs of each configuration were measured with a metric that is not finite.

    What has seconds of a group of metrics was measured. None if nothing was.
    """
    counts = []
    for table in (members, pairs):
        if table is None:
            continue
        failed = None
        if there := [c for c in _COMPARED if c in table]:  # of all pairs, at no time of own
            failed = ~np.isfinite(table[there].to_numpy(float)).all(axis=1)
        for seconds, metrics in _MEASURED.items():
            if seconds not in table:
                continue
            values = table[[m for m in metrics if m in table]].to_numpy(float)
            bad = table[seconds].notna().to_numpy() & ~np.isfinite(values).all(axis=1)
            failed = bad if failed is None else failed | bad
        if failed is not None:
            counts.append(pd.Series(failed.astype(np.int64), table["configuration"].to_numpy()))
    return pd.concat(counts).groupby(level=0).sum() if counts else None


def not_converged(members: pd.DataFrame) -> pd.Series | None:
    """Return how many networks of each configuration have an eigenvalue whose iteration spent its budget, or None."""
    if _CONVERGED not in members:
        return None
    is_known = np.isfinite(members["hessian_max_eigenvalue"].to_numpy(float))
    stopped = is_known & (members[_CONVERGED].to_numpy(float) == 0)
    return pd.Series(stopped.astype(np.int64), members["configuration"].to_numpy()).groupby(level=0).sum()


def without_infinities(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with NaN for infinite numbers, which no mean could hold."""
    numbers = table.select_dtypes(np.floating)
    finite = numbers.where(np.isfinite(numbers))
    return table.assign(**{name: finite[name] for name in finite.columns})


SMALLEST = 1e-6


def log_feature(mean: pd.Series, standard_error: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return ln of a mean that may be noise, and its standard error; see `collect` for the rule.

    >>> value, error = log_feature(pd.Series([100.0, -3.0, np.nan]), pd.Series([10.0, 2.0, np.nan]))
    >>> value.round(3).tolist(), error.round(3).tolist()
    ([4.605, 0.693, nan], [0.1, 1.0, nan])
    """
    floor = standard_error.fillna(0.0).clip(lower=SMALLEST)
    used = mean.where(mean.isna() | (mean >= floor), floor)
    return pd.Series(np.log(used)), standard_error / used


def pair_means(pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return means over the pairs of each configuration, and jackknife standard errors, of every metric of `pairs`.

    Networks are left out one at a time, with all their pairs. The jackknife is rather too large than too small (Efron
    and Stein, 1981): right where a pair's value is a sum of effects of its networks, too large for independent pairs.
    """
    names = [column for column in pairs.columns if column not in _KEYS["pairs"] and not column.endswith(_COST_ENDINGS)]
    names = [column for column in names if pd.api.types.is_numeric_dtype(pairs[column])]
    values = pairs[names]
    total, count = (table.groupby(pairs["configuration"]).sum() for table in (values.fillna(0.0), values.notna()))
    means = total / count.where(count > 0)
    ends = [pairs[["configuration", end]].set_axis(["configuration", "seed"], axis=1) for end in ("seed_a", "seed_b")]
    keys = pd.MultiIndex.from_frame(pd.concat(ends, ignore_index=True))
    doubled = pd.concat([values, values], ignore_index=True)
    doubled.index = keys
    with_one, with_count = (t.groupby(level=[0, 1]).sum() for t in (doubled.fillna(0.0), doubled.notna()))
    configuration = with_one.index.get_level_values("configuration")
    left = count.loc[configuration].to_numpy() - with_count.to_numpy()
    without = (total.loc[configuration].to_numpy() - with_one.to_numpy()) / np.where(left > 0, left, np.nan)
    # A network that is in no measured pair changes nothing when it is left out, and does not count.
    is_used = with_count.to_numpy() > 0
    deviation = pd.DataFrame(without - means.loc[configuration].to_numpy(), index=configuration, columns=names)
    squares = (deviation**2).where(is_used).groupby(level=0).sum(min_count=1)
    used = pd.DataFrame(is_used, index=configuration, columns=names).groupby(level=0).sum()
    # Where the rest of the networks has no pair there is nothing to compare with, so the error is not known.
    is_known = pd.DataFrame(~is_used | (left > 0), index=configuration, columns=names).groupby(level=0).all()
    return means, pd.DataFrame(np.sqrt(squares * (used - 1) / used.where((used >= 3) & is_known)))
