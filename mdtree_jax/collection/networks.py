"""One row per trained network: its evidence, and the measured gain of every remedy that the grid can show.

The gain of a remedy is read from the grid: the configuration that differs in the remedy's knob alone, by its factor.
Where the grid has no such configuration the gain is NaN, never 0. Gains come in three columns:

| column | value |
|---|---|
| `gain_<remedy>` | mean over the seeds, points of test error |
| `gain_<remedy>_own`, `gain_<remedy>_other` | from the row's own seed, and from the mean of the others |

so that the best remedy can be chosen on one half of the seeds and read on the other. `<remedy>_short<n>` is the
validation error of the racer of the remedy at 1/n of the steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mdtree_jax.registry.remedies import REMEDIES, Remedy

#: Relative difference below which a value of a knob is the one that a remedy leads to: 3 and 10 are a factor 3 apart.
_EQUAL = 0.15
SHARES = (16, 8, 4)


def neighbours(table: pd.DataFrame, remedy: Remedy, axes: Sequence[str]) -> np.ndarray:
    """Return for each configuration the place of the one that the remedy leads to, (rows,), -1 where there is none."""
    if not remedy.factor or remedy.knob not in axes:
        return np.full(len(table), -1)
    rest = [axis for axis in axes if axis != remedy.knob]
    lines: dict[tuple, list[tuple[float, int]]] = {}
    keys = list(zip(*(table[axis].tolist() for axis in rest), strict=True)) if rest else [()] * len(table)
    values = table[remedy.knob].to_numpy(float)
    for place, key in enumerate(keys):
        lines.setdefault(key, []).append((values[place], place))
    out = np.full(len(table), -1)
    for place, key in enumerate(keys):
        wanted = values[place] * remedy.factor
        for value, other in lines[key]:
            if wanted > 0 and abs(value / wanted - 1) < _EQUAL:
                out[place] = other
    return out


def with_gains(networks: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Return the table of networks of one grid with the columns of gains and racers.

    Args:
        networks: one row per network with `configuration`, `seed`, `test_error`, the knobs of `axes`.
        axes: the knobs that the grid varies.
    """
    configurations = networks.groupby("configuration", sort=True)[list(axes)].first()
    errors = networks.pivot(index="configuration", columns="seed", values="test_error").loc[configurations.index]
    place = configurations.index.get_indexer(pd.Index(networks["configuration"]))
    seed = errors.columns.get_indexer(pd.Index(networks["seed"]))
    values = errors.to_numpy(float)
    added: dict[str, np.ndarray] = {}
    for remedy in REMEDIES.values():
        target = neighbours(configurations, remedy, axes)
        if (target < 0).all():
            continue
        gain = np.where(target[:, None] >= 0, values - values[target], np.nan)
        there = np.isfinite(gain)
        total, count = np.where(there, gain, 0).sum(axis=1), there.sum(axis=1)
        own = gain[place, seed]
        with np.errstate(invalid="ignore", divide="ignore"):
            added[f"gain_{remedy.name}"] = np.where(count > 0, total / count, np.nan)[place]
            others = count[place] - np.isfinite(own)
            rest = total[place] - np.where(np.isfinite(own), own, 0)
            added[f"gain_{remedy.name}_other"] = np.where(others > 0, rest / others, np.nan)
        added[f"gain_{remedy.name}_own"] = own
        for share in SHARES:
            if (column := f"short{share}_validation_error") in networks:
                short = networks.pivot(index="configuration", columns="seed", values=column).loc[configurations.index]
                raced = np.where(target[:, None] >= 0, short.to_numpy(float)[target], np.nan)
                added[f"{remedy.name}_short{share}"] = raced[place, seed]
    return pd.concat([networks, pd.DataFrame(added, index=networks.index)], axis=1)
