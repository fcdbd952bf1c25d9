"""Networks after the repair that costs nothing: statistics of BatchNorm recomputed, weights as they are. NumPy, pandas.

What retraining gains is predicted for the repaired network, and what the repair gains is added: an error that stale
statistics make says nothing of the training.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdtree_jax.registry.probes import CHECKPOINT, REFRESHED

#: What makes a network better by so many paired standard errors is no accident.
SURE_BY = 2.0


def as_repaired(networks: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Return networks with the errors and losses that they have with recomputed statistics, and what that gains.

    Args:
        networks: one row per network; where the columns `refreshed_<side>_<error or loss>` are missing, or the repair
            does not surely lower the validation error, a row stays as it is.

    Returns:
        The table, and the points of validation error that the repair gains, (rows,), 0 where it does not count.
    """
    missing = np.full(len(networks), np.nan)

    def column(name: str) -> np.ndarray:
        return np.asarray(networks.get(name, missing), float)

    gained = column(f"{CHECKPOINT}_validation_error") - column(f"{REFRESHED}_validation_error")
    spread = np.nan_to_num(column(f"{REFRESHED}_validation_error_change_se"))
    with np.errstate(invalid="ignore"):
        is_sure = (gained > 0) & (gained > SURE_BY * spread)
    if not is_sure.any():
        return networks, np.zeros(len(networks))
    names = [f"{side}_{kind}" for side in ("train", "validation") for kind in ("error", "loss")]
    changed = {}
    for name in names:
        if name in networks:
            after = column(f"{REFRESHED}_{name}")
            changed[name] = np.where(is_sure & np.isfinite(after), after, column(name))
    return networks.assign(**changed), np.where(is_sure, gained, 0.0)
