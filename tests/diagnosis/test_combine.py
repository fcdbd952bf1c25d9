"""Findings, expected gains and the landscape in one diagnosis."""

import dataclasses
import json
import re

import pytest

from mdtree_jax import diagnose_metrics
from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis.advice import remedy_action
from mdtree_jax.diagnosis.combine import SURE_CAUSE, _with_witness, with_outlook
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.facts import fact
from mdtree_jax.diagnosis.findings import Finding
from mdtree_jax.diagnosis.outlook import Answered, Move, Outlook, error_budget
from mdtree_jax.diagnosis.words import actions
from mdtree_jax.registry.remedies import REMEDIES
from tests.diagnosis.test_from_metrics import COLD

SOFTMAX = Finding("softmax_over_one_unit", 0.9, {})
DEAD = Finding("dead_units", 0.6, {"layer": "ReLU 2", "share": 0.75})
GAP = Finding("wide_gap", 1.0, {"train_error": 0.0, "validation_error": 20.0})
WEAK = Finding("relu_output", 0.4, {"zero_share": 0.5, "dead_outputs": 0, "largest": 3.0, "wants": "logits"})


def outlook(cause="temperature_too_high", sure=0.6, **settings):
    """Return an outlook of three moves whose cause has a probability."""
    moves = (Move("rate_down", 4.0, -1.0, 8.0, 0.8, 4.0), Move("wider", 3.0, 0.0, 6.0, 0.7, 3.0))
    rest = {"model_too_small": 1 - sure, cause: sure}
    ranking = dict(sorted(rest.items(), key=lambda item: -item[1]))
    answers = (Answered("optimizer", "too_high", 0.9, False), Answered("data", "data", 0.6, True))
    budget = error_budget({"validation_error": 20.0, "train_error": 5.0})
    return Outlook(
        budget,
        moves,
        answers,
        ranking,
        cause,
        error=20.0,
        evidence=("weight_growth",),
        networks=1440,
        families=5,
        **settings,
    )


@pytest.fixture(scope="module")
def cold():
    return diagnose_metrics(COLD, evidence="landscape")[0]


def test_the_outlook_decides_and_the_landscape_is_its_witness(cold):
    found = with_outlook(cold, outlook(), training=Training(learning_rate=0.3, batch_size=64))
    assert (found.cause, found.probability, found.abstention) == ("temperature_too_high", 0.6, None)
    assert found.causes == (("temperature_too_high", 0.6),)
    assert (found.expected_gain.mean, found.expected_gain.low, found.expected_gain.high) == (4.0, -1.0, 8.0)
    assert found.expected_gain.models == 1440
    assert (found.action.kind, found.action.remedy) == ("remedy", "rate_down")
    assert (found.action.setting.before, found.action.setting.after) == (0.3, pytest.approx(0.1))
    assert found.action.sentence == (
        "Train at a lower temperature: lower the learning rate by a factor of 3 (from 0.3 to 0.1)."
    )
    assert (found.landscape["cause"], found.landscape["ranking"]) == (cold.cause, cold.ranking)
    assert (found.evidence, found.questions, found.position) == (cold.evidence, cold.questions, cold.position)
    assert found.knobs == ("learning_rate", "width")
    data = found.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["answers"]["optimizer"] == {
        "question": "optimizer", "answer": "too_high", "probability": 0.9, "abstains": False
    }  # fmt: skip


def test_temperature_is_moved_by_the_knob_whose_value_is_known(cold):
    by_batch = with_outlook(cold, outlook(), training=Training(batch_size=64)).action
    assert by_batch.sentence.startswith("Train at a lower temperature: change the batch size from 64 to 192, or lower")
    unknown = with_outlook(cold, outlook()).action
    assert unknown.sentence == "Train at a lower temperature: lower the learning rate by a factor of 3."
    assert any("a larger batch" in rule for rule in unknown.rules)


