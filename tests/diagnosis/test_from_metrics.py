"""Diagnoses from a table of metrics: units, missing metrics, standard errors, abstention, advice, references."""

import dataclasses
import inspect
import json
import time

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import diagnose_metrics, fit_reference
from mdtree_jax.causes import joint
from mdtree_jax.causes.labels import CAUSES, gains, step_gain
from mdtree_jax.checks import UserError
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.moves import Move
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.diagnosis import from_metrics as verdict
from mdtree_jax.diagnosis import probabilities as chances
from mdtree_jax.diagnosis.abstain import weak_or_contradicted
from mdtree_jax.diagnosis.action import Action, Gain, Setting, Step
from mdtree_jax.diagnosis.advice import choose_action, direction_only, in_settings
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.facts import fact
from mdtree_jax.diagnosis.gains import FEWEST, NEIGHBOURS, expected_gain, factor_gain, reference_verdicts
from mdtree_jax.diagnosis.metrics_table import read_metrics, unused_columns
from mdtree_jax.diagnosis.reference import default_reference, packaged_reference
from mdtree_jax.diagnosis.words import actions, notes, references
from mdtree_jax.registry.questions import QUESTIONS, question_behind
from mdtree_jax.trees.members import SIMILARITY
from tests.causes.test_joint import small  # noqa: F401 (a fixture)

COLD = {
    "train_error": 0.0,
    "train_loss": 0.0006,
    "log_hessian_trace": 5.6,
    "log_hessian_max_eigenvalue": 3.4,
    "mode_connectivity": -8.0,
    "mode_connectivity_peak": -8.0,
    "cka": 0.4,
}


@pytest.fixture(scope="module")
def reference():
    return default_reference()


def test_a_cold_model(reference):
    (diagnosis,) = diagnose_metrics(COLD)
    assert diagnosis.questions["optimizer"]["temperature_too_low"] > 0.9
    assert set(diagnosis.ranking) == set(CAUSES)
    assert list(diagnosis.ranking.values()) == sorted(diagnosis.ranking.values(), reverse=True)
    assert sum(diagnosis.ranking.values()) == pytest.approx(1)
    assert diagnosis.probability == diagnosis.ranking[diagnosis.cause]
    first = diagnosis.evidence[0]
    assert (first.feature, first.side, first.value) == ("train_error", "at_most", 0.0)
    assert first.interval[0] <= first.threshold <= first.interval[1]
    assert all(0 <= share <= 1 for share in diagnosis.position.values())
    assert json.loads(json.dumps(diagnosis.to_dict())) == diagnosis.to_dict()


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


def test_questions_are_the_mean_of_trees_and_joint_model(reference, F_noise):
    rows = F_noise[list(joint.COLUMNS)].iloc[::200]
    found = diagnose_metrics(rows, units="percent")
    room = joint.gain_posterior(reference.room_model(), rows)
    alone = joint.fit_joint(reference.models, gains(reference.grid, "room")[reference.complete])
    np.testing.assert_allclose(room, joint.gain_posterior(alone, rows))
    for task in TASKS.values():
        model = joint.task_probabilities(*room, task)
        trees = reference.tree(task.name).predict_proba(rows)
        for row, diagnosis in enumerate(found):
            for place, name in enumerate(task.classes):
                share = trees[row, reference.tree(task.name).classes_.tolist().index(name)]
                assert diagnosis.trees[task.name][name] == pytest.approx(share)
                assert diagnosis.questions[task.name][name] == pytest.approx((share + model[row, place]) / 2)


def test_similarity_stands_in_for_the_sharpness_that_is_not_there(reference):
    (found,) = diagnose_metrics({"train_error": 12.0, "mode_connectivity_peak": -9.0, "cka": 0.4})
    assert (
        reference.tree("optimizer", ["train_error", "mode_connectivity_peak", "cka"]).structure_
        == SIMILARITY["optimizer"]
    )
    assert found.questions["optimizer"]
    features = ["train_error", "mode_connectivity_peak", "cka"]
    assert fact("question_asked_of", question="optimizer", metrics=features) in found.remarks
    assert any("is answered from training error, connectivity and similarity only" in note for note in found.notes)
    assert fact("question_not_asked", question="data") in found.remarks


