"""Which configurations of a collection train a tree: the published samplings.

The legacy generator is re-seeded for every (k, seed): samples are nested in k (docs/explanation/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd


class Sampling(NamedTuple):
    """One way to sample.

    `sizes(frame)` are the k of the published experiments, `limits(frame)` the smallest and largest k that mean
    something on this frame, `mask(frame, k, seed)` (rows,) bool marks the sample, `random` says if the seed matters.
    """

    name: str
    unit: str
    sizes: Callable[[pd.DataFrame], Sequence[int]]
    limits: Callable[[pd.DataFrame], tuple[int, int]]
    mask: Callable[[pd.DataFrame, int, int], np.ndarray]
    random: bool


def _choice(number: int, k: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).choice(number, size=k, replace=False)


def _random_cells(frame: pd.DataFrame, k: int, seed: int) -> np.ndarray:
    data, data_place = np.unique(frame["data_fraction"], return_inverse=True)
    width, width_place = np.unique(frame["width"], return_inverse=True)
    chosen = np.zeros(len(data) * len(width), dtype=bool)
    chosen[_choice(len(chosen), k, seed)] = True
    return chosen[data_place * len(width) + width_place]


def _random_values(column: str) -> Callable[[pd.DataFrame, int, int], np.ndarray]:
    def mask(frame: pd.DataFrame, k: int, seed: int) -> np.ndarray:
        values, place = np.unique(frame[column], return_inverse=True)
        return np.isin(place, _choice(len(values), k, seed))

    return mask


def _count(column: str) -> Callable[[pd.DataFrame], int]:
    return lambda frame: frame[column].nunique()


def _up_to(count: Callable[[pd.DataFrame], int], most: int | None = None):
    def sizes(frame):
        return range(1, min(count(frame), most or count(frame)) + 1)

    return sizes, lambda frame: (1, count(frame))


def _num_cells(frame: pd.DataFrame) -> int:
    return frame["data_fraction"].nunique() * frame["width"].nunique()


def _data_limit(frame: pd.DataFrame, k: int, seed: int) -> np.ndarray:
    return np.unique(frame["data_fraction"], return_inverse=True)[1] < k


def _width_limit(frame: pd.DataFrame, k: int, seed: int) -> np.ndarray:
    return frame["width"].to_numpy() <= k


def _widths(frame: pd.DataFrame) -> list[int]:
    return np.unique(frame["width"]).tolist()


SAMPLINGS = {
    sampling.name: sampling
    for sampling in (
        Sampling("random", "(data, width) cells", *_up_to(_num_cells, 24), _random_cells, True),
        Sampling(
            "random_data", "data fractions", *_up_to(_count("data_fraction")), _random_values("data_fraction"), True
        ),
        Sampling("random_width", "widths", *_up_to(_count("width")), _random_values("width"), True),
        Sampling("data_limit", "smallest data fractions", *_up_to(_count("data_fraction")), _data_limit, False),
        Sampling(
            "width_limit",
            "largest width",
            _widths,
            lambda frame: (int(frame["width"].min()), int(frame["width"].max())),
            _width_limit,
            False,
        ),
    )
}
