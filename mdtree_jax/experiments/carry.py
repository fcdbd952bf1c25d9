"""Does a diagnosis carry to families of networks that it has not seen? Every choice is made inside the training side.

Sources of data are left out one at a time. For each, what may be chosen (the strength of the ridge, which probes to
run, which remedies race for how long) is chosen by leaving out sources of the training side in the same way.

| cost of one training | evidence |
|---|---|
| 0 | errors, history, norms and landscape of one network |
| 0.1 | the same and one probe of a tenth of the steps |
| 0.25, 1 | the same and a race of the remedies that come first |

A race trains remedies from scratch for a share of their steps; only their order is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.causes.evidence import EVIDENCE, evidence_frame
from mdtree_jax.causes.gain_model import Moments, filled
from mdtree_jax.collection.networks import SHARES
from mdtree_jax.diagnosis.gain_reference import FREE, Policy
from mdtree_jax.registry.probes import CHECKPOINT, PROBES, REFRESHED
from mdtree_jax.registry.remedies import REMEDIES

#: Cost of one probe, of one training.
PROBE_COST = 0.1
RIDGES = (0.03, 0.1, 0.3, 1.0)
#: How much a percentage point of a race counts beside a point of predicted gain.
RACE_WEIGHTS = (0.25, 0.5, 1.0, 2.0)
LEVELS = (0.0, 0.1, 0.25, 1.0)
#: Share of the best gain with which a free remedy wins.
FREE_SHARE = 2 / 3
HOTTER, COLDER = ("rate_up", "batch_down"), ("rate_down", "batch_up")


@dataclass(frozen=True)
class Networks:
    """Networks of many families, as arrays; rows are networks.

    Attributes:
        table: `family`, `source`, `architecture`, `optimizer`, `configuration`, `seed` and the measured columns.
        features: (rows, features), missing ones at their neutral value.
        names: of the features.
        gain: (rows, remedies), points, mean over seeds; NaN where the grid does not show it.
        own, other: the same from the row's own seed and from the others.
        error: validation error, percent.
        race: share -> (rows, remedies), validation error of the racers.
    """

    table: pd.DataFrame
    features: np.ndarray
    names: tuple[str, ...]
    remedies: tuple[str, ...]
    gain: np.ndarray
    own: np.ndarray
    other: np.ndarray
    error: np.ndarray
    race: dict[int, np.ndarray]

    def __getitem__(self, rows: np.ndarray) -> Networks:
        arrays = {name: getattr(self, name)[rows] for name in ("features", "gain", "own", "other", "error")}
        race = {share: values[rows] for share, values in self.race.items()}
        return replace(self, table=self.table[rows].reset_index(drop=True), race=race, **arrays)


def as_networks(table: pd.DataFrame) -> Networks:
    """Return a table of networks (`collection.networks.with_gains`, several below each other) as arrays."""
    remedies = tuple(name for name in REMEDIES if f"gain_{name}" in table)
    features = evidence_frame(table)

    def columns(pattern: str) -> np.ndarray:
        missing = np.full(len(table), np.nan)
        return np.stack([np.asarray(table.get(pattern.format(name), missing), float) for name in remedies], axis=1)

    race = {share: columns(f"{{}}_short{share}") for share in SHARES}
    return Networks(
        table=table.reset_index(drop=True),
        features=filled(features),
        names=tuple(map(str, features)),
        remedies=remedies,
        gain=columns("gain_{}"),
        own=columns("gain_{}_own"),
        other=columns("gain_{}_other"),
        error=table["validation_error"].to_numpy(float),
        race=race,
    )


def features_of(networks: Networks, policy: Policy) -> np.ndarray:
    """Mark the features that a policy measures, (features,) bool."""
    measured = {*policy.probes, CHECKPOINT, REFRESHED}
    chosen = []
    for name in networks.names:
        entry = EVIDENCE[name]
        asked = {need.split("_")[0] for need in entry.needs} & {CHECKPOINT, *PROBES}
        chosen.append(asked <= measured if entry.group == "probes" else entry.group in policy.groups)
    return np.array(chosen, bool)


def policies(networks: Networks, cost: float) -> Iterator[Policy]:
    """Yield the policies that keep to a cost, the ones to choose among."""
    groups = [("errors", "history", "norms"), FREE]
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
    for group, probe, (racers, share) in itertools.product(groups, probes, races):
        if racers == 0 or PROBE_COST * len(probe) + racers / share <= cost + 1e-9:
            yield Policy(group, probe, racers=racers, share=share)


def predict(
    moments: Sequence[Moments],
    train: np.ndarray,
    features: np.ndarray,
    error: np.ndarray,
    chosen: np.ndarray,
    ridge: float,
) -> np.ndarray:
    """Return the gains of rows as predicted from the families `train`, (rows, remedies).

    Args:
        moments: of each remedy.
        train: names of families.
        features: (rows, features).
        error: (rows,), percent.
        chosen: which features are used, (features,) bool.
        ridge: its strength.
    """
    used = features[:, chosen]
    solved = [one.solve(np.isin(one.families, train), chosen, ridge) for one in moments]
    return np.stack([one.predict(used, error) for one in solved], axis=1)


def predict_left_out(moments: Sequence[Moments], networks: Networks, policy: Policy, groups: np.ndarray) -> np.ndarray:
    """Return the gains of every row as predicted without its group, (rows, remedies)."""
    out, family = np.full(networks.gain.shape, np.nan), networks.table["family"].to_numpy()
    chosen = features_of(networks, policy)
    for one in pd.unique(groups):
        rows = groups == one
        train = pd.unique(family[~rows])
        out[rows] = predict(moments, train, networks.features[rows], networks.error[rows], chosen, policy.ridge)
    return out


def scores_of(networks: Networks, predicted: np.ndarray, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """Return what the remedies are ordered by, (rows, remedies), and the cost of finding it, (rows,).

    A remedy that the grid does not show is left out.
    """
    scores = np.where(np.isfinite(networks.gain), predicted, -np.inf)
    cost = np.full(len(scores), PROBE_COST * len(policy.probes))
    if not policy.racers:
        return scores, cost
    races = np.array([REMEDIES[name].races for name in networks.remedies])
    outcome = networks.race[policy.share]
    may = races & np.isfinite(outcome) & np.isfinite(scores)
    order = np.argsort(-np.where(may, scores, -np.inf), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(scores.shape[1])[None], axis=1)
    runs = may & (place < policy.racers)
    steps = np.array([REMEDIES[name].steps for name in networks.remedies])
    cost = cost + (runs * steps).sum(axis=1) / policy.share
    with np.errstate(invalid="ignore"):
        mean = np.nanmean(np.where(runs, outcome, np.nan), axis=1, keepdims=True)
        scores = np.where(runs, scores + policy.weight * (mean - outcome), scores)
    return scores, cost


def advised(scores: np.ndarray) -> np.ndarray:
    """Return the place of the advised remedy, (rows,), -1 for "change nothing"."""
    best = scores.argmax(axis=1)
    return np.where(scores[np.arange(len(scores)), best] > 0, best, -1)


def gain_of(networks: Networks, choice: np.ndarray) -> np.ndarray:
    """Return the measured gain of the chosen remedy, (rows,), points; 0 for none."""
    gain = networks.gain[np.arange(len(choice)), np.maximum(choice, 0)]
    return np.where(choice < 0, 0.0, np.nan_to_num(gain))


def best_gain(networks: Networks) -> np.ndarray:
    """Return the gain of the best remedy, chosen on one half of the seeds and read on the other, both ways, (rows,)."""
    out = []
    for chosen_on, read_on in ((networks.own, networks.other), (networks.other, networks.own)):
        both = np.isfinite(chosen_on) & np.isfinite(read_on)
        best = np.where(both, chosen_on, -np.inf).argmax(axis=1)
        rows = np.arange(len(best))
        gained = np.where(both[rows, best] & (chosen_on[rows, best] > 0), read_on[rows, best], 0.0)
        out.append(gained)
    return np.mean(out, axis=0)


def shares(networks: Networks, gained: np.ndarray, best: np.ndarray | None = None) -> pd.Series:
    """Return the share of the best gain (`best_gain`) by family."""
    best = best_gain(networks) if best is None else best
    family, names = pd.factorize(networks.table["family"])
    return pd.Series(np.bincount(family, gained) / np.bincount(family, best), names, name="share")


def share_of(networks: Networks, predicted: np.ndarray, policy: Policy) -> float:
    """Return the unweighted mean over families of the share of the best gain."""
    scores, _ = scores_of(networks, predicted, policy)
    return float(shares(networks, gain_of(networks, advised(scores))).mean())


def moments_of(networks: Networks) -> list[Moments]:
    """Return the moments of every remedy."""
    family = networks.table["family"].to_numpy()
    return [Moments(networks.features, networks.error, gain, family) for gain in networks.gain.T]


def choose_policy(networks: Networks, cost: float, by: str = "source") -> Policy:
    """Return the policy of a cost that gains most on groups left out of these networks, the training side."""
    groups, moments = networks.table[by].to_numpy(), moments_of(networks)
    best, found, most = -np.inf, Policy(), best_gain(networks)
    predicted: dict[tuple, np.ndarray] = {}
    for policy, ridge in itertools.product(policies(networks, cost), RIDGES):
        fitted = policy._replace(ridge=ridge)
        key = (policy.groups, policy.probes, ridge)
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


class Carried(NamedTuple):
    """What was predicted for families that were left out.

    Attributes:
        predicted: gains, (rows, remedies).
        scores: what decides, the race included.
        cost: (rows,), of one training.
        policies: group -> what was chosen on the other groups.
    """

    predicted: np.ndarray
    scores: np.ndarray
    cost: np.ndarray
    policies: dict[str, Policy]


def carry(networks: Networks, cost: float, by: str = "source") -> Carried:
    """Return the predictions at a cost for every row, from the rows of other groups alone."""
    groups = networks.table[by].to_numpy()
    predicted, scores = np.full(networks.gain.shape, np.nan), np.full(networks.gain.shape, -np.inf)
    spent, chosen, moments = np.zeros(len(groups)), {}, moments_of(networks)
    family = networks.table["family"].to_numpy()
    for one in pd.unique(groups):
        inside, rows = networks[groups != one], groups == one
        policy = chosen[one] = choose_policy(inside, cost, by)
        train, used = pd.unique(family[~rows]), features_of(networks, policy)
        features, error = networks.features[rows], networks.error[rows]
        predicted[rows] = predict(moments, train, features, error, used, policy.ridge)
        scores[rows], spent[rows] = scores_of(networks[rows], predicted[rows], policy)
    return Carried(predicted, scores, spent, chosen)


def temperature(networks: Networks, values: np.ndarray) -> np.ndarray:
    """Return how much more hotter gains than colder, (rows,), of values (rows, remedies); NaN where unknown."""
    best = []
    for names in (HOTTER, COLDER):
        places = [networks.remedies.index(name) for name in names if name in networks.remedies]
        part = np.where(np.isfinite(values[:, places]), values[:, places], -np.inf).max(axis=1, initial=-np.inf)
        best.append(part)
    out = np.where(np.isinf(best[0]) & np.isinf(best[1]), np.nan, best[0] - best[1])
    return np.clip(out, -1e6, 1e6)


def hard_rows(networks: Networks, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are hard cases of the optimizer question, and whether hotter is right, both (rows,) bool.

    The better direction wins by 1 to 15 points and by at least two standard errors of the difference.

    Args:
        spread: standard error of a gain, (rows,), points.
    """
    difference = temperature(networks, networks.gain)
    size = np.abs(difference)
    hard = (size >= 1) & (size <= 15) & (size >= 2 * spread)
    return hard, difference > 0


