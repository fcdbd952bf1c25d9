"""From gains that a network may have to answers: the cause, each question, the remedies in order. NumPy.

Probabilities are shares of draws (`gain_model.GainModel.draw`). A remedy whose gain is not known is NaN, and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit, ndtri

from mdtree_jax.causes.gain_model import INTERVAL, GainModel
from mdtree_jax.causes.repaired import as_repaired
from mdtree_jax.registry.causes import NONE
from mdtree_jax.registry.probes import CHECKPOINT
from mdtree_jax.registry.remedies import COMPARISONS, REMEDIES, Comparison, Remedy

#: Gain below which nothing is said to be gained, points.
LEAST_GAIN = 1.0
#: Share of the best gain with which a remedy that costs nothing wins; one that trains nothing, also over these.
FREE_SHARE = 2 / 3
#: Share of answers that are to be right for groups that were left out, and the least probability of one that is given.
RIGHT, LEAST_SURE = 0.88, 0.6
#: Bounds of the slope by which log odds are calibrated.
_SLOPES = (0.5, 3.0)
#: Points by which one side is ahead in a network by which answers are judged.
_CLEAR = 2.0


class Assessed(NamedTuple):
    """What is known of the gains of some networks, (rows, remedies); NaN where a remedy cannot be made.

    Attributes:
        remedies: their names.
        gain, low, high, chance: as of `gain_model.Predicted`; a race has no part in them.
        scores: by which remedies are ordered: the gains, and the outcome of a race.
        draws: gains that the networks may have, what a race says included, (rows, number, remedies).
    """

    remedies: tuple[str, ...]
    gain: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: np.ndarray
    scores: np.ndarray
    draws: np.ndarray


def remedies_of(model: GainModel) -> tuple[str, ...]:
    """Return the remedies that can be assessed: those whose gain the model predicts or a probe shows."""
    return (*model.remedies, *(name for name, remedy in REMEDIES.items() if remedy.probe))


def assess(
    model: GainModel,
    networks: pd.DataFrame,
    *,
    features: Sequence[str] | None = None,
    possible: np.ndarray | None = None,
    raced: np.ndarray | None = None,
    weight: float = 1.0,
    narrowing: float = 1.0,
    number: int = 400,
) -> Assessed:
    """Return the gains of networks, from their evidence, probes and a race.

    What retraining gains is predicted for the repaired network (`causes.repaired`); the repair's own gain is added.

    Args:
        model: of gains.
        networks: one row per network, as for `GainModel.predict`.
        features: those that may be used; None for all.
        possible: whether a remedy of `remedies_of` can be made, (rows, remedies) bool; None for all.
        raced: validation errors (%) of racers, (rows, remedies), NaN for a remedy that did not race.
        weight: points of predicted gain that a point of the race counts.
        narrowing: spread of the gains of racers relative to that without a race.
        number: of draws.
    """
    remedies = remedies_of(model)
    after, repaired = as_repaired(networks)
    found, drawn = model.predict(after, features), model.draw(after, features, number) + repaired[:, None, None]
    draws, more = [drawn], repaired[:, None]
    chances = np.where(more > 0, (drawn >= LEAST_GAIN).mean(axis=1), found.chance)
    columns = [list(array.T) for array in (found.mean + more, found.low + more, found.high + more, chances)]
    for name in remedies[len(model.remedies) :]:
        shown = shown_by(networks, REMEDIES[name].probe, number)
        draws.append(shown[:, :, None])
        edges = ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2)
        for column, value in zip(columns, (shown.mean(axis=1), *np.quantile(shown, edges, axis=1)), strict=False):
            column.append(value)
        columns[3].append((shown >= LEAST_GAIN).mean(axis=1))
    gain, low, high, chance = (np.stack(column, axis=1) for column in columns)
    may = np.isfinite(gain) if possible is None else possible & np.isfinite(gain)
    gain, low, high, chance = (np.where(may, array, np.nan) for array in (gain, low, high, chance))
    drawn = np.where(may[:, None], np.concatenate(draws, axis=2), np.nan)
    if raced is None:
        return Assessed(remedies, gain, low, high, chance, gain, drawn)
    lead = weight * ahead_in_race(raced)
    middle, shift = gain[:, None], lead[:, None]
    drawn = np.where(np.isfinite(shift), middle + narrowing * (drawn - middle) + shift, drawn)
    return Assessed(remedies, gain, low, high, chance, gain + np.nan_to_num(lead), drawn)


def shown_by(networks: pd.DataFrame, probe: str, number: int) -> np.ndarray:
    """Return gains that a probe shows on the held-out examples, (rows, number), NaN where it changes nothing at all."""
    missing = np.full(len(networks), np.nan)
    names = (f"{CHECKPOINT}_validation_error", f"{probe}_validation_error", f"{probe}_validation_error_change_se")
    before, after, error = (np.asarray(networks.get(name, missing), float) for name in names)
    losses = (np.asarray(networks.get(f"{one}_train_loss", missing), float) for one in (CHECKPOINT, probe))
    changes = ~np.isclose(*losses, rtol=1e-6)
    level = (np.arange(number) + 0.5) / number
    gain = (before - after)[:, None] + np.nan_to_num(error)[:, None] * ndtri(level)
    return np.where(changes[:, None], gain, np.nan)


def ahead_in_race(raced: np.ndarray) -> np.ndarray:
    """Return by how many points each racer is better than the mean of the row's, (rows, remedies), NaN for none."""
    ran = np.isfinite(raced)
    number = np.maximum(ran.sum(axis=1, keepdims=True), 1)
    return np.where(ran, np.where(ran, raced, 0).sum(axis=1, keepdims=True) / number - raced, np.nan)