def test_a_negative_eigenvalue_of_a_table_is_as_large_as_it_is():
    rows = [
        COLD | {"log_hessian_max_eigenvalue": None, "hessian_max_eigenvalue": value} for value in (-30.0, 30.0, 0.0)
    ]
    negative, positive, zero = diagnose_metrics([row | {"hessian_max_eigenvalue_se": 3.0} for row in rows])
    assert negative.metrics["log_hessian_max_eigenvalue"] == pytest.approx(np.log(30.0))
    assert negative.ranking == positive.ranking
    assert negative.metrics["log_hessian_max_eigenvalue_se"] == pytest.approx(0.1)
    assert "log_hessian_max_eigenvalue" not in zero.metrics


def test_fractions_among_percentages_are_told():
    rows = pd.DataFrame([COLD | {"train_error": 0.1 * i} for i in range(6)])
    assert diagnose_metrics(rows)[3].remarks == (fact("read_as_percent", metrics=["train_error"]),)
    assert diagnose_metrics(rows)[3].notes == [
        "no model has a value of training error above 1; the values are read as percent, like the other errors"
    ]
    assert diagnose_metrics(rows, units="percent")[3].notes == []
    assert diagnose_metrics(rows.assign(train_error=2.0))[3].notes == []


def test_keys_of_a_diagnosis_are_documented():
    keys = diagnose_metrics(COLD)[0].to_dict()
    table = inspect.getdoc(verdict.Diagnosis)  # `__doc__` is indented up to Python 3.12 only
    assert [key for key in keys if f"\n{key} " not in table] == []


def test_published_names_and_accuracies_are_understood():
    ours = diagnose_metrics({"train_error": 12.0, "log_hessian_trace": 5.0, "cka": 0.4})[0]
    theirs = diagnose_metrics({"train_acc": 88.0, "hessian_t": 5.0, "CKA": 0.4})[0]
    assert ours == theirs


UNITS = [
    ({"train_error": [0.2, 3.0]}, None, [0.2, 3.0]),
    ({"train_error": [0.2], "mode_connectivity_peak": [-12.0]}, None, [0.2]),
    ({"train_error": [0.2], "test_acc": [0.7]}, None, [20.0]),
    ({"train_acc": [0.8]}, None, [20.0]),
    ({"train_error": [0.2]}, "fraction", [20.0]),
    ({"train_error": [0.2, np.inf], "test_acc": [0.7, 0.6]}, None, [20.0, float("nan")]),
    ({"train_error": [0.2]}, "percent", [0.2]),
]


@pytest.mark.parametrize(("table", "units", "expected"), UNITS, ids=str)
def test_units_are_decided_from_all_error_columns(table, units, expected):
    read = read_metrics(pd.DataFrame(table | {"train_error_se": [0.01] * len(expected)}), units)
    assert read.train_error.tolist() == pytest.approx(expected, nan_ok=True)
    fraction = units == "fraction" or (units is None and ("train_acc" in table or "test_acc" in table))
    assert read.train_error_se.tolist() == pytest.approx([1.0 if fraction else 0.01] * len(expected))


def test_zeros_have_no_unit():
    assert read_metrics({"train_error": 0.0, "mode_connectivity_peak": -0.0, "cka": 0.3}).train_error.tolist() == [0.0]


BAD = [
    (
        {"train_error": 0.2, "cka": 0.4},
        None,
        r"may be fractions or percentages \('train_error' up to 0.2\); set un",
    ),
    (
        {"train_error": 0.0, "mode_connectivity_peak": -0.2},
        None,
        r"percentages \('mode_connectivity_peak' up to -0.2\); set units",
    ),
    ({"train_error": 0.2}, "per mille", "unknown units 'per mille'.*available: fraction, percent"),
    ({"accuracy": 3}, None, "has none of the metrics train_error, .*; it has accuracy"),
    ({"train_eror": 3}, None, r"it has train_eror; 'train_eror' \(did you mean 'train_error'\?\)"),
    (
        {"test_error": 10.0, "train_eror": 3},
        None,
        r"it has test_error, train_eror; 'train_eror' \(did you mean 'train_er",
    ),
    (pd.DataFrame([[1.0, 2.0]], columns=["cka", "cka"]), None, "has two columns 'cka'"),
    ({"train_error;cka": "3;0.4"}, None, "its columns do not seem to be separated by commas"),
    (
        [{"train_error": "3"}, {"train_error": "7.5%"}],
        None,
        "column 'train_error' holds '7.5%' in row 2; it must hold numbers",
    ),
    ({"train_error": 103.0}, None, r"train_error=103 in row 1; it must be in \[0, 100\]"),
    ({"mode_connectivity_peak": 12.0}, None, "minus the largest training error"),
    ({"cka": 1.4}, None, r"cka=1.4 in row 1; it must be in"),
    ({"cka": 0.4, "cka_se": -0.1}, None, "'cka_se' holds a negative standard error"),
    ([], None, "has no rows"),
    (
        {"train_error": 0.282, "train_acc": 71.8},
        None,
        "'train_error' and 'train_acc' are two names of one metric, but differ in row 1: 0.282 and 28.2",
    ),
    ([{"cka": 0.4, "CKA": 0.4}, {"cka": 0.4, "CKA": 0.5}], None, "differ in row 2: 0.4 and 0.5"),
    ({"train_error": 28.0, "train_error.1": 0.28}, None, "has two columns 'train_error'"),
    (
        {"mode_connectivity_peak": -12.0, "train_acc": 0.7},
        None,
        "accuracies must be percentages, but column",
    ),
]


