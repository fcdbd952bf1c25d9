"""The diabetes data: 442 patients, ten measurements at the start, progression of the disease a year later.

Inputs and targets are standardised with the training set's mean and standard deviation. A fifth of the patients, drawn
by a fixed seed, is the test set.
Source: Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", Annals of Statistics, 2004.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdtree_jax.data.source import RawDataset, Source

_SEED = 20240610
_NUM_TEST = 88


def load_diabetes(source: Source) -> RawDataset:
    """Return 354 training and 88 test patients, tables of 10 numbers with one target; the same on every machine."""
    del source  # part of scikit-learn: there is nothing to find
    from sklearn.datasets import load_diabetes as load_patients

    found: Any = load_patients(return_X_y=True, scaled=False)
    x, y = found
    order = np.random.default_rng(_SEED).permutation(len(y))
    test, train = order[:_NUM_TEST], order[_NUM_TEST:]
    x, y = ((a - a[train].mean(0)) / a[train].std(0) for a in (x, y))
    return RawDataset(x[train], y[train], x[test], y[test], 1)
