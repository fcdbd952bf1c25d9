import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.models import build_model
from mdtree_jax.population import train as population_train
from mdtree_jax.population.history import recorded_epochs
from mdtree_jax.population.train import member_key, train_cohort
from mdtree_jax.training import Hyperparameters, evaluate, make_trainer
from mdtree_jax.training.train import init_key
from tests.numerics import quick_float64
from tests.population.test_train import MLP, RESNET, assert_equal, executor, toy_cohort, toy_data


def data_with_validation(recipe):
    data = toy_data(recipe, num_test=43)
    data.x_validation, data.y_validation = data.x_test[30:], data.y_test[30:]
    data.x_test, data.y_test = data.x_test[:30], data.y_test[:30]
    return data


def points_of(trained, member):
    """Return the recorded points of a member, a row each, as columns."""
    rows = trained.history["member"] == member
    return {name: values[rows] for name, values in trained.history.items() if name != "member"}


@pytest.mark.parametrize(
    ("recipe", "lanes"),
    [(MLP, 1), (MLP, 3), pytest.param(RESNET, 1, marks=pytest.mark.slow)],
    ids=["mlp", "lanes", "resnet"],
)
def test_recording_changes_no_bit_of_a_network(recipe, lanes):
    cohort, choice = toy_cohort(epochs=3), executor(lanes=lanes)
    recipe = dataclasses.replace(recipe, early_stop_min_epoch=1)
    without = train_cohort(recipe, cohort, toy_data(recipe, num_test=43), executor=choice)
    data = data_with_validation(recipe)
    off = train_cohort(dataclasses.replace(recipe, history_points=0), cohort, data, executor=choice)
    on = train_cohort(recipe, cohort, data, executor=choice)
    assert off.history is None
    assert without.validation_loss is None
    assert_equal(off, on)
    np.testing.assert_array_equal(off.validation_error, on.validation_error)
    for one in (off, on):  # what is held out does not matter to the networks
        jax.tree.map(np.testing.assert_array_equal, without.variables, one.variables)
        np.testing.assert_array_equal(without.train_loss, one.train_loss)
    # Both held-out sets together are the test set of before.
    wrong = 30 * off.test_error + 13 * off.validation_error
    np.testing.assert_allclose(wrong, 43 * without.test_error)


def test_points_are_those_of_a_plain_loop():
    with quick_float64():
        recipe = dataclasses.replace(MLP, history_points=3, early_stop=False)
        cohort, data = toy_cohort(epochs=7), data_with_validation(MLP)
        trained = train_cohort(recipe, cohort, data, executor=executor(lanes=2, per_pass=4), dtype="float64")
        for member in (0, 4):
            found, expected = points_of(trained, member), curve_alone(cohort.members[member], data, epochs=(3, 5, 7))
            assert list(found) == ["epoch", "step", "train_loss", "validation_loss", "validation_error"]
            np.testing.assert_allclose(np.stack(list(found.values()), 1), expected, rtol=1e-9)
        last = [points_of(trained, member)["validation_loss"][-1] for member in range(6)]
        np.testing.assert_allclose(trained.validation_loss, last, rtol=1e-12)


def curve_alone(member, data, epochs):
    """Return epoch, step, training loss, validation loss and error of one network that is trained step by step."""
    model = build_model("mlp", 4, 3, (3, 3, 1), "float64")
    trainer = make_trainer(model, batch_size=4, num_epochs=7, early_stop=False)
    x, y = jnp.array(data.x_train, jnp.float64), jnp.array(data.y_train)
    key, values = member_key(0, member.seed, member.num_samples), (member.learning_rate, member.weight_decay)
    hparams = Hyperparameters(jnp.array(key), jnp.int32(member.num_samples), *map(jnp.float64, values))
    state = trainer.start(model.init(init_key(key)), hparams, len(x))
    step, begin_epoch, end_epoch = map(jax.jit, (trainer.step, trainer.begin_epoch, trainer.end_epoch))
    on_validation = jax.jit(functools.partial(evaluate, model, batch_size=512))
    x_validation, y_validation = jnp.array(data.x_validation, jnp.float64), jnp.array(data.y_validation)
    rows = []
    for epoch in range(1, 8):
        state = begin_epoch(state, hparams)
        for _ in range(member.num_samples // 4):
            state = step(state, hparams, x, y)
        mean = float(state.loss_sum) / (member.num_samples // 4)
        state = end_epoch(state, hparams)
        loss, wrong = on_validation(state.variables, x_validation, y_validation, jnp.int32(13))
        rows.append([epoch, epoch * (member.num_samples // 4), mean, float(loss), 100 * int(wrong) / 13])
    return [row for row in rows if row[0] in epochs]


def test_training_that_ends_early_is_recorded_to_its_end():
    data, cohort = data_with_validation(MLP), toy_cohort(epochs=9)
    wild = dataclasses.replace(cohort.members[1], learning_rate=1e30)
    cohort = dataclasses.replace(cohort, members=(cohort.members[0], wild))
    rule = {"early_stop_min_epoch": 4, "early_stop_patience": 1, "early_stop_tolerance": 10.0}
    recipe = dataclasses.replace(MLP, history_points=3, **rule)
    trained = train_cohort(recipe, cohort, data, executor=executor(devices=1))
    assert trained.num_epochs[0] == 4
    assert trained.num_epochs[1] in (1, 2)
    assert points_of(trained, 0)["epoch"].tolist() == [3, 4]
    assert points_of(trained, 1)["epoch"].tolist() == [trained.num_epochs[1]]
    assert not np.isfinite(points_of(trained, 1)["train_loss"][-1])


def test_a_resumed_training_has_the_same_history(monkeypatch):
    monkeypatch.setattr(population_train, "BLOCK_SECONDS", 1e-9)
    cohort, data, saved = toy_cohort(), data_with_validation(MLP), []
    choice = executor(per_pass=4)
    straight = train_cohort(MLP, cohort, data, executor=choice, checkpoint=saved.append, checkpoint_seconds=0.0)
    for state in (saved[2], saved[len(saved) // 2]):
        resumed = train_cohort(MLP, cohort, data, executor=choice, resume=state)
        assert_equal(straight, resumed)
        for name, values in straight.history.items():
            np.testing.assert_array_equal(resumed.history[name], values)


def test_without_a_validation_set_the_training_loss_is_recorded_where_asked():
    recipe = dataclasses.replace(MLP, history_points=2)
    trained = train_cohort(recipe, toy_cohort(), toy_data(MLP), executor=executor())
    assert list(trained.history) == ["member", "epoch", "step", "train_loss"]
    assert points_of(trained, 0)["epoch"].tolist() == [2, 4]


@pytest.mark.parametrize("num_epochs", [1, 2, 31, 32, 33, 50, 1000])
def test_recorded_epochs_are_evenly_spread_up_to_the_last(num_epochs):
    epochs = recorded_epochs(num_epochs, 32)
    assert len(epochs) == min(num_epochs, 32)
    assert epochs[-1] == num_epochs
    assert np.ptp(np.diff([0, *epochs])) <= 1
