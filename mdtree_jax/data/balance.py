"""An order of examples in which every prefix is balanced between the classes: subsets of training sets are prefixes."""

from __future__ import annotations

import numpy as np


def in_rounds(labels: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Return an order in which every round of `num_classes` examples holds one of each class.

    Args:
        labels: (n,), 0 … `num_classes` - 1; of every class as many are used as of the rarest.
        num_classes: of them.
        rng: draws which example is where.

    >>> labels = np.array([0, 1, 1, 0, 1, 0, 1])
    >>> order = in_rounds(labels, 2, np.random.default_rng(0))
    >>> sorted(labels[order[:2]].tolist()), sorted(labels[order[2:4]].tolist()), len(order)
    ([0, 1], [0, 1], 6)
    """
    members = [rng.permutation(np.flatnonzero(labels == c)) for c in range(num_classes)]
    rounds = min(map(len, members))
    return rng.permuted(np.stack([m[:rounds] for m in members], axis=1), axis=1).ravel()
