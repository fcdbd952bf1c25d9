"""References over any knobs, and diagnoses with them."""

import numpy as np
import pytest

from mdtree_jax import Reference, diagnose_metrics, fit_reference, load_collection
from mdtree_jax.causes import joint
from mdtree_jax.causes.labels import cause_labels
from mdtree_jax.collection.grid import make_grid
from mdtree_jax.collection.moves import Move
from mdtree_jax.diagnosis.action import Action
from mdtree_jax.diagnosis.advice import choose_action, in_settings
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.gains import best_moves, expected_gain, steps_of, typical_factor
from mdtree_jax.diagnosis.words import actions
from mdtree_jax.registry.knobs import KNOBS
from tests.collection.test_moves import product
from tests.rates import heat_of, random_rates, rate_collection

METRICS = list(joint.COLUMNS)
CAUSES = ("temperature_too_low", "temperature_too_high", "model_too_small")
CAUSES += ("too_little_regularization", "too_much_regularization", "none")


@pytest.fixture(scope="module")
def reference():
    return fit_reference(rate_collection(), name="rates")


@pytest.fixture(scope="module")
def found(reference):
    return diagnose_metrics(rate_collection(seed=1)[METRICS], reference, units="percent")


def test_causes_and_knobs_are_those_of_the_collection(reference, found):
    assert reference.causes == CAUSES
    assert reference.knobs == ("learning_rate", "width", "weight_decay")
    assert set(reference.provenance["accuracy"]) == {"optimizer", "size", "joint", "joint_room"}
    assert reference.provenance["accuracy"]["joint"]["all"] > 80
    asked = load_collection(rate_collection(seed=1))
    right = np.array([d.cause for d in found]) == cause_labels(make_grid(asked)).to_numpy()
    assert right.mean() > 0.8
    assert all(set(d.ranking) == set(CAUSES) and sum(d.ranking.values()) == pytest.approx(1) for d in found)
    assert {d.action.knob for d in found} >= {"learning_rate", "width"}
    heat = heat_of(asked).to_numpy()
    for way, hot in (("up", heat < 0), ("down", heat > 0)):
        advised = [d.action.knob == "learning_rate" and d.action.direction == way for d in found]
        assert hot[advised].mean() > 0.95


def test_advice_is_given_in_the_words_of_its_knob(reference, found):
    cold = next(d for d in found if d.cause == "temperature_too_low" and d.expected_gain)
    start = "Train at a higher temperature: increase the learning rate by a factor of "
    assert actions.headline(cold.action).removeprefix("If the first guess is right, ").lower().startswith(start.lower())
    assert "a smaller batch also raises the temperature" in cold.action.rules[0]
    assert "Setting: learning rate" in str(cold)
    told = in_settings(cold.action, Training(learning_rate=0.0125))
    assert f"(from 0.0125 to {0.0125 * cold.action.factor:.3g})." in told.sentence
    action, gain = choose_action(reference, "none", {})
    assert action.sentence.startswith("Keep learning rate, network width and weight decay as they are. Within the ran")
    assert gain is None
    nothing = next(d for d in found if d.cause == "none")
    assert nothing.sentence == (
        "changing learning rate, network width or weight decay is not expected to gain a point of test accuracy"
    )
    wide = next(d for d in found if d.cause == "model_too_small" and actions.beside(d))
    assert "If you also change the learning rate, make it " in " ".join(str(wide).split())
    hot = next(d for d in found if d.cause == "temperature_too_high")
    assert actions.beside(hot) == ""


def test_steps_are_those_of_the_knob(reference):
    assert steps_of("weight_decay") == {"one": None, "x10": np.log2(10), "x100": np.log2(100)}
    assert steps_of("augment") == {"one": None}
    assert typical_factor(reference, Move("weight_decay", +1), "x10") == pytest.approx(10)
    assert typical_factor(reference, Move("learning_rate", -1), "x4") == pytest.approx(4)
    rows = reference.models.iloc[:5]
    moves, steps = best_moves(reference, rows, "too_little_regularization")
    assert moves == [Move("weight_decay", +1)] * 5
    assert steps == expected_gain(reference, rows, "too_little_regularization", move=moves[0])
    assert best_moves(reference, rows, "none") == ([None] * 5, [{}] * 5)


def test_of_two_moves_against_a_cause_the_better_one_is_advised():
    """A tenfold weight decay gains five points where it is too small, smoothing the labels nothing."""
    frame = product(weight_decay=[1e-5, 1e-4, 1e-3], label_smoothing=[0.05, 0.1, 0.2], width=[2, 4, 8, 16])
    weak = np.log10(frame.weight_decay) + 3
    frame["test_error"] = 20 + 5 * np.abs(weak) + 0.01 * frame.width
    frame["train_error"], frame["log_hessian_trace"] = np.exp(-weak), 5 + weak
    reference = fit_reference(frame, measure=False)
    rows = reference.models[reference.models.weight_decay < 1e-3].iloc[:6]
    assert [move.knob for move in reference.grid.moves_against("too_little_regularization")] == [
        *("weight_decay", "label_smoothing")
    ]
    moves, steps = best_moves(reference, rows, "too_little_regularization")
    assert {move.knob for move in moves} == {"weight_decay"}
    assert steps[0]["x10"].mean > 2
    assert diagnose_metrics(rows, reference, evidence="landscape")[0].action.knob == "weight_decay"


def test_a_saved_reference_of_a_random_search_gives_the_same_answers(tmp_path, found):
    frame = random_rates(350).assign(optimizer=lambda f: np.where(f.width > 3, "sgd", "adamw"))
    made = fit_reference(frame, name="random")
    assert made.grid.near == ("width", "learning_rate", "weight_decay")
    assert 150 < made.complete.sum() < 350
    made.save(tmp_path / "random.json")
    loaded = Reference.load(tmp_path / "random.json")
    assert loaded.grid.axes == made.grid.axes
    assert loaded.grid.axes[3:] == ("learning_rate", "weight_decay", "optimizer")
    assert loaded.rows.optimizer.tolist() == frame.optimizer.tolist()
    table = rate_collection(seed=1)[METRICS].iloc[::9]
    answers = [diagnose_metrics(table, which, units="percent") for which in (made, loaded)]
    for one, other in zip(*answers, strict=True):
        assert (one.cause, one.action, one.gains) == (other.cause, other.action, other.gains)
        assert one.ranking == pytest.approx(other.ranking)
    same = np.mean([one.cause == other.cause for one, other in zip(answers[0], found[::9], strict=True)])
    assert same > 0.6  # as a lattice of the same surface says


def test_every_knob_has_the_words_that_advice_needs():
    for knob in KNOBS.values():
        ways = [way for way in ("up", "down") if getattr(knob, way)]
        for way in ways:
            said = actions.headline(Action("direction", knob.name, way, grounds="no_step", reference="mine"))
            assert knob.words.noun in said, knob.name
            assert "{" not in said
