"""Which configurations of a collection train a tree: the published samplings, over whatever axes a collection has.

A cell is what a (data, width) pair is in the published collections: a combination of all axes but the knobs of
temperature. Of a lattice the cells are all combinations of the values that are there, of a random search the observed
ones.

The legacy generator is re-seeded for every (k, seed): samples are nested in k (docs/explanation/experiments.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.collection.moves import cell_axes, noted_axes

#: Sample sizes at the most; of more values than that every size is not tried.
MOST_SIZES = 24
#: Combinations of values at the most; a lattice of more is sampled from its observed cells.
_MOST_CELLS = 1_000_000


class Sampling(NamedTuple):
    """One way to sample.

    `sizes(frame)` are the k of the published experiments, `limits(frame)` the smallest and largest k that mean
    something on this frame, `mask(frame, k, seed)` (rows,) bool marks the sample, `random` says if the seed matters.
    `needs` is the axis that a collection must vary, None for any; `words` say what the sample is.
    """

    name: str
    unit: str
    sizes: Callable[[pd.DataFrame], Sequence[int]]
    limits: Callable[[pd.DataFrame], tuple[int, int]]
    mask: Callable[[pd.DataFrame, int, int], np.ndarray]
    random: bool
    needs: str | None = None
    words: str = ""

    def why_not(self, frame: pd.DataFrame) -> str:
        """Return why the sampling means nothing on a collection, '' if it does mean something."""
        if self.needs is None or (self.needs in frame and frame[self.needs].nunique() > 1):
            return ""
        return f"collection '{frame.attrs.get('name', 'DataFrame')}' does not vary {self.needs}"


def _choice(number: int, k: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).choice(number, size=k, replace=False)


def _cells(frame: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Return each row's cell as a number, (rows,), and how many cells there are."""
    columns = [np.unique(frame[axis], return_inverse=True)[1] for axis in cell_axes(noted_axes(frame))]
    if not columns:
        return np.zeros(len(frame), dtype=int), 1
    shape = [int(column.max()) + 1 for column in columns]
    if not frame.attrs.get("near") and math.prod(shape) <= _MOST_CELLS:
        return np.ravel_multi_index(columns, shape), math.prod(shape)
    cells, place = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return place.reshape(-1), len(cells)


def _random_cells(frame: pd.DataFrame, k: int, seed: int) -> np.ndarray:
    place, number = _cells(frame)
    chosen = np.zeros(number, dtype=bool)
    chosen[_choice(number, k, seed)] = True
    return chosen[place]


def _random_values(column: str) -> Callable[[pd.DataFrame, int, int], np.ndarray]:
    def mask(frame: pd.DataFrame, k: int, seed: int) -> np.ndarray:
        values, place = np.unique(frame[column], return_inverse=True)
        return np.isin(place, _choice(len(values), k, seed))

    return mask


def _count(column: str) -> Callable[[pd.DataFrame], int]:
    return lambda frame: frame[column].nunique()


def _up_to(count: Callable[[pd.DataFrame], int], most: int | None = None):
    """Return `sizes` and `limits`: every k up to a count, `most` or not; of too many some, evenly on a log scale."""

    def sizes(frame):
        last = min(count(frame), most or count(frame))
        if last <= MOST_SIZES:
            return range(1, last + 1)
        return np.unique(np.geomspace(1, last, MOST_SIZES).round().astype(int)).tolist()

    return sizes, lambda frame: (1, count(frame))


def _num_cells(frame: pd.DataFrame) -> int:
    return _cells(frame)[1]


def _data_limit(frame: pd.DataFrame, k: int, seed: int) -> np.ndarray:
    return np.unique(frame["data_fraction"], return_inverse=True)[1] < k


def _width_limit(frame: pd.DataFrame, k: int, seed: int) -> np.ndarray:
    return frame["width"].to_numpy() <= k


def _widths(frame: pd.DataFrame) -> list[int]:
    widths = np.unique(frame["width"])
    if len(widths) > MOST_SIZES:
        widths = widths[np.unique(np.geomspace(1, len(widths), MOST_SIZES).round().astype(int)) - 1]
    return widths.tolist()


_DATA, _WIDTH = "data_fraction", "width"
SAMPLINGS = {
    sampling.name: sampling
    for sampling in (
        Sampling("random", "cells", *_up_to(_num_cells, MOST_SIZES), _random_cells, True, words="random cells"),
        Sampling(
            "random_data",
            "data fractions",
            *_up_to(_count(_DATA)),
            _random_values(_DATA),
            True,
            _DATA,
            "random data fractions",
        ),
        Sampling(
            "random_width", "widths", *_up_to(_count(_WIDTH)), _random_values(_WIDTH), True, _WIDTH, "random widths"
        ),
        Sampling(
            "data_limit",
            "smallest data fractions",
            *_up_to(_count(_DATA)),
            _data_limit,
            False,
            _DATA,
            "the smallest data fractions",
        ),
        Sampling(
            "width_limit",
            "largest width",
            _widths,
            lambda frame: (int(frame["width"].min()), int(frame["width"].max())),
            _width_limit,
            False,
            _WIDTH,
            "the narrowest networks",
        ),
    )
}
