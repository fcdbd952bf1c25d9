"""The model of gains on families whose gains are known functions of the evidence."""

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.causes.evidence import EVIDENCE, evidence_frame
from mdtree_jax.causes.gain_answers import assess
from mdtree_jax.causes.gain_model import GainModel, Moments
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.registry.probes import CHECKPOINT, PROBES
from mdtree_jax.registry.remedies import REMEDIES


def family(number, rows=150, noise=0.3):
    """Networks of a family with its own level of errors and losses; what a move gains is a share of the error."""
    rng = np.random.default_rng(number)
    error = rng.uniform(5, 15) * np.exp(rng.normal(size=rows) * 0.3)
    growth, gap = rng.normal(size=rows), rng.uniform(0, 1, rows)
    table = {
        "validation_error": error,
        "train_error": error * (1 - gap),
        "chance_error": 90.0,
        "chance_loss": rng.uniform(0.5, 4),
        "weight_growth": growth,
        "gain_rate_down": error * (0.3 * growth) + noise * rng.normal(size=rows),
        "gain_more_data": error * (0.4 * gap - 0.1) + noise * rng.normal(size=rows),
    }
    return pd.DataFrame(table).assign(family=f"f{number}", source=f"s{number}")


@pytest.fixture(scope="module")
def model():
    return GainModel.fit(pd.concat([family(number) for number in range(6)]), ridge=0.01)


def test_gains_of_a_family_that_was_not_seen(model):
    new = family(99, noise=0.0)
    found = model.predict(new.drop(columns=[c for c in new if c.startswith("gain_")]))
    assert found.remedies == ("rate_down", "more_data")
    truth = new[["gain_rate_down", "gain_more_data"]].to_numpy()
    assert np.corrcoef(found.mean[:, 0], truth[:, 0])[0, 1] > 0.99
    assert np.abs(found.mean - truth).mean() < 0.4
    assert (found.mean.argmax(1) == truth.argmax(1)).mean() > 0.9


def test_intervals_hold_for_families_that_were_not_seen(model):
    new = pd.concat([family(number) for number in range(50, 60)])
    found = model.predict(new)
    truth = new[["gain_rate_down", "gain_more_data"]].to_numpy()
    inside = (found.low <= truth) & (truth <= found.high)
    assert 0.7 < inside.mean() < 0.92
    likely = found.chance > 0.8
    assert (truth >= 1)[likely].mean() > 0.75
    for value in (found.low, found.mean, found.high):
        assert (value <= new["validation_error"].to_numpy()[:, None]).all()  # no more than there is to gain
    assert (found.low <= found.high).all()


def test_what_is_not_known_is_left_out(model):
    """Without the norm of the weights, its remedy is predicted as the mean; the other is as before."""
    new = family(99)
    without = new.assign(weight_growth=np.where(np.arange(len(new)) % 2, np.nan, new["weight_growth"]))
    found, whole = model.predict(without), model.predict(new)
    np.testing.assert_array_equal(found.mean[::2][:0], whole.mean[::2][:0])
    known = np.arange(len(new)) % 2 == 0
    np.testing.assert_allclose(found.mean[known], whole.mean[known])
    assert np.abs(found.mean[~known, 0]).max() < np.abs(whole.mean[:, 0]).max() / 2
    assert ((found.high - found.low)[~known, 0] > (whole.high - whole.low)[~known, 0]).all()


def test_a_regression_from_moments_is_that_of_the_rows():
    rng = np.random.default_rng(0)
    features, error = rng.normal(size=(90, 4)), rng.uniform(1, 20, 90)
    gain, names = rng.normal(size=90), np.repeat(["a", "b", "c"], 30)
    moments = Moments(features, error, gain, names, ["errors"] * 4)
    used, chosen = np.array([True, False, True]), np.array([True, True, False, True])
    ridge = moments.solve(used, chosen, 1e-9)
    rows = names != "b"
    design, weight = [], []
    for one in ("a", "c"):
        scale = np.sqrt(np.mean(gain[names == one] ** 2)) + 0.1 * error[names == one].mean() + 0.5
        weight += [1 / scale] * 30
    design = np.column_stack([np.ones(60), features[rows][:, chosen]]) * error[rows, None]
    root = np.array(weight)[:, None]
    expected = np.linalg.lstsq(design * root, gain[rows] * root[:, 0], rcond=None)[0]
    np.testing.assert_allclose(ridge.predict(features[:, chosen], error), np.column_stack(
        [np.ones(90), features[:, chosen]]) @ expected * error, rtol=1e-5)  # fmt: skip


