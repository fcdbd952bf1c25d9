"""Diagnoses of a table: probabilities, evidence, standard errors, abstention, what is printed."""

import dataclasses
import inspect
import json
import time

import numpy as np
import pytest

from mdtree_jax import diagnose_metrics
from mdtree_jax.causes import joint
from mdtree_jax.causes.labels import CAUSES, gains
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.diagnosis import from_metrics as verdict
from mdtree_jax.diagnosis.abstain import weak_or_contradicted
from mdtree_jax.diagnosis.facts import fact
from mdtree_jax.diagnosis.reference import packaged_reference
from mdtree_jax.diagnosis.words import notes, references
from mdtree_jax.registry.questions import QUESTIONS, question_behind
from mdtree_jax.trees.members import SIMILARITY

COLD = {
    "train_error": 0.0,
    "train_loss": 0.0006,
    "log_hessian_trace": 5.6,
    "log_hessian_max_eigenvalue": 3.4,
    "mode_connectivity": -8.0,
    "mode_connectivity_peak": -8.0,
    "cka": 0.4,
}


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


def test_keys_of_a_diagnosis_are_documented():
    keys = diagnose_metrics(COLD)[0].to_dict()
    table = inspect.getdoc(verdict.Diagnosis)  # `__doc__` is indented up to Python 3.12 only
    assert [key for key in keys if f"\n{key} " not in table] == []


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


def test_a_cause_that_was_never_named_in_the_test_says_so():
    cold = dataclasses.replace(diagnose_metrics(COLD)[0], cause="temperature_too_low", abstention=None)
    record = {"test": "G", "all": 60.0, "surest_80_percent": 70.0, "by_cause": {"none": {"answers": 3, "right": 50.0}}}
    said = references.track_record(dataclasses.replace(cold, accuracy=record))
    assert "“trained too cold” was never the first answer there" in said


def test_weak_answers_abstain_and_others_do_not(F_noise):
    found = diagnose_metrics(F_noise.iloc[::20], evidence="landscape")
    for diagnosis in found:
        assert bool(diagnosis.reason) == diagnosis.abstains
        if diagnosis.probability < 0.5:
            assert diagnosis.abstains
    assert 0.05 < np.mean([d.abstains for d in found]) < 0.6


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