@pytest.mark.parametrize(("table", "units", "message"), BAD, ids=str)
def test_bad_tables(table, units, message):
    with pytest.raises(UserError, match=message):
        diagnose_metrics(table, units=units)


def test_two_names_of_one_metric_that_agree_are_one():
    both, one = diagnose_metrics({"train_error": 28.2, "train_acc": 71.8, "cka": 0.4} | {"CKA": 0.4}), COLD
    assert both[0].metrics == {"train_error": 28.2, "cka": 0.4}
    gaps = diagnose_metrics([{"cka": None, "CKA": 0.4, "train_acc": 70.0, "train_error": np.nan}, COLD])
    assert gaps[0].metrics == {"train_error": 30.0, "cka": 0.4}
    at_chance = {"train_acc": 0.01, "cka": one["cka"]}
    assert diagnose_metrics(at_chance, units="fraction")[0].metrics["train_error"] == pytest.approx(99.0)
    assert diagnose_metrics(at_chance, units="percent")[0].metrics["train_error"] == pytest.approx(99.99)


def test_missing_metrics_are_done_without_and_named():
    rows = diagnose_metrics([COLD, COLD | {"cka": float("nan")}, {"cka": None, "train_error": None}])
    assert rows[0].notes == []
    assert rows[1].remarks[0] == fact("metrics_missing", metrics=["cka"])
    assert rows[1].notes[0] == "the answer comes from a model fitted without similarity, which is not given"
    assert rows[1].questions.keys() == rows[0].questions.keys()
    assert rows[2].abstains
    assert rows[2].abstention.kind == "nothing_given"
    assert rows[2].reason.startswith("a diagnosis needs at least one of the metrics train_error, ")
    single = diagnose_metrics({"train_error": 12.0, "log_hessian_trace": 5.0})[0]
    assert fact("question_not_asked", question="size") in single.remarks
    assert [step.feature for step in single.evidence] == ["train_error", "log_hessian_trace"]


def test_a_standard_error_across_a_threshold_shows_in_the_probability():
    """Far from every threshold of the trees nothing moves; across one the probability goes towards one half."""
    warm = COLD | {"train_error": 0.05, "mode_connectivity_peak": -0.2, "mode_connectivity": 0.5, "cka": 0.55}
    rows = [warm, warm | {"train_error_se": 1.0}, warm | {"train_error_se": 1e-9}]
    sharp, blurred, tiny = diagnose_metrics(rows, units="percent")
    low = [d.questions["optimizer"]["temperature_too_low"] for d in (sharp, blurred, tiny)]
    assert low[0] > 0.8
    assert low[0] - low[1] > 0.15
    assert low[2] == pytest.approx(low[0], abs=1e-6)
    step = blurred.evidence[0]
    assert step.feature == "train_error"
    assert step.distance_in_standard_errors == pytest.approx((step.value - step.threshold) / 1.0)