def test_the_committee_is_the_mean_of_regressions_that_are_each_denied_one_kind():
    rng = np.random.default_rng(2)
    kinds = np.array(["errors", "history", "history", "norms", "landscape"])
    features, error = rng.normal(size=(60, 5)), rng.uniform(1, 20, 60)
    gain, names = rng.normal(size=60), np.repeat(["a", "b"], 30)
    every, both = np.ones(5, bool), np.ones(2, bool)
    found = Moments(features, error, gain, names, kinds).solve(both, every, 0.3, 0.5).predict(features, error)
    alone = Moments(features, error, gain, names, ["errors"] * 5)  # a committee of one
    members = [every, kinds != "history", kinds != "norms", kinds != "landscape"]
    each = [alone.solve(both, one, 0.3, 0.5).predict(features[:, one], error) for one in members]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-9)


def test_gains_are_told_of_the_repaired_network_and_the_repair_is_added():
    """A network whose statistics are stale by 20 points gains these, and what its twin without the fault gains."""
    tables = [family(number) for number in range(6)]
    for table in tables:
        for name in ("validation_error", "train_error"):
            table[f"checkpoint_{name}"] = table[f"refreshed_{name}"] = table[name]
    whole = GainModel.fit(pd.concat(tables), ridge=0.01)
    stale = [table.copy() for table in tables]
    for table in stale:
        half = np.arange(len(table)) % 2 == 0
        table["gain_refreshed"] = np.where(half, 20.0, 0.0)
        for name in ("validation_error", "train_error"):
            table[name] = table[f"checkpoint_{name}"] = table[name] + table["gain_refreshed"]
        for name in ("gain_rate_down", "gain_more_data"):
            table[name] += table["gain_refreshed"]
    model = GainModel.fit(pd.concat(stale), ridge=0.01)
    pd.testing.assert_frame_equal(model.table[["error", "gain_rate_down"]], whole.table[["error", "gain_rate_down"]])
    # What the repair shows is evidence too, and left out here.
    seen = [name for name in whole.features if EVIDENCE[name].group != "probes"]
    fine, faulty = assess(whole, tables[0], features=seen), assess(model, stale[0], features=seen)
    wider = stale[0]["gain_refreshed"].to_numpy()[:, None]
    np.testing.assert_allclose(faulty.gain[:, :2], fine.gain[:, :2] + wider, rtol=1e-6)
    np.testing.assert_allclose(faulty.high[:, :2], fine.high[:, :2] + wider, rtol=1e-6)
    np.testing.assert_allclose(faulty.draws[:, :, :2], fine.draws[:, :, :2] + wider[:, None], rtol=1e-6)


def test_units_do_not_matter():
    """Losses in other units, of the objective and of chance alike, give the same features."""
    rng = np.random.default_rng(1)
    columns = {name: rng.uniform(0.5, 2, 5) for entry in EVIDENCE.values() for name in entry.needs}
    one = pd.DataFrame(columns)
    other = one.assign(**{name: one[name] * 7.0 for name in one if name.endswith("_loss")})
    names = [name for name, entry in EVIDENCE.items() if entry.group in ("errors", "probes")]
    found = [evidence_frame(table, names) for table in (one, other)]
    assert len(found[0].columns) == len(names)
    np.testing.assert_allclose(*found, atol=1e-6)


def test_every_entry_needs_columns_that_there_are():
    known = {*MEASUREMENTS, "chance_error", "chance_loss", "learning_rate", "barrier_loss", "hessian_max_eigenvalue"}
    for entry in EVIDENCE.values():
        if entry.group != "history":
            assert set(entry.needs) <= known, entry.name
        assert entry.probe in ("", CHECKPOINT, *PROBES)
    assert {remedy.cause for remedy in REMEDIES.values()} >= {"temperature_too_low", "stale_statistics"}
