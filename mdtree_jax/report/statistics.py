"""Means with intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student


def over_seeds(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Return mean, population s.d., half-width of the 95 % interval of the mean (Student's t) and the number of seeds.

    The half-width is NaN for a single seed, 0 where every seed gives the same value.
    """
    grouped = table.groupby(list(by), sort=False)[value]
    out = grouped.agg(["mean", "count"])
    out["sd"] = grouped.std(ddof=0)
    spread = grouped.std(ddof=1)
    out["half_width"] = student.ppf(0.975, np.maximum(out["count"] - 1, 1)) * spread / np.sqrt(out["count"])
    # Rounding leaves a trace of 1e-14 where all seeds agree.
    same = grouped.max() == grouped.min()
    out.loc[same & (out["count"] > 1), ["sd", "half_width"]] = 0.0
    return out


def with_interval(mean: float, half_width: float, decimals: int = 2) -> str:
    """Return `87.71 ± 3.21`, or the bare mean where there is no spread over seeds."""
    if not np.isfinite(mean):
        return "–"
    shown = f"{mean:.{decimals}f}"
    return f"{shown} ± {half_width:.{decimals}f}" if np.isfinite(half_width) and half_width > 0 else shown
