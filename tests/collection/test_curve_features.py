import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdtree_jax.checks import UserError
from mdtree_jax.collection.curve_features import CURVE_FEATURES, CurveFeature, curve_features, markdown_table


def history(loss, **columns):
    return pd.DataFrame({"epoch": np.arange(1.0, len(loss) + 1), "train_loss": loss, **columns})


def features(loss, *, chance_loss=None, chance_error=None, **columns):
    table = curve_features(history(loss, **columns), chance_loss=chance_loss, chance_error=chance_error)
    assert list(table) == list(CURVE_FEATURES)
    assert len(table) == 1
    return table.iloc[0]


AT = np.arange(1, 33) / 32


def test_an_exponential_in_closed_form():
    found = features(
        3 * np.exp(-2 * AT),
        validation_loss=3 * np.exp(-AT),
        validation_error=80 * np.exp(-AT),
        chance_loss=3,
        chance_error=90,
    )
    expected = {
        "history_slope_10": -2,
        "history_slope_30": -2,
        "history_noise": 0,
        "history_best_at": 1,
        "history_lost": 0,
        "history_loss_50": -2 * 0.5 + 2 / 32,
        "history_loss_100": -2 + 2 / 32,
        "history_chance_10": -0.2,
        "history_chance_100": -2,
        "history_error_of_chance": 80 * np.exp(-1) / 90,
        "history_early": 0.1,
        "history_half_at": 0.5,
        "history_fall": 2,
        "history_gap": 1,
        "history_gap_growth": 0.5,
        "history_validation_slope": -1,
        "history_rising": 0,
        "history_diverged": 0,
        "history_never_moved": 0,
    }
    np.testing.assert_allclose(found[list(expected)], list(expected.values()), atol=1e-9)
    assert 0 < found["history_end_pace"] < 1
    assert found["history_curvature"] > 0.2


def test_a_straight_line_a_late_fall_and_a_fall_at_once():
    line = features(400 - 200 * AT)
    np.testing.assert_allclose(line[["history_curvature", "history_straightness"]], [0, 1], atol=1e-9)
    assert line["history_end_pace"] == pytest.approx(1)
    late, at_once = features(np.where(AT > 0.9, 1.0, 2.0)), features(np.where(AT > 0.1, 1.0, 2.0))
    assert late["history_curvature"] < -0.7
    assert at_once["history_curvature"] > 0.7
    assert late["history_straightness"] < 0.5
    assert at_once["history_end_pace"] == 0


def test_noise_is_that_of_the_residuals_and_a_wrong_one_would_not_pass():
    noise = np.random.default_rng(0).normal(size=(300, 32))
    found = curve_features(
        pd.concat([history(np.exp(-AT + 0.1 * n)).assign(configuration=i, seed=0) for i, n in enumerate(noise)])
    )
    assert np.sqrt((found["history_noise"] ** 2).mean()) == pytest.approx(0.1, rel=0.05)
    assert found["history_slope_30"].mean() == pytest.approx(-1, abs=3 * found["history_slope_30"].sem())
    assert list(found["configuration"]) == list(range(300))


def test_overfitting_spikes_and_schedules():
    error = np.where(AT <= 0.5, 40 - 40 * AT, 20 + 20 * (AT - 0.5))
    loss = np.where(np.arange(32) == 20, 4.0, 1.0)
    found = features(
        loss, train_error=np.full(32, 6.0), validation_error=error, learning_rate=np.linspace(0.1, 0.001, 32)
    )
    assert found["history_best_at"] == 0.5
    assert found["history_lost"] == pytest.approx(10 / 30)
    assert found["history_error_gap"] == pytest.approx(24 / 30)
    assert found["history_largest_rise"] == pytest.approx(np.log(4))
    assert found["history_last_rise"] == 0
    assert found["history_rate_end"] == pytest.approx(np.log(0.01))
    assert found["history_diverged"] == 0


