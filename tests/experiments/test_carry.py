"""Predictions for families that were left out, on families of known surfaces."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.collection.networks import with_gains
from mdtree_jax.experiments import carry

AXES = ["learning_rate", "batch_size", "width", "data_fraction"]


def grid(number):
    """A family whose error is a known function of its knobs, and evidence that shows where on it a network is."""
    rng = np.random.default_rng(number)
    level, best, rows = rng.uniform(6, 15), rng.normal(), []
    combinations = itertools.product([0.01, 0.03, 0.1, 0.3], [16, 32], [2, 4, 8], [0.25, 0.5, 1.0])
    for place, (rate, batch, width, share) in enumerate(combinations):
        heat = np.log(rate * 32 / batch / 0.05) - best
        error = level * (1 + 0.05 * heat**2) + 8 * np.exp(-width / 3) + 3 * share**-0.5
        for seed in (0, 1):
            row = {"configuration": place, "seed": seed, "learning_rate": rate, "batch_size": batch, "width": width}
            row |= {"data_fraction": share, "test_error": error + 0.2 * rng.normal(), "validation_error": error}
            row |= {"train_error": error - 3 * share**-0.5, "chance_error": 90.0, "chance_loss": 2.3}
            row |= {"weight_growth": 0.3 * heat + 0.1 * rng.normal()}
            row |= {f"short{n}_validation_error": error * (1 + 2 / n) + 0.3 * rng.normal() for n in (16, 8, 4)}
            rows.append(row)
    return with_gains(pd.DataFrame(rows), AXES).assign(family=f"f{number}", source=f"s{number}")


@pytest.fixture(scope="module")
def networks():
    return carry.as_networks(pd.concat([grid(number) for number in range(5)], ignore_index=True))


def test_gains_are_differences_of_neighbours():
    table = grid(0)
    means = table.groupby("configuration")[[*AXES, "test_error"]].mean()
    for _, row in table.iloc[::37].iterrows():
        for remedy, knob, factor in (
            ("rate_up", "learning_rate", 3),
            ("wider", "width", 2),
            ("more_data", "data_fraction", 2),
        ):
            rest = [axis for axis in AXES if axis != knob]
            there = means[(means[rest] == row[rest].astype(float)).all(axis=1)]
            there = there[np.abs(there[knob] / (factor * row[knob]) - 1) < 0.15]
            gain = row[f"gain_{remedy}"]
            if len(there):
                assert gain == pytest.approx(
                    means.loc[row["configuration"], "test_error"] - there["test_error"].iloc[0]
                )
                own, other = row[f"gain_{remedy}_own"], row[f"gain_{remedy}_other"]
                assert (own + other) / 2 == pytest.approx(gain)
            else:
                assert np.isnan(gain)


def test_what_can_be_known_is_predicted_for_sources_that_were_left_out(networks):
    found = carry.carry(networks, 0.0)
    gained = carry.gain_of(networks, carry.advised(found.scores))
    assert carry.shares(networks, gained).min() > 0.8
    assert (found.cost == 0).all()
    hard, truth = carry.hard_rows(networks, carry.standard_errors(networks))
    told = carry.temperature(networks, np.where(np.isfinite(networks.gain), found.predicted, np.nan)) > 0
    assert carry.balanced(truth[hard], told[hard]) > 0.9
    fixed = carry.gain_of(networks, carry.best_fixed(networks))
    assert carry.bootstrap(networks, gained, fixed).low > 0


def test_the_best_gain_has_no_part_in_the_noise_that_it_was_chosen_by(networks):
    """Where no remedy gains anything, a best one that is read on the same seeds seems to gain."""
    rng = np.random.default_rng(0)
    own, other = rng.normal(size=(2, *networks.gain.shape))
    nothing = dataclasses.replace(networks, own=own, other=other, gain=(own + other) / 2)
    assert abs(carry.best_gain(nothing).mean()) < 0.1
    assert np.maximum(nothing.gain, 0).max(axis=1).mean() > 0.5


def test_races_keep_to_their_cost(networks):
    for cost in (0.1, 0.25, 1.0):
        found = carry.carry(networks, cost)
        assert found.cost.mean() <= cost + 1e-9
        choice, spent = carry.plain_race(networks, cost)
        assert spent.max() <= max(cost, 1e-9) + 1e-9
        assert (choice >= -1).all()


def test_predictions_do_not_look_at_the_group_that_is_left_out(networks):
    """Other gains in one source change no prediction for it."""
    changed = networks.gain.copy()
    rows = (networks.table["source"] == "s0").to_numpy()
    changed[rows] = -changed[rows]
    other = dataclasses.replace(networks, gain=changed)
    np.testing.assert_array_equal(carry.carry(networks, 0.0).predicted[rows], carry.carry(other, 0.0).predicted[rows])
