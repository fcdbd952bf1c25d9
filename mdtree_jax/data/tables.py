"""Generated tables of numbers: `teacher` and `tabular` with classes, `friedman` and `waves` with one number to predict.

Each is made from a fixed seed, of any size; training examples are drawn before test examples, from the same
distribution. Numbers are rounded to 1/256, so that the last bit of a function, which differs between machines, cannot
reach the result. Inputs, and targets that are numbers, are in units in which the training set has mean 0 and standard
deviation 1; the targets of the test set hold the noise too, so the best possible error is above 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mdtree_jax.data.balance import in_rounds
from mdtree_jax.data.source import RawDataset, Source

_SEED = 20240610
_NUM_TRAIN, _NUM_TEST = 2048, 6144


def load_teacher(source: Source, num_train: int = _NUM_TRAIN, num_test: int = _NUM_TEST) -> RawDataset:
    """Label 20 Gaussian numbers by a random network of one layer of 12 tanh units, 6 classes, all of one size."""
    del source  # made here: there is nothing to find
    rng = np.random.default_rng((_SEED, 0))
    first, second = rng.standard_normal((20, 12)) * 3 / np.sqrt(20), rng.standard_normal((12, 6))
    x = rounded(rng.standard_normal((3 * (num_train + num_test), 20)))
    scores = np.tanh(x @ first) @ second
    # The means of the scores decide how many examples a class has: without them, none is very rare.
    return classes(x, (scores - scores.mean(0)) / scores.std(0), rng, num_train, num_test)


def load_tabular(source: Source, num_train: int = _NUM_TRAIN, num_test: int = _NUM_TEST) -> RawDataset:
    """Make rows of 24 columns and 5 classes, each class a mixture of four Gaussian clusters.

    Eight columns tell, eight are mixtures of these, four are of no use, and four are exponentials: of long tails.
    """
    del source  # made here: there is nothing to find
    rng = np.random.default_rng((_SEED, 1))
    num, num_classes, clusters = 2 * (num_train + num_test), 5, 4
    centres = 1.3 * rng.standard_normal((num_classes, clusters, 8))
    shapes = np.eye(8) + 0.5 * rng.standard_normal((num_classes, clusters, 8, 8))
    label, cluster = rng.integers(0, num_classes, num), rng.integers(0, clusters, num)
    noise = rng.standard_normal((num, 8))
    telling = centres[label, cluster] + np.einsum("ni,nij->nj", noise, shapes[label, cluster])
    mixed = telling @ rng.standard_normal((8, 8)) / np.sqrt(8) + 0.3 * rng.standard_normal((num, 8))
    tails = np.exp(0.5 * telling[:, :4] + 0.3 * rng.standard_normal((num, 4)))
    x = np.concatenate([telling, mixed, rng.standard_normal((num, 4)), tails], axis=1)
    return classes(x, np.eye(num_classes)[label], rng, num_train, num_test)


def load_friedman(source: Source, num_train: int = _NUM_TRAIN, num_test: int = _NUM_TEST) -> RawDataset:
    """Make the first problem of Friedman (1991), of 12 uniform numbers of which five tell, twice, and noise.

    The second time with five other columns and half of the weight. The noise is 4 % of the variance.
    """
    del source  # made here: there is nothing to find

    def once(x: np.ndarray) -> np.ndarray:
        return 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]

    rng = np.random.default_rng((_SEED, 2))
    x = rounded(rng.uniform(0, 1, (num_train + num_test, 12)))
    return numbers(x, lambda x: once(x) + 0.5 * once(x[:, 5:10]), 0.2, rng, num_train)


def load_waves(source: Source, num_train: int = _NUM_TRAIN, num_test: int = _NUM_TEST) -> RawDataset:
    """Make a sum of 40 random plane waves of 5 Gaussian numbers, and noise of 4 % of the variance."""
    del source  # made here: there is nothing to find
    rng = np.random.default_rng((_SEED, 3))
    directions, phases = rng.standard_normal((5, 40)) * 0.6, rng.uniform(0, 2 * np.pi, 40)
    heights = rng.standard_normal(40)
    x = rounded(rng.standard_normal((num_train + num_test, 5)))
    return numbers(x, lambda x: np.cos(x @ directions + phases) @ heights, 0.2, rng, num_train)


def rounded(x: np.ndarray) -> np.ndarray:
    """Return numbers in steps of 1/256."""
    return np.round(x * 256) / 256


def classes(x: np.ndarray, scores: np.ndarray, rng: np.random.Generator, num_train: int, num_test: int) -> RawDataset:
    """Return a data set whose label is the largest score, classes balanced, (n, d) and (n, classes).

    Of the `x` as many are used as are needed: every class must be among them often enough.
    """
    labels = scores.argmax(1)
    order = in_rounds(labels, scores.shape[1], rng)[: num_train + num_test]
    if len(order) < num_train + num_test:
        raise ValueError(f"only {len(order)} of {num_train + num_test} examples: a class is too rare")
    x, labels = standardised(x[order], num_train), labels[order]
    return RawDataset(x[:num_train], labels[:num_train], x[num_train:], labels[num_train:], scores.shape[1])


def numbers(
    x: np.ndarray, function: Callable[[np.ndarray], np.ndarray], noise: float, rng: np.random.Generator, num_train: int
) -> RawDataset:
    """Return a data set of a function of `x`, (n, d), with noise of a share `noise` of its standard deviation."""
    y = function(x)
    y = standardised(y + noise * y.std() * rng.standard_normal(len(y)), num_train)
    x = standardised(x, num_train)
    return RawDataset(x[:num_train], y[:num_train], x[num_train:], y[num_train:], 1)


def standardised(x: np.ndarray, num_train: int) -> np.ndarray:
    """Return columns less their mean over their standard deviation on the first `num_train`, in steps of 1/256."""
    return rounded((x - x[:num_train].mean(0)) / x[:num_train].std(0)).astype(np.float32)
