"""What is measured at a cost and how it is decided, chosen on the training side. NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from mdtree_jax.causes.evidence import EVIDENCE
from mdtree_jax.causes.gain_answers import ahead_in_race, shown_by
from mdtree_jax.causes.gain_model import Moments
from mdtree_jax.collection.networks import SHARES
from mdtree_jax.diagnosis.gain_reference import FREE, Policy
from mdtree_jax.experiments.carry.networks import Networks, best_gain, gain_of, shares
from mdtree_jax.registry.remedies import REMEDIES

#: Cost of one probe, of one training.
PROBE_COST = 0.1
RIDGES = (0.03, 0.1, 0.3, 1.0)
#: Shares of the differences between families that have no part in a fit: none, and what is usual for panel data.
WITHIN = (0.0, 0.75, 0.91)
#: How much a percentage point of a race counts beside a point of predicted gain.
RACE_WEIGHTS = (0.25, 0.5, 1.0, 2.0)
LEVELS = (0.0, 0.1, 0.25, 1.0)


def features_of(networks: Networks, policy: Policy) -> np.ndarray:
    """Mark the features that a policy measures, (features,) bool."""
    return np.isin(networks.names, policy.features(networks.names))


def policies(networks: Networks, cost: float, extra: Sequence[str] = ()) -> Iterator[Policy]:
    """Yield the policies that keep to a cost, the ones to choose among; `extra` groups of evidence are always used."""
    groups = (*FREE, *extra)
    probes: list[tuple[str, ...]] = [()]
    if cost >= PROBE_COST:
        probes += [("heat",), ("same",)]
    if cost >= 2 * PROBE_COST:
        probes.append(("heat", "same"))
    if cost >= 3 * PROBE_COST:
        probes.append(("heat", "same", "cool"))
    races = [(0, 16)]
    if any(np.isfinite(values).any() for values in networks.race.values()):
        races += [(number, share) for number in (2, 3, 4) for share in SHARES]
    for probe, (racers, share) in itertools.product(probes, races):
        if racers == 0 or PROBE_COST * len(probe) + racers / share <= cost + 1e-9:
            yield Policy(groups, probe, racers=racers, share=share, cost=cost)


def moments_of(networks: Networks) -> list[Moments]:
    """Return the moments of every remedy."""
    family, kinds = networks.table["family"].to_numpy(), [EVIDENCE[name].group for name in networks.names]
    gains = (networks.gain - networks.stale[:, None]).T
    return [Moments(networks.features, networks.error, gain, family, kinds) for gain in gains]


def predict(
    moments: Sequence[Moments],
    train: np.ndarray,
    features: np.ndarray,
    error: np.ndarray,
    chosen: np.ndarray,
    policy: Policy,
) -> np.ndarray:
    """Return the gains of repaired networks as predicted from the families `train`, (rows, remedies).

    Args:
        moments: of each remedy.
        train: names of families.
        features: (rows, features).
        error: (rows,), percent.
        chosen: which features are used, (features,) bool.
        policy: with the strength of the ridge.
    """
    used = features[:, chosen]
    solved = [one.solve(np.isin(one.families, train), chosen, policy.ridge, policy.within) for one in moments]
    return np.stack([one.predict(used, error) for one in solved], axis=1)


def predict_left_out(moments: Sequence[Moments], networks: Networks, policy: Policy, groups: np.ndarray) -> np.ndarray:
    """Return the gains of every row as predicted without its group, (rows, remedies)."""
    out, family = np.full(networks.gain.shape, np.nan), networks.table["family"].to_numpy()
    chosen = features_of(networks, policy)
    for one in pd.unique(groups):
        rows = groups == one
        train = pd.unique(family[~rows])
        out[rows] = predict(moments, train, networks.features[rows], networks.error[rows], chosen, policy)
    out += networks.repaired[:, None]
    for place, name in enumerate(networks.remedies):
        if probe := REMEDIES[name].probe:
            out[:, place] = shown_by(networks.table, probe, 1)[:, 0]
    return out


def racers_of(networks: Networks, predicted: np.ndarray, policy: Policy) -> np.ndarray:
    """Return which remedies race, (rows, remedies) bool: those that come first of those that can."""
    scores = _scores(networks, predicted)
    races = np.array([REMEDIES[name].races for name in networks.remedies])
    outcome = networks.race[policy.share]
    may = races & np.isfinite(outcome) & np.isfinite(scores)
    order = np.argsort(-np.where(may, scores, -np.inf), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(scores.shape[1])[None], axis=1)
    return may & (place < policy.racers)


def _scores(networks: Networks, predicted: np.ndarray) -> np.ndarray:
    """Return predictions, -inf where the grid does not show the remedy or nothing is predicted."""
    return np.where(np.isfinite(networks.gain) & np.isfinite(predicted), predicted, -np.inf)


def scores_of(networks: Networks, predicted: np.ndarray, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """Return what the remedies are ordered by, (rows, remedies), and the cost of finding it, (rows,).

    A remedy that the grid does not show is left out.
    """
    scores = _scores(networks, predicted)
    cost = np.full(len(scores), PROBE_COST * len(policy.probes))
    if not policy.racers:
        return scores, cost
    runs, outcome = racers_of(networks, predicted, policy), networks.race[policy.share]
    steps = np.array([REMEDIES[name].steps for name in networks.remedies])
    cost = cost + (runs * steps).sum(axis=1) / policy.share
    lead = ahead_in_race(np.where(runs, outcome, np.nan))
    return scores + policy.weight * np.nan_to_num(lead), cost


def advised(scores: np.ndarray) -> np.ndarray:
    """Return the place of the advised remedy, (rows,), -1 for "change nothing"."""
    best = scores.argmax(axis=1)
    return np.where(scores[np.arange(len(scores)), best] > 0, best, -1)


def share_of(networks: Networks, predicted: np.ndarray, policy: Policy) -> float:
    """Return the unweighted mean over families of the share of the best gain."""
    scores, _ = scores_of(networks, predicted, policy)
    return float(shares(networks, gain_of(networks, advised(scores))).mean())


def choose_policy(networks: Networks, cost: float, by: str = "source", extra: Sequence[str] = ()) -> Policy:
    """Return the policy of a cost that gains most on groups left out of these networks, the training side.

    `extra` are groups of evidence that are there in addition.
    """
    groups, moments = networks.table[by].to_numpy(), moments_of(networks)
    best, found, most = -np.inf, Policy(), best_gain(networks)
    predicted: dict[tuple, np.ndarray] = {}
    for policy, ridge, within in itertools.product(policies(networks, cost, extra), RIDGES, WITHIN):
        fitted = policy._replace(ridge=ridge, within=within)
        key = (policy.groups, policy.probes, ridge, within)
        if key not in predicted:
            predicted[key] = predict_left_out(moments, networks, fitted, groups)
        for weight in RACE_WEIGHTS if policy.racers else (1.0,):
            raced = fitted._replace(weight=weight)
            scores, spent = scores_of(networks, predicted[key], raced)
            if spent.mean() > cost + 1e-9:
                continue
            share = float(shares(networks, gain_of(networks, advised(scores)), most).mean())
            if share > best:
                best, found = share, raced
    return found
