"""Predictions for families whose group was left out, and what is concluded from them. NumPy and pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.causes.gain_answers import (
    Assessed,
    Sureness,
    answer_chance,
    assess,
    cause_chances,
    remedies_of,
    sureness_of,
)
from mdtree_jax.causes.gain_model import GainModel
from mdtree_jax.diagnosis.gain_reference import Policy
from mdtree_jax.experiments.carry.networks import Networks
from mdtree_jax.experiments.carry.policies import choose_policy, moments_of, predict_left_out, racers_of, scores_of
from mdtree_jax.registry.remedies import COMPARISONS

#: Group that stands for the families that are kept for the report: predicted, and never learned from.
REPORT = "report"


class Carried(NamedTuple):
    """What was predicted for families that were left out.

    Attributes:
        predicted, low, high: gains and their intervals, (rows, remedies); without a race.
        scores: what decides, the race included; -inf where the grid does not show the remedy.
        cost: (rows,), of one training.
        causes: cause -> probability, (rows,).
        answers: question -> probability of its second answer, (rows,).
        sure: question -> probability from which an answer is given, (rows,).
        policies: group -> what was chosen on the other groups.
    """

    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scores: np.ndarray
    cost: np.ndarray
    causes: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]
    sure: dict[str, np.ndarray]
    policies: dict[str, Policy]


def carry(networks: Networks, cost: float, by: str = "source", extra: Sequence[str] = ()) -> Carried:
    """Return the predictions at a cost for every row, from the rows of other groups alone.

    Args:
        networks: of all families.
        cost: largest, of one training.
        by: column of the table that says which rows are left out together; the rows where it is `REPORT` are predicted
            from all others and never learned from.
        extra: groups of evidence that are there in addition to those of one network.
    """
    groups = networks.table[by].to_numpy()
    shape = networks.gain.shape
    predicted, low, high = np.full((3, *shape), np.nan)
    out = Carried(predicted, low, high, np.full(shape, -np.inf), np.zeros(len(groups)), {}, {}, {}, {})
    for one in pd.unique(groups):
        rows, inside = groups == one, networks[(groups != one) & (groups != REPORT)]
        policy = out.policies[str(one)] = fitted_policy(inside, cost, by, extra)
        sure = sureness(inside, policy, by)
        new = networks[rows]
        found = assessed(inside, new, policy, by)
        out.predicted[rows], out.low[rows], out.high[rows] = found.gain, found.low, found.high
        out.scores[rows], out.cost[rows] = scores_of(new, found.gain, policy)
        _put(out.causes, rows, cause_chances(found.draws, networks.remedies))
        _put(out.answers, rows, _answers(found, networks.remedies, sure))
        _put(out.sure, rows, {name: np.full(int(rows.sum()), one.level) for name, one in sure.items()})
    return out


def fitted_policy(inside: Networks, cost: float, by: str, extra: Sequence[str] = ()) -> Policy:
    """Return the policy that is chosen on the training side, with how much a race narrows the gains."""
    policy = choose_policy(inside, cost, by, extra)
    if not policy.racers:
        return policy
    predicted = predict_left_out(moments_of(inside), inside, policy, inside.table[by].to_numpy())
    runs = racers_of(inside, predicted, policy)
    scores, _ = scores_of(inside, predicted, policy)
    with np.errstate(invalid="ignore"):
        before, after = ((inside.gain - found)[runs] for found in (predicted, scores))
    known = np.isfinite(before) & np.isfinite(after)
    ratio = np.median(np.abs(after[known])) / max(np.median(np.abs(before[known])), 1e-9) if known.any() else 1.0
    return policy._replace(narrowing=float(np.clip(ratio, 0.3, 1.5)))


def model_of(inside: Networks, policy: Policy, by: str) -> GainModel:
    """Return the model of gains of the training side."""
    return GainModel.fit(inside.table, by, policy.ridge, policy.within)


def assessed(inside: Networks, new: Networks, policy: Policy, by: str) -> Assessed:
    """Return what the training side says of new networks, by the way of a diagnosis."""
    model = model_of(inside, policy, by)
    remedies = remedies_of(model)
    places = [new.remedies.index(name) for name in remedies if name in new.remedies]
    there = [name in new.remedies for name in remedies]
    features = policy.features(model.features)
    known = np.zeros((len(new.error), len(remedies)), bool)
    known[:, there] = np.isfinite(new.gain[:, places])
    raced = None
    if policy.racers:
        first = assess(model, new.table, features=features, possible=known, number=2).gain
        runs = racers_of(new, _widened(first[:, there], places, len(new.remedies)), policy)
        raced = np.full(known.shape, np.nan)
        raced[:, there] = np.where(runs, new.race[policy.share], np.nan)[:, places]
    found = assess(
        model,
        new.table,
        features=features,
        possible=known,
        raced=raced,
        weight=policy.weight,
        narrowing=policy.narrowing,
    )
    return Assessed(new.remedies, *(_widened(array[..., there], places, len(new.remedies)) for array in found[1:]))


def sureness(inside: Networks, policy: Policy, by: str) -> dict[str, Sureness]:
    """Return for each question how sure its answers are, judged on the training side."""
    model = model_of(inside, policy, by)
    return sureness_of(model, policy.features(model.features))


def _answers(found: Assessed, remedies: Sequence[str], sure: Mapping[str, Sureness]) -> dict[str, np.ndarray]:
    return {
        name: sure[name].probability(answer_chance(found.draws, remedies, one)) for name, one in COMPARISONS.items()
    }


def _widened(values: np.ndarray, places: Sequence[int], number: int) -> np.ndarray:
    """Return values of some remedies among all, the last axis; the rest are NaN."""
    out = np.full((*values.shape[:-1], number), np.nan)
    out[..., places] = values
    return out


def _put(target: dict[str, np.ndarray], rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    """Write the values of some rows, (rows,) bool; where a name is new, the others are NaN."""
    for name, value in values.items():
        target.setdefault(name, np.full(len(rows), np.nan))[rows] = value
