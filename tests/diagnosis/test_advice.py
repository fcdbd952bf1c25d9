"""Advice: the step that is chosen, its gain, the new settings, and the sentences that say so."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import diagnose_metrics, fit_reference
from mdtree_jax.causes import joint
from mdtree_jax.causes.labels import CAUSES, step_gain
from mdtree_jax.checks import UserError
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.moves import Move
from mdtree_jax.diagnosis.action import Action, Gain, Setting, Step
from mdtree_jax.diagnosis.advice import choose_action, direction_only, in_settings
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.gains import FEWEST, NEIGHBOURS, expected_gain, factor_gain, reference_verdicts
from mdtree_jax.diagnosis.metrics_table import read_metrics, unused_columns
from mdtree_jax.diagnosis.reference import default_reference
from mdtree_jax.diagnosis.words import actions
from tests.causes.test_joint import small  # noqa: F401 (a fixture)
from tests.diagnosis.test_from_metrics import COLD


def test_a_cold_model_is_told_which_way_its_batch_size_goes():
    """The joint answer hardly ever names the temperature first: the question beside it must be heard."""
    (cold,) = diagnose_metrics(COLD)
    assert cold.action.knob in ("width", "data_fraction")
    assert (
        "change the batch size, make it smaller: “trained too cold” is more likely than “trained too hot”"
        in " ".join(str(cold).split())
    )
    hot = {"optimizer": {"temperature_too_low": 0.05, "temperature_too_high": 0.95}}
    beside = actions.beside(dataclasses.replace(cold, questions=hot))
    assert "make it larger: “trained too hot” is more likely than “trained too cold”, 95 %." in beside
    # Of a model that the reference has none like nothing is said.
    assert actions.beside(dataclasses.replace(cold, expected_gain=None)) == ""
    unsure = {"optimizer": {"temperature_too_low": 0.89, "temperature_too_high": 0.11}}
    assert actions.beside(dataclasses.replace(cold, questions=unsure)) == ""
    assert actions.beside(dataclasses.replace(cold, action=dataclasses.replace(cold.action, knob="batch_size"))) == ""
    other = dataclasses.replace(cold, questions=hot, knobs=("width", "learning_rate"))
    assert "also change the learning rate, make it smaller: “trained too hot”" in actions.beside(other)


@pytest.mark.parametrize(
    ("cause", "way", "sentence"),
    [
        (
            "temperature_too_low",
            "down",
            "Train at a higher temperature: reduce the batch size by a factor of 2. 20 sim",
        ),
        (
            "temperature_too_high",
            "up",
            "Train at a lower temperature: increase the batch size by a factor of 2. 20 sim",
        ),
    ],
)
def test_temperature_goes_the_way_of_the_gains(reference, cause, way, sentence):
    gains = {"one": Gain(1.5, 0.0, 3.0, 20), "x2": Gain(2.0, 1.0, 3.0, 20)}
    action, gain = choose_action(reference, cause, gains)
    assert (action.knob, action.direction, gain.mean) == ("batch_size", way, 2.0)
    assert action.sentence.startswith(sentence)
    errors = reference.rows.set_index(["batch_size", "width", "data_fraction"]).test_error
    (move,) = reference.grid.moves_against(cause)
    rows = reference.rows[reference.rows.batch_size == 128]
    step = factor_gain(reference.grid, move, 1.0)[rows.index]
    there = [errors[64 if way == "down" else 256, row.width, row.data_fraction] for row in rows.itertuples()]
    np.testing.assert_allclose(step, rows.test_error - there)


def test_no_gain_is_promised_beyond_the_test_error():
    hot = {"train_error": 28.2, "log_hessian_trace": 5.21, "mode_connectivity_peak": -0.03, "cka": 0.45}
    alone = {"evidence": "landscape"}
    free, bound = (diagnose_metrics(row, **alone)[0] for row in (hot, hot | {"test_error": 6.0}))
    assert free.expected_gain.high > 6
    assert (bound.expected_gain.high, bound.expected_gain.mean <= 6) == (6.0, True)
    assert bound.expected_gain.low <= free.expected_gain.low
    assert (free.test_error, bound.test_error) == (None, 6.0)
    assert bound.ranking == free.ranking
    tiny = diagnose_metrics(hot | {"test_error": 1.0}, **alone)[0]
    assert (tiny.action.how_far, tiny.expected_gain.cut) == (free.action.how_far, True)
    assert "40 similar models gained more with this step than the test error of this model" in tiny.action.sentence
    with pytest.raises(UserError, match=r"test_error=-5 in row 1; it must be at least 0"):
        diagnose_metrics(hot | {"test_error": -5.0})
    assert "Test error 6 %, training error 28.2 %." in str(bound)
    assert "Test error" not in str(free)


def test_steps_are_compared_on_the_same_models(reference, F):
    """A step of x4 that few of the models like this one can make says nothing of it."""
    joint_metrics = list(joint.COLUMNS)
    rows = F[(F.data_fraction == 0.8) & (F.label_data == "data")]
    found = [d for d in diagnose_metrics(rows[joint_metrics], units="percent") if d.cause == "too_little_data"]
    assert len(found) > 10
    for diagnosis in found:
        numbers = {step: gain.models for step, gain in diagnosis.gains.items()}
        assert numbers["x2"] == NEIGHBOURS
        assert all(NEIGHBOURS / 2 <= number <= NEIGHBOURS for number in numbers.values())
    scarce = F[(F.data_fraction == 0.1) & (F.width == 64)]
    large = ["x4" in d.gains for d in diagnose_metrics(scarce[joint_metrics]) if d.cause == "too_little_data"]
    assert large
    assert all(large)


def test_nothing_to_gain_says_where_the_collection_ends(F):
    rows = F[(F.data_fraction == 1.0) & (F.width == 64)]
    found = [d for d in diagnose_metrics(rows[list(joint.COLUMNS)], units="percent") if d.cause == "none"]
    assert found
    for diagnosis in found:
        assert (diagnosis.action.kind, diagnosis.action.knob) == ("leave", None)
        assert diagnosis.action.edge.largest["data_fraction"] > 0
        assert "Within the range of collection 'published/F', no single step" in diagnosis.action.sentence
        assert "have the largest amount of training data" in diagnosis.action.sentence
        assert "this does not mean that either of them matters" in " ".join(str(diagnosis).split())


def test_columns_of_a_table_say_how_its_models_were_trained():
    hot = {"train_error": 28.2, "log_hessian_trace": 5.21, "mode_connectivity_peak": -0.03, "cka": 0.45}
    rows = [hot | {"batch_size": 64}, hot | {"batch_size": 1024}, hot]
    own = [d.action for d in diagnose_metrics(rows)]
    assert [action.setting and action.setting.before for action in own] == [64, 1024, None]
    assert "(from 64 to " in own[0].sentence
    assert "(from " not in own[2].sentence
    assert diagnose_metrics(rows, training={"batch_size": 32})[0].action.setting.before == 32


def test_a_batch_is_never_larger_than_the_training_set():
    hot = {"train_error": 28.2, "log_hessian_trace": 5.21, "mode_connectivity_peak": -0.03, "cka": 0.45}
    rows = [hot | {"batch_size": 64, "num_samples": n} for n in (50_000, 100, 64)]
    own = [d.action for d in diagnose_metrics(rows)]
    limits = [Setting("batch_size", 64, new, limit) for new, limit in ((128, ""), (100, "training_set"))]
    assert [action.setting for action in own[:2]] == limits
    assert actions.headline(own[1]).endswith("(from 64 to 100, all training images).")
    assert "batch size" not in actions.why(own[1])
    assert not unused_columns(pd.DataFrame(rows))
    assert "the batch size, 64, is already the largest possible, so use a smaller learning rate" in own[2].sentence


def step(way, factor, knob="batch_size"):
    """Return an action that turns a knob by a factor."""
    return Action("step", knob, way, Step("x2", factor, Gain(2.0, 1.0, 3.0, 20), True), reference="mine")


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_batch_of_one_cannot_get_smaller(way):
    action = in_settings(step(way, 1.41), Training(batch_size=1))
    limit = "range" if way == "down" else ""
    assert action.setting == Setting("batch_size", 1, {"down": 1, "up": 2}[way], limit)
    stuck = "the batch size, 1, is already the smallest possible, so use a larger learning rate instead"
    assert (stuck in action.sentence) == (way == "down")
    rate = in_settings(step(way, 2.0), Training(batch_size=1, learning_rate=0.1))
    assert ("so change the learning rate from 0.1 to 0.2" in rate.sentence) == (way == "down")


def test_expected_gain_is_the_mean_over_the_nearest_models(reference):
    frame = read_metrics(COLD | {"mode_connectivity_peak": -40.0, "train_error": 30.0, "train_loss": 0.9})
    model = reference.joint_model()
    (found,) = expected_gain(reference, frame, "model_too_small")
    features = joint.embed(frame, model.metrics, model.members, model.centre, model.scale, model.kernel)
    same = reference_verdicts(reference, model) == CAUSES.index("model_too_small")
    gained = step_gain(reference.grid, Move("width", +1))
    able = same & (reference.rows.width < 91).to_numpy()
    near = np.argsort(np.linalg.norm(model.rows - features, axis=1) + np.where(able, 0, 1e9))[:NEIGHBOURS]
    assert found["x2"].mean == pytest.approx(gained[near].mean(), rel=0.02)
    ends = np.percentile(gained[near], [5, 95])
    assert (found["x2"].low, found["x2"].high) == pytest.approx(
        gained[near].mean() + 1.6 * (ends - gained[near].mean())
    )
    assert expected_gain(reference, frame, "none") == [{}]


def test_a_knob_that_the_collection_has_not_varied_is_a_rule(small):  # noqa: F811
    grid = small[small.data_fraction == 1.0][["width", "batch_size", "data_fraction", "test_error", *joint.COLUMNS]]
    reference = fit_reference(load_collection(grid), measure=False)
    assert expected_gain(reference, reference.models.iloc[:1], "too_little_data") == [{}]
    action, gain = choose_action(reference, "too_little_data", {})
    assert (action.knob, action.direction, action.how_far, gain) == ("data_fraction", "up", "direction_only", None)
    assert "a rule of thumb, not evidence" in action.sentence
    action, _ = choose_action(reference, "temperature_too_low", {})
    assert any("tune the learning rate again" in rule for rule in action.rules)
    assert FEWEST < NEIGHBOURS


@pytest.mark.parametrize(
    ("direction", "settings", "rate"),
    [
        ("up", "(from 128 to 256; keep the number of epochs at 90).", "learning rate from 0.1 to 0.05"),
        ("down", "(from 128 to 64; keep the number of epochs at 90).", "learning rate from 0.1 to 0.2"),
    ],
)
def test_new_settings_go_the_way_of_the_action(direction, settings, rate):
    action = step(direction, 2.0)
    found = in_settings(action, Training(128, 0.1, 90))
    assert settings in found.sentence
    assert found.rules[0].endswith(rate)
    assert found.rules[1:] == action.rules
    assert in_settings(action, Training()) == action


def test_actions_of_other_knobs_read_well():
    """A reference over learning rates or epochs gets its words from the table of knobs."""
    known = Training(64, 0.1, 30)
    rate = in_settings(step("down", 4.0, "learning_rate"), known)
    assert rate.setting == Setting("learning_rate", 0.1, 0.025)
    assert rate.alternative == Setting("batch_size", 64, 256)
    assert actions.headline(rate) == (
        "Train at a lower temperature: reduce the learning rate by a factor of 4 (from 0.1 to 0.025; keep the number "
        "of epochs at 30)."
    )
    assert rate.rules[0] == "instead of the learning rate, change the batch size from 64 to 256"
    longer = in_settings(step("up", 2.0, "train_epochs"), known)
    assert actions.headline(longer) == "Increase the number of epochs by a factor of 2 (from 30 to 60)."
    assert "longer training costs more" in actions.trial(longer, None)
    decay = in_settings(step("down", 10.0, "weight_decay"), known)
    assert actions.headline(decay) == "Reduce the weight decay by a factor of 10."
    kept = Action("leave", knobs=("learning_rate", "train_epochs"), reference="mine")
    assert kept.sentence.startswith("Keep learning rate and number of epochs as they are. Within the range of coll")
    augmented = Action("direction", "augment", "up", grounds="no_step", reference="mine")
    assert actions.headline(augmented) == "Turn on data augmentation."


def test_a_step_is_named_by_what_the_grid_has(small):  # noqa: F811
    """Widths 1, 3, 8: the step of x4 is that from 1 to 3; from 3 to 8 is more than half a doubling off."""
    part = small[small.width.isin([1, 3, 8])].drop(columns=[c for c in small if c.startswith(("label_", "rfi_"))])
    reference = fit_reference(load_collection(part), measure=False)
    action, _ = choose_action(reference, "model_too_small", {"x4": Gain(2.0, 1.0, 3.0, 20)})
    assert action.factor == 3.0
    action, gain = choose_action(reference, "model_too_small", {"one": Gain(-0.8, -3.0, 1.0, 20)})
    assert "This may not pay off: 20 similar models gained −0.8 points" in action.sentence
    assert gain.mean == -0.8


def test_without_settings_an_action_is_a_direction():
    metrics = {"train_error": 34.5, "mode_connectivity_peak": -22.6, "log_hessian_trace": 5.1, "cka": 0.5}
    found = diagnose_metrics(metrics)[0]
    assert found.action.factor > 1
    action = direction_only(found.action)
    assert (action.knob, action.direction) == (found.action.knob, found.action.direction)
    assert (action.how_far, action.factor) == ("direction_only", None)
    assert (
        f"gained {found.expected_gain.mean:+.1f} points of test accuracy on average with a change by a factor of"
        in action.sentence
    )
    assert "How far to go from your own settings is not known" in action.sentence
    assert direction_only(action) == action
    shown = str(dataclasses.replace(found, action=action))
    assert "Step: not known" in shown


@pytest.mark.parametrize("cause", CAUSES)
def test_a_guess_is_never_an_instruction(cause):
    action, _ = choose_action(default_reference(), cause, {}, is_tentative=True)
    assert action.sentence.startswith("If the first guess is right, ")
