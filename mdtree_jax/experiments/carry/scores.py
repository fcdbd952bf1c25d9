"""How good predictions are: shares with intervals, answers, calibration, coverage. NumPy and pandas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.causes.gain_answers import LEAST_GAIN, lead
from mdtree_jax.experiments.carry.networks import Networks, best_gain, causes, standard_errors
from mdtree_jax.registry.remedies import COMPARISONS


def balanced(truth: np.ndarray, told: np.ndarray) -> float:
    """Return the balanced accuracy of two classes, NaN where one is empty."""
    parts = [np.mean(told[truth == one] == one) for one in (True, False) if (truth == one).any()]
    return float(np.mean(parts)) if len(parts) == 2 else float("nan")


def surest(networks: Networks, scores: np.ndarray) -> np.ndarray:
    """Return how far the best cause is ahead of the next, relative to the error, (rows,)."""
    of_remedy, names = causes(networks)
    best = np.stack([scores[:, of_remedy == place].max(axis=1) for place in range(len(names))], axis=1)
    ordered = np.sort(np.where(np.isfinite(best), best, -1e3), axis=1)
    return (ordered[:, -1] - np.maximum(ordered[:, -2], 0)) / (networks.error + 1)


class Interval(NamedTuple):
    """A mean over families with its 95 % interval: families are drawn, then configurations within them."""

    mean: float
    low: float
    high: float


def bootstrap(networks: Networks, gained: np.ndarray, against: np.ndarray | None = None, seed: int = 0) -> Interval:
    """Return the share of the best gain, mean over families, or its difference to that of another advice."""
    best, rng = best_gain(networks), np.random.default_rng(seed)
    configuration = networks.table["configuration"].to_numpy()
    sums = []  # by family: configuration -> (gained, against, best)
    for family in pd.unique(networks.table["family"]):
        rows = (networks.table["family"] == family).to_numpy()
        codes, _ = pd.factorize(configuration[rows])
        parts = (gained, np.zeros_like(gained) if against is None else against, best)
        sums.append(np.stack([np.bincount(codes, part[rows]) for part in parts]))

    def mean(draw: list[np.ndarray]) -> float:
        return float(np.mean([(total[0] - total[1]) / max(total[2], 1e-9) for total in draw]))

    draws = []
    for _ in range(1000):
        chosen = [sums[i] for i in rng.integers(len(sums), size=len(sums))]
        draws.append(mean([one[:, rng.integers(one.shape[1], size=one.shape[1])].sum(axis=1) for one in chosen]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(mean([one.sum(axis=1) for one in sums]), float(low), float(high))


def decided(networks: Networks, question: str) -> tuple[np.ndarray, np.ndarray]:
    """Return in which rows a question has an answer, and whether that is the second, both (rows,) bool.

    One side is ahead by a point and by two standard errors.
    """
    found = lead(networks.gain, networks.remedies, COMPARISONS[question])
    far = np.maximum(LEAST_GAIN, 2 * standard_errors(networks))
    with np.errstate(invalid="ignore"):
        return np.isfinite(found) & (np.abs(found) >= far), found > 0


class Answering(NamedTuple):
    """How questions are answered: shares of the networks of a family, mean over families.

    Attributes:
        answered: networks of which at least one question is answered.
        right: answers that are right, of those that can be judged.
        by_question: question -> (answered, right).
        calibration: expected calibration error of all answers, also those that were withheld, points; 10 bins of equal
            mass.
    """

    answered: float
    right: float
    by_question: dict[str, tuple[float, float]]
    calibration: float


def answering(networks: Networks, answers: Mapping[str, np.ndarray], sure: Mapping[str, np.ndarray]) -> Answering:
    """Return how often questions are answered, and how often that is right."""
    number = len(networks.error)
    any_answer, judged, correct = np.zeros(number, bool), np.zeros(number), np.zeros(number)
    by_question, sureness, hits = {}, [], []
    for name, chance in answers.items():
        known, second = decided(networks, name)
        probability = np.maximum(chance, 1 - chance)
        given = np.isfinite(chance) & (probability >= sure[name])
        right = (chance > 0.5) == second
        any_answer |= given
        judged += given & known
        correct += given & known & right
        asked = np.isfinite(chance)
        share = float(given[asked].mean()) if asked.any() else float("nan")
        by_question[name] = share, float(right[given & known].mean()) if (given & known).any() else float("nan")
        sureness.append(probability[asked & known])
        hits.append(right[asked & known])
    bins = np.array_split(np.argsort(np.concatenate(sureness), kind="stable"), 10)
    told, was = np.concatenate(sureness), np.concatenate(hits)
    error = np.mean([abs(told[one].mean() - was[one].mean()) for one in bins if len(one)])
    return Answering(
        float(any_answer.mean()), float(correct.sum() / max(judged.sum(), 1)), by_question, 100 * float(error)
    )


def coverage(networks: Networks, low: np.ndarray, high: np.ndarray) -> pd.Series:
    """Return the share of measured gains within their intervals, by family."""
    known = np.isfinite(networks.gain) & np.isfinite(low)
    inside = (networks.gain >= low) & (networks.gain <= high)
    family = networks.table["family"].to_numpy()
    return pd.Series(
        {one: float(inside[rows][known[rows]].mean()) for one in pd.unique(family) for rows in [family == one]}
    )
