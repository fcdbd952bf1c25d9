"""From gains that a network may have to answers: the cause, each question, the remedies in order. NumPy.

Probabilities are shares of draws (`gain_model.GainModel.draw`). A remedy whose gain is not known is NaN, and left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdtree_jax.registry.causes import NONE
from mdtree_jax.registry.remedies import REMEDIES, Comparison

#: Gain below which nothing is said to be gained, points.
LEAST_GAIN = 1.0
#: Share of the best gain with which a remedy that costs nothing wins.
FREE_SHARE = 2 / 3


def weighed(gains: np.ndarray, remedies: Sequence[str]) -> np.ndarray:
    """Return gains (…, remedies) by which remedies are chosen: free ones count for 3/2, unknown ones not at all."""
    free = np.array([REMEDIES[name].is_free for name in remedies])
    known = np.where(np.isfinite(gains), gains, -np.inf)
    return np.where(free & (known > 0), known / FREE_SHARE, known)


def best_remedy(gains: np.ndarray, remedies: Sequence[str]) -> np.ndarray:
    """Return the place of the remedy that wins, (…), -1 where none gains `LEAST_GAIN` points."""
    scores = weighed(gains, remedies)
    best = scores.argmax(axis=-1)
    gained = np.take_along_axis(np.where(np.isfinite(gains), gains, -np.inf), best[..., None], axis=-1)[..., 0]
    return np.where(gained >= LEAST_GAIN, best, -1)


def cause_chances(draws: np.ndarray, remedies: Sequence[str]) -> dict[str, np.ndarray]:
    """Return cause -> its probability, (rows,), of draws (rows, number, remedies); with `none`."""
    best = best_remedy(draws, remedies)
    causes = list(dict.fromkeys(REMEDIES[name].cause for name in remedies))
    of_remedy = np.array([causes.index(REMEDIES[name].cause) for name in remedies])
    chosen = np.where(best < 0, len(causes), of_remedy[np.maximum(best, 0)])
    shares = {cause: (chosen == place).mean(axis=1) for place, cause in enumerate([*causes, NONE])}
    return shares


def lead(gains: np.ndarray, remedies: Sequence[str], comparison: Comparison) -> np.ndarray:
    """Return how much more the second answer of a comparison gains than the first, (…), NaN where one is unknown."""
    best = []
    for answer in comparison.answers:
        places = [place for place, name in enumerate(remedies) if name in comparison.remedies(answer)]
        part = np.where(np.isfinite(gains[..., places]), gains[..., places], -np.inf)
        best.append(part.max(axis=-1, initial=-np.inf))
    with np.errstate(invalid="ignore"):
        difference = best[1] - best[0]
    return np.where(np.isfinite(difference), difference, np.nan)