def test_draws_have_the_moments_of_the_standard_errors():
    errors = dict(zip(joint.COLUMNS, (2.0, 0.1, 0.3, 0.2, 0.8, 0.9, 0.02), strict=True))
    centre = COLD | {"train_error": 30.0, "train_loss": 1.0, "mode_connectivity_peak": -40.0}
    table = read_metrics(centre | {f"{name}_se": error for name, error in errors.items()})
    rows, drawn = chances.draw_metrics(table, joint.COLUMNS)
    assert rows.tolist() == [0]
    assert drawn.mean().to_numpy() == pytest.approx([centre[name] for name in joint.COLUMNS])
    assert drawn.std(ddof=0).to_numpy() == pytest.approx(list(errors.values()))
    # As if drawn alone: no two metrics move together.
    assert np.abs(drawn.corr() - np.eye(7)).max(axis=None) < 0.13
    rows, drawn = chances.draw_metrics(table.drop(columns="cka_se"), ["cka", "train_loss"])
    assert drawn.std(ddof=0).to_numpy() == pytest.approx([0.0, errors["train_loss"]], abs=1e-12)


def test_outside_the_reference_it_abstains():
    strange = COLD | {"log_hessian_trace": 25.0, "log_hessian_max_eigenvalue": 23.0}
    mixed = COLD | {"train_error": 40.0, "train_loss": 0.0003}
    for row, why in ((strange, "sharpness lies outside"), (mixed, "no model with a similar combination")):
        (diagnosis,) = diagnose_metrics(row)
        assert diagnosis.abstains
        assert why in diagnosis.reason
        assert diagnosis.action.is_tentative
        assert diagnosis.action.sentence.startswith("If the first guess is right, ")
        # Nothing resembles it, so nothing tells what a step would gain it.
        assert (diagnosis.expected_gain, diagnosis.gains) == (None, {})
        assert "similar models" not in diagnosis.action.sentence
        assert (diagnosis.action.grounds, diagnosis.action.best) == ("unlike_any", None)
    assert "'log_hessian_trace' must be a natural logarithm, and 25 does not" in " ".join(
        str(diagnose_metrics(strange)[0]).split()
    )


def test_metrics_that_no_tree_can_be_asked_of_are_too_few():
    """More metrics must not make the answer less sure of itself than fewer: without any tree nothing contradicts."""
    (diagnosis,) = diagnose_metrics({"train_error": 7.5, "cka": 0.4})
    assert diagnosis.questions == {}
    assert diagnosis.abstains
    assert diagnosis.abstention.kind == "too_few_metrics"
    assert "no diagnostic tree can be used with so few metrics; missing: 'train_loss', " in diagnosis.reason


def test_no_gain_is_promised_beyond_the_test_error():
    hot = {"train_error": 28.2, "log_hessian_trace": 5.21, "mode_connectivity_peak": -0.03, "cka": 0.45}
    free, bound = diagnose_metrics(hot)[0], diagnose_metrics(hot | {"test_error": 6.0})[0]
    assert free.expected_gain.high > 6
    assert (bound.expected_gain.high, bound.expected_gain.mean <= 6) == (6.0, True)
    assert bound.expected_gain.low <= free.expected_gain.low
    assert (free.test_error, bound.test_error) == (None, 6.0)
    assert bound.ranking == free.ranking
    tiny = diagnose_metrics(hot | {"test_error": 1.0})[0]
    assert (tiny.action.how_far, tiny.expected_gain.cut) == (free.action.how_far, True)
    assert "40 similar models gained more with this step than the test error of this model" in tiny.action.sentence
    with pytest.raises(UserError, match=r"test_error=-5 in row 1; it must be in \[0, 100\]"):
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


def test_rows_are_the_same_in_pieces(monkeypatch, F_noise):
    rows = F_noise[list(joint.COLUMNS)].iloc[:7].reset_index(drop=True)
    rows.loc[3, "cka"] = np.nan
    whole = diagnose_metrics(rows, units="percent")
    monkeypatch.setattr(verdict, "_ROWS", 2)
    for a, b in zip(whole, diagnose_metrics(rows, units="percent"), strict=True):
        assert a.cause == b.cause
        np.testing.assert_allclose(list(a.ranking.values()), list(b.ranking.values()), rtol=1e-9)


def test_a_cause_that_was_never_named_in_the_test_says_so():
    cold = dataclasses.replace(diagnose_metrics(COLD)[0], cause="temperature_too_low", abstention=None)
    record = {"test": "G", "all": 60.0, "surest_80_percent": 70.0, "by_cause": {"none": {"answers": 3, "right": 50.0}}}
    said = references.track_record(dataclasses.replace(cold, accuracy=record))
    assert "“trained too cold” was never the first answer there" in said


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


