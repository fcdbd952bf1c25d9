"""Tables of what was measured of a cohort. On the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from mdtree_jax.measuring.flops import MeasureCost
from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.registry.kernels import KERNELS

Results = Mapping[str, Mapping[str, np.ndarray]]
Pairs = Sequence[tuple[int, int]]


class MeasuredCohort(NamedTuple):
    """What was measured, as tables.

    Attributes:
        members: one row per network: configuration, seed, metrics of one network, their costs.
        pairs: one row per pair of finite networks of a configuration: configuration, seed_a, seed_b, metrics of two,
            their costs; NaN where a curve or line was not measured for the pair.
        layers: one row per network and parameter array: configuration, seed, layer, hessian_trace and its standard
            error.
        num_compilations: of programs in this call.
        compile_seconds: for them, or to fetch them from the persistent cache.
        choices: what was decided by memory, for the record.
    """

    members: pd.DataFrame
    pairs: pd.DataFrame
    layers: pd.DataFrame
    num_compilations: int
    compile_seconds: float
    choices: dict[str, Any]


def member_table(
    cohort: Cohort, results: Results, cost: MeasureCost, counts: np.ndarray, rows: Sequence[int]
) -> pd.DataFrame:
    """Return one row per network: configuration, seed, and what was measured of it, NaN where nothing was.

    Args:
        cohort: whose members `rows` and `counts` are of.
        results: stage -> name -> values of the measured networks, in the order of `rows`.
        cost: of measuring.
        counts: training images of every member.
        rows: of the measured networks.
    """
    members, places = cohort.members, np.asarray(rows, int)
    columns: dict[str, Any] = {"configuration": [m.index for m in members], "seed": [m.seed for m in members]}
    for stage in (kernel.name for kernel in KERNELS.values() if not kernel.is_of_pairs):
        found = results.get(stage, {})
        for name, values in found.items():
            if values.ndim == 1:
                columns[f"{stage}_seconds" if name == "seconds" else name] = scatter(values, places, len(members))
        if found:
            products = found.get(f"{stage}_products", [None] * len(places))
            flops = [cost.flops(stage, n, p) for n, p in zip(counts[places], products, strict=True)]
            columns[f"{stage}_flops"] = scatter(np.array(flops), places, len(members))
    return pd.DataFrame(columns)


def pair_table(
    cohort: Cohort,
    results: Results,
    cost: MeasureCost,
    counts: np.ndarray,
    all_pairs: Pairs,
    pairs: Pairs,
    compared: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """Return one row per pair: configuration, both seeds, and what was measured of it.

    Args:
        cohort, results, cost, counts: as of `member_table`; results of pairs are in the order of `pairs`.
        all_pairs: the rows of the table.
        pairs: those between which lines and curves were measured.
        compared: similarities, in the order of `all_pairs`.
    """
    members = cohort.members
    table = pd.DataFrame(
        {
            "configuration": np.array([members[a].index for a, _ in all_pairs], np.int64),
            "seed_a": np.array([members[a].seed for a, _ in all_pairs], np.int64),
            "seed_b": np.array([members[b].seed for _, b in all_pairs], np.int64),
            **compared,
        }
    )
    position = {pair: index for index, pair in enumerate(all_pairs)}
    at = np.array([position[pair] for pair in pairs], int)
    for kernel in (kernel for kernel in KERNELS.values() if kernel.is_of_pairs):
        found = results.get(kernel.name, {})
        for name, values in found.items():
            column = f"{kernel.name}_seconds" if name == "seconds" else kernel.prefix + name
            table[column] = scatter(values, at, len(table))
        if found:
            flops = np.array([cost.flops(kernel.name, counts[a]) for a, _ in pairs])
            table[f"{kernel.name}_flops"] = scatter(flops, at, len(table))
    return table.sort_values(["configuration", "seed_a", "seed_b"], ignore_index=True)


def layer_table(
    cohort: Cohort, rows: Sequence[int], params: Any, found: Mapping[str, np.ndarray] | None
) -> pd.DataFrame:
    """Return one row per measured network and parameter array, with its part of the Hessian trace.

    Args:
        cohort: whose members `rows` are.
        rows: of the networks, in the order of the arrays.
        params: of the networks, for the names of the arrays.
        found: `layer_traces` and `layer_traces_se`, (networks, arrays) each; empty or None if not measured.
    """
    columns = ["configuration", "seed", "layer", "hessian_trace", "hessian_trace_se"]
    if not found:
        return pd.DataFrame(columns=columns)
    names = layer_names(params)
    frames = [
        pd.DataFrame(
            {
                "configuration": cohort.members[row].index,
                "seed": cohort.members[row].seed,
                "layer": names,
                "hessian_trace": found["layer_traces"][index],
                "hessian_trace_se": found["layer_traces_se"][index],
            }
        )
        for index, row in enumerate(rows)
    ]
    return pd.concat(frames, ignore_index=True).sort_values(["configuration", "seed"], kind="stable", ignore_index=True)


def empty_results(name: str, length: int, like: Any) -> np.ndarray:
    """Return an array of NaN for a result of `length` items, each of the shape of those in `like`."""
    # Features can be many; everything else is a table's.
    return np.full((length, *like.shape[1:]), np.nan, like.dtype if name == "features" else float)


def layer_names(params: Any) -> list[str]:
    """Return the names of parameter arrays, in the order of their leaves."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return ["/".join(str(getattr(key, "key", key)) for key in path) for path in paths]


def scatter(values: np.ndarray, rows: np.ndarray, length: int) -> Any:
    """Return `values` at `rows` of a column of `length`, NaN (or None for arrays) elsewhere."""
    if values.ndim == 1:
        column = np.full(length, np.nan)
        column[rows] = values
        return column
    column = [None] * length
    for row, value in zip(rows, values, strict=True):
        column[row] = value
    return column