def test_a_setting_that_is_known_gets_a_new_value():
    decay = remedy_action("decay_up", training=Training(weight_decay=5e-4))
    assert decay.sentence == "Raise the weight decay by a factor of 10 (from 0.0005 to 0.005)."
    longer = remedy_action("longer", training=Training(epochs=30))
    assert longer.sentence == "Train for four times as many epochs (from 30 to 120)."
    assert remedy_action("refreshed").sentence.startswith("Recompute the BatchNorm statistics over the training data")
    smooth = remedy_action("smoothing_on", is_tentative=True)
    assert (smooth.sentence, smooth.direction) == ("Most promising: smooth the labels by 0.1.", "up")
    for name in REMEDIES:
        action = remedy_action(name, training=Training(batch_size=64, learning_rate=0.1, epochs=10))
        said = " ".join([action.sentence, *action.rules, *(text for _, text in actions.facts(action, None))])
        assert re.findall(r"\w+_\w+|[{}]|None|\s\s|\.\.", said) == []
        assert action.to_dict()["remedy"] == name


def test_an_unsure_cause_is_a_guess_and_its_questions_answer_for_themselves(cold):
    found = with_outlook(cold, outlook(sure=SURE_CAUSE - 0.01))
    assert found.abstention == fact(
        "no_clear_gain", cause="temperature_too_high", probability=SURE_CAUSE - 0.01, least=SURE_CAUSE
    )
    assert found.causes == ()
    assert found.action.sentence.startswith("Most promising: train at a lower")
    assert found.expected_gain.mean == 4.0
    assert [answer.abstains for answer in found.outlook.answers] == [False, True]


def test_faults_come_first_the_surest_first_and_hold_together(cold):
    found = with_outlook(cold, outlook(), [WEAK, DEAD, GAP, SOFTMAX])
    assert found.cause == "wrong_last_activation"
    assert found.causes == (
        ("wrong_last_activation", 0.9),
        ("dead_or_saturated_units", 0.6),
    )
    # The networks on which gains are fitted had no such fault.
    assert found.outlook.answers == ()
    assert sum(found.ranking.values()) == pytest.approx(1)
    assert found.probability == found.ranking["wrong_last_activation"] == pytest.approx(0.9)
    assert found.ranking["dead_or_saturated_units"] == pytest.approx(0.06)
    assert not found.abstains
    assert found.expected_gain is None
    assert found.action.kind == "repair"
    assert found.action.sentence.startswith("Replace the softmax by a sigmoid, or give out two units. The output can")
    assert found.outlook.move.remedy == "rate_down"
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_a_gap_decides_only_where_gains_say_nothing(cold):
    assert with_outlook(cold, outlook(), [GAP]).cause == "temperature_too_high"
    unsure = with_outlook(cold, outlook(sure=0.3), [GAP])
    assert (unsure.cause, unsure.abstains, unsure.action.kind) == ("too_little_data", False, "repair")
    assert unsure.causes == (("too_little_data", 0.7),)
    jumps = Finding("unstable_loss", 1.0, {"rises": 3, "points": 8})
    assert with_outlook(cold, outlook(sure=0.3), [jumps]).abstains  # right for half of the networks
    alone = with_outlook(cold, None, [GAP])
    assert (alone.cause, alone.probability) == (
        "too_little_data",
        pytest.approx(0.7 + 0.3 * cold.ranking[GAP.cause]),
    )
    assert with_outlook(cold, None, [WEAK]).cause == cold.cause
    assert with_outlook(cold, None, [WEAK]).landscape is None


def test_nothing_to_gain(cold):
    found = with_outlook(cold, outlook("none", 0.7))
    assert (found.cause, found.action.kind, found.expected_gain) == ("none", "leave", None)
    assert found.sentence == (
        "changing learning rate or network width is not expected to gain a point of test accuracy"
    )
    assert found.action.sentence == (
        "Keep learning rate and network width as they are. Of the changes that were compared, none is expected to gain "
        "a point."
    )
    assert with_outlook(cold, outlook("none", 0.3)).reason.startswith("it cannot be told whether anything gains")


