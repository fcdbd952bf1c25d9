"""What a finding's function returns, and helpers that several of them share. NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Seen(NamedTuple):
    """A finding that holds to some degree: how sure, in [0, 1], and its measured values by name."""

    strength: float
    values: dict[str, Any]


def ramp(value: float, zero: float, one: float) -> float:
    """Return 0 at `zero`, 1 at `one`, linear between and clipped beyond; 0 for what is not a number.

    >>> ramp(3.0, 2.0, 4.0), ramp(9.0, 2.0, 4.0), ramp(1.0, 4.0, 2.0)
    (0.5, 1.0, 1.0)
    """
    position = (value - zero) / (one - zero)
    return float(np.clip(position, 0, 1)) if np.isfinite(position) else 0.0


def root_mean_square(values: np.ndarray) -> float:
    """Return the root mean square, 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


def kernels_of(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the leaves with at least two axes that have 4 inputs and 2 units or more."""
    return {
        name: leaf
        for name, leaf in params.items()
        if leaf.ndim > 1 and leaf.shape[-1] > 1 and leaf.size // leaf.shape[-1] >= 4
    }


def randomness_of(params: Mapping[str, np.ndarray], outputs: int) -> float:
    """Return how much the kernels look as if they were drawn at random and hardly trained since, in [0, 1].

    Large steps of training leave few strong directions, single large weights, and biases as large as the weights;
    drawn numbers have as many directions as their shape allows, and biases start from 0.
    """
    inner = [leaf for leaf in kernels_of(params).values() if leaf.shape[-1] != outputs] or [
        *kernels_of(params).values()
    ]
    if not inner:
        return 0.0
    found = []
    for leaf in inner:
        matrix = leaf.reshape(-1, leaf.shape[-1]).astype(np.float64)
        if not (size := root_mean_square(matrix)):
            return 0.0
        scaled = matrix / size
        # Few rows or columns have no directions to count.
        if min(matrix.shape) >= 8:
            directions = matrix.size / np.linalg.norm(scaled, 2) ** 2
            of_drawn = matrix.size / sum(np.sqrt(matrix.shape)) ** 2
            found.append(ramp(float(directions / of_drawn), 0.4, 0.8))
        found.append(ramp(float(np.mean(scaled**4)), 9.0, 4.0))  # 3 of normal numbers
    biases = [leaf for leaf in params.values() if leaf.ndim == 1 and leaf.size > 1]
    if biases:
        size = root_mean_square(np.concatenate([leaf.ravel() for leaf in inner]))
        found.append(ramp(root_mean_square(np.concatenate(biases)) / max(size, 1e-300), 0.6, 0.2))
    return min(found)


def gains_of(params: Mapping[str, np.ndarray], outputs: int) -> list[float]:
    """Return root mean square × root of the inputs of every kernel but those of the last layer.

    About 1 keeps the size of what passes through, as LeCun's initialization; He's is 1.4.
    """
    inner = [leaf for leaf in kernels_of(params).values() if leaf.shape[-1] != outputs]
    return [root_mean_square(leaf) * float(np.sqrt(leaf.size // leaf.shape[-1])) for leaf in inner]
