"""Sequences of characters from a seeded grammar whose entropy is known, for language models.

The next character depends on the two before it: of the `VOCABULARY` characters, three can follow each pair, with
probabilities `SHARES`, so the best possible loss is `ENTROPY` nats a token, and the best possible error the
probability of all but the likeliest, 40 %. Which three is drawn once, by a fixed seed. Sequences start with a pair
that is drawn uniformly.

Inputs are the first `CONTEXT` characters of a sequence of one more, targets the last ones; the target after the first
character alone does not count (-1), because it cannot be known from it.
"""

from __future__ import annotations

import numpy as np

from mdtree_jax.data.source import RawDataset, Source

VOCABULARY, CONTEXT = 16, 32
SHARES = (0.6, 0.3, 0.1)
#: Of the distribution of the next character, nats.
ENTROPY = float(-np.sum(np.array(SHARES) * np.log(SHARES)))
_SEED = 20240610
_NUM_TRAIN, _NUM_TEST = 2000, 1000


def followers() -> np.ndarray:
    """Return the characters that can follow each pair, the likeliest first, (VOCABULARY, VOCABULARY, 3)."""
    rng = np.random.default_rng(_SEED)
    orders = [rng.permutation(VOCABULARY)[: len(SHARES)] for _ in range(VOCABULARY**2)]
    return np.array(orders).reshape(VOCABULARY, VOCABULARY, len(SHARES))


def load_grammar(source: Source) -> RawDataset:
    """Make 2000 training and 1000 test sequences of 32 of 16 characters; the same on every machine."""
    del source  # made here: there is nothing to find
    rng, table = np.random.default_rng(_SEED + 1), followers()
    number = _NUM_TRAIN + _NUM_TEST
    characters = np.empty((number, CONTEXT + 1), np.int64)
    characters[:, :2] = rng.integers(0, VOCABULARY, (number, 2))
    # By integers, so that no rounding of a machine reaches the result.
    bounds = np.cumsum([round(1000 * share) for share in SHARES])
    for place in range(2, CONTEXT + 1):
        which = np.searchsorted(bounds, rng.integers(0, 1000, number), side="right")
        characters[:, place] = table[characters[:, place - 2], characters[:, place - 1], which]
    x, y = characters[:, :-1], characters[:, 1:].copy()
    y[:, 0] = -1
    return RawDataset(x[:_NUM_TRAIN], y[:_NUM_TRAIN], x[_NUM_TRAIN:], y[_NUM_TRAIN:], VOCABULARY)
