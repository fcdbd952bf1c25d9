"""The scale on which the metrics of a test collection are read: as they are, or by their ranks.

A threshold in raw units knows the family of models that it was fitted on: another data set, schedule or architecture
shifts losses, sharpness and connectivity throughout, while which models of a collection are the sharpest stays a
statement about temperature. On the scale `rank` every metric of the test side takes the value that the train side has
at the same rank, so that thresholds keep the train side's units (quantile matching).

Assumption: both collections are grids that reach from the same kind of corner to the same kind of corner. Limit: ranks
need a collection; for one model alone there are none.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdtree_jax.collection.columns import COLUMN
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.questions import label_columns

SCALES = ("raw", "rank")
_SIZES = (*KNOBS, "num_samples", "num_parameters")


def at_ranks_of(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Return the test collection with every metric put at the value that `train` has at its rank.

    Ranks are averages over ties, of finite values; a value between two of the train side is interpolated. Sizes,
    labels and rooms for improvement stay.

    >>> train, test = pd.DataFrame({"cka": [0.1, 0.2, 0.9]}), pd.DataFrame({"cka": [0.5, 0.3, 0.4]})
    >>> at_ranks_of(train, test)["cka"].round(3).tolist()
    [0.9, 0.1, 0.2]
    """
    metrics = [c for c in COLUMN if c in train and c in test and not c.startswith("rfi_")]
    out = {}
    for name in metrics:
        if name in _SIZES or name in label_columns():
            continue
        there, here = (pd.to_numeric(frame[name], errors="coerce").astype(float) for frame in (train, test))
        there = np.sort(there[np.isfinite(there)])
        ranks = here.where(np.isfinite(here)).rank()
        if len(there):
            share = (ranks - 0.5) / ranks.notna().sum()
            out[name] = np.interp(share, (np.arange(len(there)) + 0.5) / len(there), there)
    mapped = test.assign(**out)
    mapped.attrs.update(test.attrs)
    return mapped
