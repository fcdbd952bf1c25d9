"""Tables of what was measured of a cohort. On the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd

from mdtree_jax.population.cohort import Cohort


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
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names = ["/".join(str(getattr(key, "key", key)) for key in path) for path in paths]
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
