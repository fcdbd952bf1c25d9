"""Predictions for families that were left out, on families of known surfaces."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.causes.gain_answers import RIGHT, slope_from, sure_from
from mdtree_jax.collection.networks import with_gains
from mdtree_jax.experiments.carry import networks as of
from mdtree_jax.experiments.carry import rivals, scores
from mdtree_jax.experiments.carry.policies import advised
from mdtree_jax.experiments.carry.predict import REPORT, carry

AXES = ["learning_rate", "batch_size", "width", "data_fraction"]


def grid(number):
    """A family whose error is a known function of its knobs, and evidence that shows where on it a network is."""
    rng = np.random.default_rng(number)
    level, best, rows = rng.uniform(6, 15), rng.normal(), []
    combinations = itertools.product([0.01, 0.03, 0.1, 0.3], [16, 32], [2, 4, 8], [0.25, 0.5, 1.0])
    for place, (rate, batch, width, share) in enumerate(combinations):
        heat = np.log(rate * 32 / batch / 0.05) - best
        error = level * (1 + 0.2 * heat**2) + 8 * np.exp(-width / 3) + 3 * share**-0.5
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
    return of.as_networks(pd.concat([grid(number) for number in range(5)], ignore_index=True))


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
    found = carry(networks, 0.0)
    gained = of.gain_of(networks, advised(found.scores))
    assert of.shares(networks, gained).min() > 0.8
    assert (found.cost == 0).all()
    hard, truth = of.hard_rows(networks, of.standard_errors(networks))
    told = of.temperature(networks, np.where(np.isfinite(networks.gain), found.predicted, np.nan)) > 0
    assert scores.balanced(truth[hard], told[hard]) > 0.9
    fixed = of.gain_of(networks, rivals.best_fixed(networks))
    assert scores.bootstrap(networks, gained, fixed).low > 0


def test_the_best_gain_has_no_part_in_the_noise_that_it_was_chosen_by(networks):
    """Where no remedy gains anything, a best one that is read on the same seeds seems to gain."""
    rng = np.random.default_rng(0)
    own, other = rng.normal(size=(2, *networks.gain.shape))
    nothing = dataclasses.replace(networks, own=own, other=other, gain=(own + other) / 2)
    assert abs(of.best_gain(nothing).mean()) < 0.1
    assert np.maximum(nothing.gain, 0).max(axis=1).mean() > 0.5


def test_races_keep_to_their_cost(networks):
    for cost in (0.1, 0.25, 1.0):
        found = carry(networks, cost)
        assert found.cost.mean() <= cost + 1e-9
        choice, spent = rivals.plain_race(networks, cost)
        assert spent.max() <= max(cost, 1e-9) + 1e-9
        assert (choice >= -1).all()


def test_predictions_do_not_look_at_the_group_that_is_left_out(networks):
    """Other gains in one source change no prediction for it."""
    changed = networks.gain.copy()
    rows = (networks.table["source"] == "s0").to_numpy()
    changed[rows] = -changed[rows]
    other = dataclasses.replace(networks, gain=changed)
    np.testing.assert_array_equal(carry(networks, 0.0).predicted[rows], carry(other, 0.0).predicted[rows])


def test_questions_are_answered_where_that_is_right(networks):
    found = carry(networks, 0.0)
    told = scores.answering(networks, found.answers, found.sure)
    assert told.answered > 0.8
    assert told.right > 0.88
    assert told.calibration < 15
    cover = scores.coverage(networks, found.low, found.high)
    assert 0.7 < cover.mean() < 0.95
    np.testing.assert_allclose(sum(found.causes.values()), 1)


def test_report_families_are_predicted_and_never_learned_from(networks):
    kept = networks.table["source"].replace({"s4": REPORT})
    one = dataclasses.replace(networks, table=networks.table.assign(source=kept))
    without = carry(networks[(kept != REPORT).to_numpy()], 0.0)
    found = carry(one, 0.0)
    inside = (kept != REPORT).to_numpy()
    np.testing.assert_allclose(found.predicted[inside], without.predicted)
    gained = of.gain_of(one, advised(found.scores))
    assert of.shares(one, gained)["f4"] > 0.8


def test_probability_from_which_answers_are_given():
    """Of 100 answers the surest 50 are right, of the rest every other: enough are right from a place on."""
    chance = np.linspace(1.0, 0.505, 100)
    right = np.where(np.arange(100) < 50, True, np.arange(100) % 2 == 0)
    known, family = np.ones(100, bool), np.array(["f"] * 100)
    level = sure_from(chance, known, right, family)
    assert level == pytest.approx(max(chance[np.cumsum(right) / np.arange(1, 101) >= RIGHT].min(), 0.6), abs=0.006)
    assert sure_from(chance, known, np.zeros(100, bool), family) > 1


def test_log_odds_are_calibrated():
    """Answers whose odds are the square of what is told are calibrated by a slope of 2."""
    rng = np.random.default_rng(0)
    told = rng.uniform(0.05, 0.95, 20000)
    odds = (told / (1 - told)) ** 2
    second = rng.uniform(size=20000) < odds / (1 + odds)
    slope = slope_from(told, np.ones(20000, bool), second, np.array(["f"] * 20000))
    assert slope == pytest.approx(2.0, abs=0.1)


def test_rivals(networks):
    choice, spent = rivals.successive_halving(networks, 1.0)
    assert spent.max() <= 1 + 1e-9
    assert of.shares(networks, of.gain_of(networks, choice)).mean() > 0.5
    assert (rivals.successive_halving(networks, 0.0)[0] == -1).all()
    assert of.shares(networks, of.gain_of(networks, rivals.forest_on_errors(networks))).mean() > 0.2
    assert set(rivals.practitioner(networks)) <= {-1, *range(len(networks.remedies))}
