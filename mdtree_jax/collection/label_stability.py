"""Stability of the labels of a collection: would other seeds have given the same labels?

A label compares the best test errors along the axes of the grid, so it depends on the variation between the few
networks of a configuration. The bootstrap (Efron, 1979) resamples the networks of every configuration with
replacement, averages their test errors, and labels the whole grid again.

Limits: for `n` networks, the bootstrap standard deviation of a mean is √((n - 1) / n) of the unbiased estimate (0.82
for three), so `inflate`, on by default, stretches the deviation of every draw from the mean by the inverse. If a
configuration has only one network, its deviation is normal with the pooled standard deviation of the others. The best
values along an axis are minima over noisy means, to which the bootstrap adds noise, so it tends to underestimate
stability.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.collection.grid import compute_labels, make_grid
from mdtree_jax.collection.moves import axes_of
from mdtree_jax.collection.tasks import TASKS, takes_part
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.questions import label_columns

#: Share of the draws that must agree on a label for it to be called stable.
STABLE = 0.85


def label_agreement(networks: pd.DataFrame, *, draws: int = 200, seed: int = 0, inflate: bool = True) -> pd.DataFrame:
    """Return, for every configuration, the share of bootstrap draws that give it the label of the means.

    Args:
        networks: one row per network with its knobs (`width`, `batch_size`, `data_fraction` and others that vary) and
            `test_error` (in percent; NaN if it diverged), for a complete grid or a random search.
        draws: number of bootstrap draws.
        seed: of the draws.
        inflate: stretch the draws to the unbiased standard deviation of the mean.

    Returns:
        One row per configuration with a finite network, in the order of the axes: the axes, the three labels, and
        `agreement_<label>` in [0, 1], NaN where there is no label.

    Raises:
        UserError: a configuration is missing or has no finite network, or none has two.
    """
    finite = networks[np.isfinite(networks["test_error"])]
    axes = list(axes_of(networks[[name for name in KNOBS if name in networks]].drop_duplicates()))
    grouped = finite.groupby(axes, sort=True)["test_error"]
    means = grouped.mean().reset_index()
    if len(means) < networks.groupby(axes).ngroups:
        raise UserError("the table of networks has configurations with only diverged networks; remove them")
    values = [group.to_numpy() for _, group in grouped]
    count = np.array([len(group) for group in values])
    # Padded to a rectangle; a draw picks among a configuration's own networks only.
    padded = np.zeros((len(values), count.max()))
    for row, group in zip(padded, values, strict=True):
        row[: len(group)] = group
    rng = np.random.default_rng(seed)
    grid = make_grid(means)
    computed = compute_labels(grid)
    labels = computed[[name for name in label_columns() if name in computed]]
    stretch = np.sqrt(count / np.maximum(count - 1, 1)) if inflate else np.ones(len(count))
    alone = count == 1
    if alone.all():
        raise UserError("every configuration has only one network; label stability needs two or more")
    scatter = np.sqrt(np.mean([group.var(ddof=1) for group in values if len(group) > 1]))
    centre, agree = means["test_error"].to_numpy(), np.zeros(labels.shape)
    for _ in range(draws):
        picked = (rng.random(padded.shape) * count[:, None]).astype(int)
        taken = np.arange(padded.shape[1]) < count[:, None]
        drawn = (np.take_along_axis(padded, picked, axis=1) * taken).sum(axis=1) / count
        drawn[alone] += scatter * rng.standard_normal(alone.sum())
        again = replace(grid, test_error=centre + stretch * (drawn - centre))
        agree += (compute_labels(again)[list(labels)] == labels).to_numpy()
    agree[labels.isna().to_numpy()] = np.nan
    shares = pd.DataFrame(agree / draws, columns=[f"agreement_{name}" for name in labels])
    return pd.concat([means[axes], labels, shares], axis=1)


def label_stability(agreement: pd.DataFrame) -> pd.DataFrame:
    """Return one row per task: number of `models`, their mean `agreement`, and the share of `stable` labels.

    A label is stable if at least `STABLE` of the draws agree on it. `agreement` is a result of `label_agreement`.
    """
    rows = []
    for task in (task for task in TASKS.values() if task.label in agreement):
        shares = agreement.loc[takes_part(agreement, task), f"agreement_{task.label}"]
        rows.append((task.name, len(shares), shares.mean(), (shares >= STABLE).mean()))
    return pd.DataFrame(rows, columns=["task", "models", "agreement", "stable"])