def weighed(gains: np.ndarray, remedies: Sequence[str]) -> np.ndarray:
    """Return gains (…, remedies) by which remedies are chosen, -inf for unknown ones.

    Free ones count for 3/2, and those that train nothing, which can be made at once, for 3/2 more.
    """
    price = np.array([_preference(REMEDIES[name]) for name in remedies])
    known = np.where(np.isfinite(gains), gains, -np.inf)
    return np.where(known > 0, known / price, known)


def _preference(remedy: Remedy) -> float:
    return FREE_SHARE ** (remedy.is_free + (remedy.steps == 0))


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


def answer_chance(draws: np.ndarray, remedies: Sequence[str], comparison: Comparison) -> np.ndarray:
    """Return the probability of the second answer of a comparison, (rows,), NaN where one of both cannot be made."""
    found = lead(draws, remedies, comparison)
    known = np.isfinite(found).any(axis=1)
    return np.where(known, (found > 0).mean(axis=1), np.nan)


class Sureness(NamedTuple):
    """How the share of draws with an answer becomes its probability, and from which one it is given.

    Attributes:
        slope: factor of the log odds.
        level: least probability; above 1 where none is enough.
    """

    slope: float
    level: float

    def probability(self, chance: np.ndarray) -> np.ndarray:
        """Return the calibrated probability of the second answer from its share of draws."""
        return expit(self.slope * _log_odds(chance))


def sureness_of(model: GainModel, features: Sequence[str]) -> dict[str, Sureness]:
    """Return for each question how sure answers from these features are.

    They are judged on the model's own networks, each predicted without its group, where one side is clearly ahead.
    """
    draws, family = model.draw_left_out(features), model.table["family"].to_numpy(str)
    gains = np.stack([model.table[f"gain_{name}"].to_numpy(float) for name in model.remedies], axis=1)
    out = {}
    for name, comparison in COMPARISONS.items():
        ahead = lead(gains, model.remedies, comparison)
        with np.errstate(invalid="ignore"):
            is_clear, second = np.abs(ahead) >= _CLEAR, ahead > 0
        chance = answer_chance(draws, model.remedies, comparison)
        slope = slope_from(chance, is_clear, second, family)
        level = sure_from(Sureness(slope, 0.0).probability(chance), is_clear, second, family)
        out[name] = Sureness(slope, level)
    return out


def slope_from(chance: np.ndarray, known: np.ndarray, second: np.ndarray, family: np.ndarray) -> float:
    """Return the factor of the log odds of answers that makes them most likely, families counting the same.

    Args:
        chance, known, second, family: as of `sure_from`.
    """
    asked = known & np.isfinite(chance)
    if not asked.any():
        return 1.0
    odds, weight = _log_odds(chance[asked]) * np.where(second[asked], 1, -1), _even(family[asked])
    found: Any = minimize_scalar(lambda slope: -(weight * log_expit(slope * odds)).sum(), bounds=_SLOPES)
    return float(found.x)


def _log_odds(chance: np.ndarray) -> np.ndarray:
    return logit(np.clip(chance, 0.005, 0.995))


def _even(family: np.ndarray) -> np.ndarray:
    """Return weights of rows with which families count the same, (rows,)."""
    _, places, sizes = np.unique(family, return_inverse=True, return_counts=True)
    return 1 / sizes[places]


def sure_from(chance: np.ndarray, known: np.ndarray, second: np.ndarray, family: np.ndarray) -> float:
    """Return the least probability from which answers are right in `RIGHT` of the rows, families counting the same.

    Args:
        chance: probability of the second answer, (rows,), NaN where the question is not asked.
        known, second: whether a row can be judged, and whether its second answer is right, (rows,) bool.
        family: (rows,), names.

    Returns:
        Above 1 where no probability is enough.
    """
    asked = known & np.isfinite(chance)
    probability = np.maximum(chance, 1 - chance)[asked]
    right = ((chance > 0.5) == second)[asked]
    weight = _even(family[asked])
    order = np.argsort(-probability, kind="stable")
    share = np.cumsum((right * weight)[order]) / np.cumsum(weight[order])
    enough = (share >= RIGHT) & (probability[order] >= LEAST_SURE)
    return float(probability[order][np.flatnonzero(enough)[-1]]) if enough.any() else 1.01