@pytest.mark.parametrize(
    ("loss", "columns", "diverged", "never_moved"),
    [
        ([2.3, 2.31, 2.3, 2.3], {"chance_loss": 2.3}, 0, 1),
        ([2.3, 2.31, 2.3, 2.3], {}, 0, 1),
        ([0.01, 0.01, 0.01, 0.01], {"chance_loss": 2.3}, 0, 0),  # it had moved before the first point
        ([2.3, 2.0, np.nan, np.nan], {}, 1, 0),
        ([2.3, 2.0, np.inf, 2.0], {}, 1, 0),
        ([2.3, 2.0, 1.0, np.nan], {"validation_loss": [np.nan, np.nan, np.nan, 1.5]}, 0, 0),  # only not recorded
        ([2.3, 2.0, 9.0, 9.0], {}, 1, 0),
    ],
)
def test_divergence_and_standstill(loss, columns, diverged, never_moved):
    found = features(np.array(loss), **columns)
    assert (found["history_diverged"], found["history_never_moved"]) == (diverged, never_moved)


def test_a_long_history_has_the_features_of_a_short_one():
    noise = np.random.default_rng(1).normal(size=32_000)
    at = np.arange(1, 32_001) / 32_000
    long = features(np.exp(-3 * at) * (1 + 0.3 * noise), validation_error=50 * np.exp(-at))
    short = features(np.exp(-3 * (AT - 1 / 64)), validation_error=50 * np.exp(-AT))
    close = ["history_slope_30", "history_loss_100", "history_half_at", "history_curvature", "history_best_at"]
    np.testing.assert_allclose(long[close], short[close], rtol=0.05)
    assert long["history_noise"] < 0.03


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_short_history_has_what_can_be_said(number):
    found = features(np.array([2.0, 1.0, 0.5])[:number], validation_error=np.array([50.0, 30.0, 20.0])[:number])
    assert found["history_loss_100"] == pytest.approx(-np.log(2) * (number - 1))
    assert found["history_best_at"] == 1
    assert np.isnan(found["history_slope_10"]) == (number == 1)
    assert np.isnan(found["history_noise"]) == (number < 3)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0.001, 10)


@settings(deadline=None, max_examples=150)
@given(st.data(), st.integers(1, 40))
def test_any_history_has_a_row_of_finite_numbers_or_nan(data, number):
    names = ("step", "train_loss", "train_error", "validation_loss", "validation_error", "learning_rate")
    table = pd.DataFrame({n: data.draw(st.lists(numbers, min_size=number, max_size=number)) for n in names})
    found = curve_features(table, chance_loss=2.0, chance_error=50.0)
    assert found.shape == (1, len(CURVE_FEATURES))
    assert not np.isinf(found.to_numpy()).any()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10), st.floats(1, 99)), min_size=2, max_size=40),
    st.sampled_from([1e-3, 0.5, 2, 1000]),
    st.permutations(range(40)),
)
def test_units_of_losses_and_counts_and_the_order_of_rows_do_not_matter(rows, scale, order):
    # Values that differ by rounding alone are equal in one unit and not in another.
    table = pd.DataFrame(rows, columns=["train_loss", "validation_loss", "validation_error"]).round(6)
    table["step"] = np.arange(1, len(table) + 1)
    other = table * [scale, scale, 1, 128]
    other = other.iloc[[place for place in order if place < len(table)]]
    found = [curve_features(t, chance_loss=2 * s).iloc[0] for t, s in ((table, 1), (other, scale))]
    np.testing.assert_allclose(*(f.to_numpy(float) for f in found), rtol=1e-6, atol=1e-6)


def test_a_new_feature_is_one_entry():
    entry = CurveFeature("history_points", "1", "number of points", lambda curve: len(curve.loss.at))
    CURVE_FEATURES.register(entry)
    try:
        assert features(np.ones(3))["history_points"] == 3
        assert "| `history_points` | 1 | number of points |" in markdown_table()
    finally:
        CURVE_FEATURES.unregister("history_points")


def test_bad_input_is_one_sentence():
    with pytest.raises(UserError, match="at least one row"):
        curve_features(history(np.empty(0)))
    with pytest.raises(UserError, match="one of the columns train_loss"):
        curve_features(pd.DataFrame({"epoch": [1]}))
    with pytest.raises(UserError, match="chance_loss=0 is out of range"):
        curve_features(history(np.ones(2)), chance_loss=0.0)
