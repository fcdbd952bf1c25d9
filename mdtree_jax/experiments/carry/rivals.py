"""What users have instead of a diagnosis, at equal cost. NumPy, pandas and scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdtree_jax.causes.evidence import evidence_frame
from mdtree_jax.causes.gain_model import filled
from mdtree_jax.collection.networks import SHARES
from mdtree_jax.experiments.carry.networks import Networks, best_gain, shares
from mdtree_jax.experiments.carry.predict import REPORT
from mdtree_jax.registry.remedies import REMEDIES


def best_fixed(networks: Networks, by: str = "source") -> np.ndarray:
    """Return the advice "always the same remedy", chosen on the other groups, (rows,)."""
    groups, choice, most = networks.table[by].to_numpy(), np.zeros(len(networks.error), int), best_gain(networks)
    for one in pd.unique(groups):
        inside = (groups != one) & (groups != REPORT)
        train = networks[inside]
        gained = [shares(train, np.nan_to_num(gain), most[inside]).mean() for gain in train.gain.T]
        choice[groups == one] = int(np.argmax(gained))
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


def forest_on_errors(networks: Networks, by: str = "source") -> np.ndarray:
    """Return the advice of a forest on training and validation error, fitted on the other groups, (rows,)."""
    from sklearn.ensemble import RandomForestRegressor

    groups, out = networks.table[by].to_numpy(), np.full(networks.gain.shape, -np.inf)
    names = ["train_error", "validation_error", "fitted_share"]
    errors = filled(evidence_frame(networks.table, names))
    level = networks.table["validation_error"].to_numpy(float) + 1
    family = networks.table["family"].to_numpy()
    for one in pd.unique(groups):
        rows, inside = groups == one, (groups != one) & (groups != REPORT)
        for place, gain in enumerate(networks.gain.T):
            fitted = inside & np.isfinite(gain)
            if not fitted.any():
                continue
            weight = 1 / pd.Series(family[fitted]).map(pd.Series(family[fitted]).value_counts()).to_numpy()
            forest = RandomForestRegressor(50, min_samples_leaf=10, random_state=0)
            relative = (gain / level)[fitted]
            forest.fit(errors[fitted], relative, sample_weight=weight)
            out[rows, place] = forest.predict(errors[rows]) * level[rows]
    out = np.where(np.isfinite(networks.gain), out, -np.inf)
    best = out.argmax(axis=1)
    return np.where(out[np.arange(len(best)), best] > 0, best, -1)


def practitioner(networks: Networks) -> np.ndarray:
    """Return the advice of a person with the learning curve, (rows,): textbook rules, with round numbers.

    A loss that jumps or has diverged: a lower rate. A training error that is high (above half of the validation error)
    and still falls: longer; one that does not fall: a wider network. Else the gap is large: more data.
    """
    table = networks.table

    def column(name: str) -> np.ndarray:
        return np.asarray(table.get(name, np.full(len(table), np.nan)), float)

    fitted = column("train_error") / np.maximum(column("validation_error"), 0.5)
    jumps = np.nan_to_num(column("history_noise")) > 0.2
    falls = np.nan_to_num(column("history_slope_30")) > 0.1
    advice = np.where(fitted > 0.5, np.where(falls, "longer", "wider"), "more_data")
    advice = np.where(jumps, "rate_down", advice)
    place = np.array([networks.remedies.index(name) if name in networks.remedies else -1 for name in advice])
    known = np.isfinite(networks.gain[np.arange(len(place)), np.maximum(place, 0)])
    return np.where(known, place, -1)


def temperature_alone(networks: Networks, predicted: np.ndarray, names: tuple[str, str]) -> np.ndarray:
    """Return the advice of the better of two opposite remedies, as predicted, (rows,)."""
    places = [networks.remedies.index(name) for name in names if name in networks.remedies]
    known = np.where(np.isfinite(networks.gain[:, places]), predicted[:, places], -np.inf)
    best = known.argmax(axis=1)
    return np.where(np.isfinite(known.max(axis=1)), np.array(places)[best], -1)


def successive_halving(networks: Networks, cost: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the advice of successive halving over all remedies, (rows,), and its cost, (rows,).

    All that can race start at 1/16 of the steps; the better half goes on to 1/8, of which the better half to 1/4; a
    round that the cost does not allow is left out. What a racer has trained is not trained again.
    """
    races = np.array([REMEDIES[name].races for name in networks.remedies])
    steps = np.array([REMEDIES[name].steps for name in networks.remedies])
    choice, spent = np.full(len(networks.error), -1), np.zeros(len(networks.error))
    rng = np.random.default_rng(0)
    for row in range(len(choice)):
        runs = np.flatnonzero(races & np.isfinite(networks.race[SHARES[0]][row]))
        if steps[runs].sum() / SHARES[0] > cost:
            runs = rng.permutation(runs)
            runs = runs[np.cumsum(steps[runs]) / SHARES[0] <= cost]
        before = 0.0
        for share in SHARES:
            price = steps[runs].sum() * (1 / share - before)
            if not len(runs) or spent[row] + price > cost + 1e-9:
                break
            spent[row], before = spent[row] + price, 1 / share
            order = runs[np.argsort(networks.race[share][row, runs], kind="stable")]
            choice[row], runs = order[0], order[: max(1, len(order) // 2)]
    return choice, spent