def test_measurements_in_doubt_stay_in_doubt(cold):
    from mdtree_jax.diagnosis.from_metrics import withhold

    doubt = fact("guessing", train_error=66.0, error_of_guessing=66.7)
    assert with_outlook(withhold(cold, doubt), outlook()).abstention == doubt
    assert with_outlook(withhold(cold, doubt), outlook(), [SOFTMAX]).abstention is None
    assert with_outlook(withhold(cold, doubt), outlook(), is_confirmed=True).abstention is None  # a history says so


ROW = {"train_error": 0.0, "test_error": 20.0, "num_classes": 10, "learning_rate": 0.1, "batch_size": 64}


def test_a_table_with_held_out_errors_says_what_can_be_gained():
    (found,) = diagnose_metrics(ROW)
    assert [(term.name, term.points) for term in found.outlook.budget] == [("not_fitted", 0.0), ("gap", 20.0)]
    assert found.remarks[-1] == fact("test_as_validation")
    assert found.landscape is not None
    given, same = diagnose_metrics(
        [
            ROW | {"validation_error": 20.0},
            ROW | {"num_classes": None, "chance_error": 90.0, "chance_loss": 2.302585093},
        ]
    )
    assert fact("test_as_validation") not in given.remarks
    assert given.outlook.moves == found.outlook.moves
    assert [move.gain for move in same.outlook.moves] == pytest.approx([move.gain for move in found.outlook.moves])
    (without,) = diagnose_metrics({k: v for k, v in ROW.items() if k != "num_classes"})
    assert without.remarks[-1].kind == "chance_unknown"
    assert len(without.outlook.evidence) < len(found.outlook.evidence)


def test_landscape_alone_is_what_it_was_without_held_out_errors():
    row = COLD | {"test_error": 20.0}
    (alone,) = diagnose_metrics(row, evidence="landscape")
    (before,) = diagnose_metrics(COLD)
    assert (alone.cause, alone.ranking, alone.questions) == (before.cause, before.ranking, before.questions)
    assert (alone.outlook, alone.landscape, alone.causes) == (None, None, ())
    (both,) = diagnose_metrics(row)
    assert both.landscape["ranking"] == alone.ranking
    with pytest.raises(UserError, match=r"unknown evidence 'landscap' .did you mean 'landscape'"):
        diagnose_metrics(row, evidence="landscap")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"num_classes": 1}, "num_classes=1 in row 1; it must be at least 2"),
     ({"num_classes": None, "chance_error": 0.0}, "chance_error=0 in row 1; it must be above 0"),
     ({"validation_error": "bad"}, "column 'validation_error' holds 'bad' in row 1")],
)  # fmt: skip
def test_mistakes_in_the_columns_of_gains(wrong, message):
    with pytest.raises(UserError, match=message):
        diagnose_metrics(ROW | wrong)


def test_a_move_that_the_settings_rule_out_is_not_advised():
    rows = [ROW | {"weight_decay": 0.0, "label_smoothing": 0.1, "batch_size": 1}, ROW]
    first, second = ({move.remedy for move in found.outlook.moves} for found in diagnose_metrics(rows, units="percent"))
    assert second - first >= {"batch_down"}
    assert not {"decay_up", "decay_down", "smoothing_on", "refreshed"} & first


def test_errors_and_landscape_alone_answer_only_what_the_trees_do_not_contradict():
    """Where history, norms or probes are known, the trees have no say."""
    answers = (Answered("optimizer", "too_low", 0.9, False), Answered("time", "time", 0.9, False))
    base = Outlook((), (), answers, {"none": 1.0}, "none", evidence=("fitted_share", "log_trace"))
    against, with_it = {"temperature_too_high": 0.7, "temperature_too_low": 0.3}, {"temperature_too_low": 0.7}
    assert [one.abstains for one in _with_witness(base, {"optimizer": against}).answers] == [True, False]
    assert [one.abstains for one in _with_witness(base, {"optimizer": with_it}).answers] == [False, False]
    assert not _with_witness(base, {}).answers[0].abstains
    known = dataclasses.replace(base, evidence=("fitted_share", "weight_growth"))
    assert not _with_witness(known, {"optimizer": against}).answers[0].abstains