def test_traces_and_eigenvalues_may_come_without_their_logarithm():
    plain = {"hessian_trace": np.exp(5.2), "hessian_trace_se": 0.1 * np.exp(5.2), "train_error": 28.0, "cka": 0.4}
    table = read_metrics(plain)
    assert table.log_hessian_trace[0] == pytest.approx(5.2)
    assert table.log_hessian_trace_se[0] == pytest.approx(0.1)
    assert np.isnan(read_metrics(plain | {"hessian_trace": -3.0}).log_hessian_trace[0])
    both = read_metrics([plain | {"log_hessian_trace": 4.0}, plain | {"log_hessian_trace": None}])
    assert both.log_hessian_trace.tolist() == pytest.approx([4.0, 5.2])
    assert np.isnan(both.log_hessian_trace_se[0])
    assert both.log_hessian_trace_se[1] == pytest.approx(0.1)


def test_weak_answers_abstain_and_others_do_not(F_noise):
    found = diagnose_metrics(F_noise.iloc[::20])
    for diagnosis in found:
        assert bool(diagnosis.reason) == diagnosis.abstains
        if diagnosis.probability < 0.5:
            assert diagnosis.abstains
    assert 0.05 < np.mean([d.abstains for d in found]) < 0.6


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


#: Cause -> (question, the class that contradicts it).
CONTRADICTED_BY = {
    "temperature_too_low": ("optimizer", "temperature_too_high"),
    "temperature_too_high": ("optimizer", "temperature_too_low"),
    "model_too_small": ("size", "temperature"),
    "too_little_data": ("data", "temperature"),
}


@pytest.mark.parametrize("cause", CONTRADICTED_BY)
def test_a_tree_that_says_the_opposite_is_disagreement(cause):
    task, other = CONTRADICTED_BY[cause]
    assert (question_behind(cause).name, QUESTIONS[task].against(cause).name) == (task, other)
    support = next(name for name in TASKS[task].classes if name != other)
    reasons = [weak_or_contradicted(cause, 0.9, {task: {other: p, support: 1 - p}}) for p in (0.80, 0.79)]
    assert reasons[0].to_dict() == {"kind": "contradicted", "cause": cause, "probability": 0.9, "question": task,
                                    "answer": other, "against": 0.80}  # fmt: skip
    assert notes.sentence(reasons[0]).startswith("the evidence disagrees: ")
    assert reasons[1] is None
    assert "likely enough" in notes.sentence(weak_or_contradicted(cause, 0.49, {}))
    assert notes.sentence(weak_or_contradicted(cause, 0.49996, {})).endswith("a probability of 49.9 %")


def test_a_step_is_named_by_what_the_grid_has(small):  # noqa: F811
    """Widths 1, 3, 8: the step of x4 is that from 1 to 3; from 3 to 8 is more than half a doubling off."""
    part = small[small.width.isin([1, 3, 8])].drop(columns=[c for c in small if c.startswith(("label_", "rfi_"))])
    reference = fit_reference(load_collection(part), measure=False)
    action, _ = choose_action(reference, "model_too_small", {"x4": Gain(2.0, 1.0, 3.0, 20)})
    assert action.factor == 3.0
    action, gain = choose_action(reference, "model_too_small", {"one": Gain(-0.8, -3.0, 1.0, 20)})
    assert "This may not pay off: 20 similar models gained −0.8 points" in action.sentence
    assert gain.mean == -0.8


@pytest.mark.slow
def test_speed_of_a_table_of_a_thousand_models(F_noise):
    table = F_noise[list(joint.COLUMNS)].sample(1000, random_state=0)
    for extra in ({}, {f"{c}_se": 0.05 for c in joint.COLUMNS}):
        packaged_reference.cache_clear()
        start = time.process_time()
        found = diagnose_metrics(table.assign(**extra))
        seconds = time.process_time() - start
        assert len(found) == 1000
        assert seconds < (3 if extra else 2)  # processor time, what it takes to read the reference included


def test_a_diagnosis_prints_as_the_terminal_shows_it():
    text = str(diagnose_metrics({"train_error": 34.5, "mode_connectivity_peak": -22.6, "log_hessian_trace": 5.1})[0])
    assert "What to do:" in text
    assert "Probabilities:" in text
    assert "34.5 %" in text


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


def test_columns_that_are_no_metrics_may_hold_anything():
    table = pd.DataFrame([COLD | {"use_se": "yes", "note": "-3"}])
    assert diagnose_metrics(table)[0].ranking == diagnose_metrics(COLD)[0].ranking