def balanced(truth: np.ndarray, told: np.ndarray) -> float:
    """Return the balanced accuracy of two classes, NaN where one is empty."""
    parts = [np.mean(told[truth == one] == one) for one in (True, False) if (truth == one).any()]
    return float(np.mean(parts)) if len(parts) == 2 else float("nan")


def standard_errors(networks: Networks, num_test: int = 3000) -> np.ndarray:
    """Return the standard error of the difference of hotter and colder, (rows,), points.

    Of the seeds it is pooled over a family; that of the test examples, of which there are about `num_test`, is added:
    networks that are compared see the same, so it is that of the share on which one of them errs.
    """
    own, other = temperature(networks, networks.own), temperature(networks, networks.other)
    examples = 100 * np.clip(networks.error, 0.5, 100) / num_test
    out = np.zeros(len(own))
    for family in pd.unique(networks.table["family"]):
        rows = (networks.table["family"] == family).to_numpy()
        difference = (own - other)[rows]
        small = np.abs(difference) < 1e3
        out[rows] = np.mean(np.clip(difference[small], -30, 30) ** 2) / 4 if small.any() else np.nan
    return np.sqrt(out + examples)


def causes(networks: Networks) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the number of the cause that each remedy addresses, (remedies,), and the names of the causes."""
    names = tuple(dict.fromkeys(REMEDIES[name].cause for name in networks.remedies))
    return np.array([names.index(REMEDIES[name].cause) for name in networks.remedies]), names


def cause_of(networks: Networks, values: np.ndarray, free_first: bool = False) -> np.ndarray:
    """Return the cause whose remedy has the largest value, (rows,); `free_first`: a free one wins with 2/3 of it."""
    known = np.where(np.isfinite(networks.gain), np.nan_to_num(values, nan=-np.inf), -np.inf)
    if free_first:
        free = np.array([REMEDIES[name].is_free for name in networks.remedies])
        known = np.where(free & (known > 0), known / FREE_SHARE, known)
    return causes(networks)[0][known.argmax(axis=1)]


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


def best_fixed(networks: Networks, by: str = "source") -> np.ndarray:
    """Return the advice "always the same remedy", chosen on the other groups, (rows,)."""
    groups, choice, most = networks.table[by].to_numpy(), np.zeros(len(networks.error), int), best_gain(networks)
    for one in pd.unique(groups):
        inside = groups != one
        train = networks[inside]
        gained = [shares(train, np.nan_to_num(gain), most[inside]).mean() for gain in train.gain.T]
        choice[~inside] = int(np.argmax(gained))
    return choice


def plain_race(networks: Networks, cost: float, by: str = "source") -> tuple[np.ndarray, np.ndarray]:
    """Return the advice of a race of all remedies in one round, (rows,), and its cost, (rows,).

    The share of the steps is the largest that the cost allows, the number of racers all that can race; where even the
    shortest race of all is too dear, as many random ones race as it pays for.
    """
    races = np.array([REMEDIES[name].races for name in networks.remedies])
    steps = np.array([REMEDIES[name].steps for name in networks.remedies])
    rng = np.random.default_rng(0)
    choice, spent = np.full(len(networks.error), -1), np.zeros(len(networks.error))
    for row in range(len(choice)):
        for share in reversed(SHARES):
            outcome = networks.race[share][row]
            may = races & np.isfinite(outcome)
            price = (steps * may).sum() / share
            if share != SHARES[0] and price > cost:
                continue
            runs = np.flatnonzero(may)
            if price > cost:
                runs = rng.permutation(runs)
                runs = runs[np.cumsum(steps[runs]) / share <= cost]
            if len(runs):
                choice[row] = runs[np.argmin(outcome[runs])]
                spent[row] = steps[runs].sum() / share
            break
    return choice, spent
