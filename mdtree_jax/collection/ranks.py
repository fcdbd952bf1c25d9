"""The scale of the metrics of a test collection: raw values, or values matched by rank.

A threshold in raw units is specific to the family of models that it was fitted on: another data set, schedule or
architecture shifts all losses, sharpness and connectivity, while the ranking of the models of a collection by sharpness
remains informative about temperature. With the scale `rank`, every metric of the test side is replaced by the value of
the same rank on the train side, so that thresholds keep the units of the train side (quantile matching).

Assumption: both collections are grids that cover comparable ranges of settings. Limit: ranks need a collection; they do
not exist for a single model.
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
    """Return the test collection with every metric replaced by the value of the same rank in `train`.

    Ranks are computed over finite values and averaged over ties; values between two ranks of the train side are
    interpolated. Sizes, labels and rooms for improvement are unchanged.

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
