"""Causes of collections over any knobs: several moves against one, groups of causes, collections that differ."""

import numpy as np
import pytest

from mdtree_jax.causes import joint
from mdtree_jax.causes.evaluate import answer_all, causes_told, make_joint_side
from mdtree_jax.causes.labels import cause_labels, causes_of, gains, shared_causes
from mdtree_jax.causes.method_protocol import JOINT_TASKS, joint_method
from mdtree_jax.checks import UserError
from mdtree_jax.collection.grid import make_grid
from mdtree_jax.collection.load import load_collection
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.questions import Answer, Question
from mdtree_jax.registry.tree import Node, Tree
from tests.collection.test_moves import product
from tests.rates import random_rates, rate_collection


@pytest.mark.parametrize("label", ["step", "room"])
def test_the_gain_of_a_remedy_is_that_of_its_best_move(label):
    frame = product(batch_size=[8, 16, 32, 64], learning_rate=[0.1, 0.2, 0.4])
    grid, error = make_grid(frame), frame.set_index(["batch_size", "learning_rate"]).test_error
    assert grid.causes == ("temperature_too_low", "temperature_too_high", "none")
    found = gains(grid, label)
    for i, row in enumerate(frame.itertuples()):
        for column, hotter in enumerate((True, False)):
            moves = []
            for knob, up in (("batch_size", not hotter), ("learning_rate", hotter)):
                here = getattr(row, knob)
                ahead = sorted((v for v in set(frame[knob]) if (v > here) == up and v != here), reverse=not up)
                there = [error[(v, row.learning_rate) if knob == "batch_size" else (row.batch_size, v)] for v in ahead]
                if there:
                    moves.append(row.test_error - (there[0] if label == "step" else min([*there, row.test_error])))
            # A knob at its edge gains nothing, but does not hide that the other one loses.
            assert found[i, column] == pytest.approx(max(moves, default=0.0))
    assert (found < 0).any() == (label == "step")
    assert (cause_labels(grid, label) == np.array(grid.causes)[causes_of(found)]).all()


#: One letter a cause; "z" is one that the gains below know nothing of.
LETTERS = dict(zip("abcdez", CAUSES, strict=False))


def question(first, second):
    """Return a question whose answers speak for the causes of these letters."""
    one, two = (tuple(LETTERS[letter] for letter in group) for group in (first, second))
    node = Node("train_error", 0.5, 0.0, 1.0, "one", "two")
    return Question("mine", "?", (Answer("one", "1", one), Answer("two", "2", two)), Tree("mine", (node,)))


def test_probabilities_of_any_groups_equal_simulated_ones():
    rng = np.random.default_rng(0)
    mean, sd = 1.5 * rng.normal(size=(5, 5)), 0.3 + rng.random((5, 5))
    draws = mean[:, None] + sd[:, None] * rng.normal(size=(5, 100_000, 5))
    causes = (*(LETTERS[one] for one in "abcde"), "none")
    for first, second in (("a", "b"), ("ab", "c"), ("a", "bc"), ("ab", "cde"), ("abz", "c")):
        task = question(first, second)
        places = [[causes.index(name) for name in group if name in causes] for group in task.groups]
        wins = draws[..., places[1]].max(axis=2) > draws[..., places[0]].max(axis=2)
        share = joint.DOUBT + (1 - 2 * joint.DOUBT) * wins.mean(axis=1)
        found = joint.task_probabilities(mean, sd, task, causes)
        np.testing.assert_allclose(found.sum(axis=1), 1.0)
        assert np.abs(found[:, 1] - share).max() < 0.007
        assert np.abs(joint.task_probabilities(1.5 * mean, sd, task, causes)[:, 1] - share).max() > 0.02
    assert joint.task_probabilities(mean, sd, question("a", "z"), causes) is None


def test_collections_that_tell_different_causes_are_asked_what_both_tell():
    rates, plain = (load_collection(rate_collection(decays=d)) for d in ([0.0, 1e-5, 1e-4, 1e-3], [1e-4]))
    said = []
    causes = causes_told([rates, plain], said.append, allow_missing=False)
    assert causes == ("temperature_too_low", "temperature_too_high", "model_too_small", "none")
    assert said == [
        "too_little_regularization, too_much_regularization cannot be identified in every collection; only the other "
        "causes are considered"
    ]
    assert shared_causes([make_grid(plain), make_grid(rates)]) == causes
    side = make_joint_side(rates, "step", causes=causes)
    assert side.gained.shape[1] == 3
    everything = gains(make_grid(rates), "step")
    np.testing.assert_array_equal(side.gained, everything[:, :3])
    (answers,) = answer_all([joint_method()], JOINT_TASKS["joint"], rates, plain).values()
    assert len(answers.right) == len(plain)
    assert answers.right.mean() > 0.8
    decays = load_collection(product(weight_decay=[0.1, 0.2], label_smoothing=[0.1, 0.2]))
    with pytest.raises(UserError, match="no cause in common that all can identify: temperature_too_low, "):
        causes_told([plain, decays], allow_missing=False)
    with pytest.raises(UserError, match="a collection over optimizer cannot identify any cause"):
        gains(make_grid(product(optimizer=["sgd", "adamw"])))


def test_the_joint_model_learns_from_a_random_search():
    learn, ask = load_collection(random_rates(400)), load_collection(rate_collection(seed=1))
    causes = shared_causes([make_grid(learn), make_grid(ask)])
    side, test = (make_joint_side(frame, "step", causes=causes) for frame in (learn, ask))
    assert 250 < len(side.y) < 400  # a row without a neighbour takes no part
    model = joint.fit_joint(side.frame, side.gained)
    chances = joint.predict_joint(model, test.frame)
    assert chances.shape == (len(ask), len(causes))
    right = (chances.argmax(axis=1) == test.y).mean()
    assert right > 0.75 > np.bincount(test.y).max() / len(test.y) + 0.2
