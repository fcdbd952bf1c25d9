"""Probes and short runs against the trainer, closed forms and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdtree_jax.models import Model, build_model
from mdtree_jax.population.train import member_key
from mdtree_jax.probes import outcome
from mdtree_jax.probes.race import short_run
from mdtree_jax.probes.run import changes_of, continue_training, order_of, run_probes
from mdtree_jax.probes.steps import TrainingSettings, constant_trainer, scaled_transform, started, warm_up
from mdtree_jax.registry.objectives import Objective
from mdtree_jax.registry.probes import PROBES
from mdtree_jax.training import Hyperparameters, cross_entropy, make_trainer, objective_functions, train_single
from mdtree_jax.training.train import init_key
from tests.numerics import quick_float64

SHAPE, CLASSES, NUM = (3, 3, 1), 3, 40
NAMES = ("refreshed", "same", "heat", "cool", "scorch", "decay", "smooth")


@pytest.fixture(autouse=True)
def float64():
    with quick_float64():
        yield


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, *SHAPE)), rng.integers(0, CLASSES, 50)
    return jnp.asarray(x), jnp.asarray(y, jnp.int32)


@pytest.fixture
def network():
    """Return model, hyperparameters and variables of a small network with BatchNorm."""
    model = build_model("mlp", 4, CLASSES, SHAPE, "float64")
    return model, hyperparameters(), model.init(init_key(hyperparameters().key))


def hyperparameters(rate=0.05, decay=5e-4, **knobs):
    key = jnp.asarray(member_key(0, 1, NUM))
    return Hyperparameters(key, jnp.int32(NUM), jnp.float64(rate), jnp.float64(decay), knobs)


def change(name, hparams, settings):
    return jax.tree.map(lambda leaf: leaf[0], changes_of([PROBES[name]], settings, hparams))


def assert_same(a, b, rtol=0.0):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=rtol, atol=rtol), a, b)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion", "muon"])
def test_same_is_training_on(network, data, optimizer):
    model, hparams, variables = network
    settings = TrainingSettings(8, optimizer)
    make = functools.partial(make_trainer, model, batch_size=8, optimizer=optimizer, early_stop=False)
    trained = train_single(make(num_epochs=2), variables, hparams, *data)
    expected = train_single(make(num_epochs=5), variables, hparams, *data)
    after = jax.jit(functools.partial(continue_training, constant_trainer(model, settings)))(
        trained.variables,
        trained.opt_state,
        hparams,
        change("same", hparams, settings),
        jnp.int32(15),
        2,
        *data,
    )
    assert_same(after.variables, expected.variables)
    assert_same(after.opt_state, expected.opt_state)


#: Half the squared distance of the outputs from the targets.
CENTRE = Objective(
    loss=lambda outputs, targets: 0.5 * ((outputs - targets) ** 2).sum(-1),
    error=lambda outputs, targets: ((outputs - targets) ** 2).mean(-1),
    name="centre",
)


def test_heat_raises_the_stationary_variance_of_a_quadratic_as_it_must():
    """w <- w - r (w - x) with x of variance 1 has the variance r / (2 - r)."""
    rate, num_steps, size = 0.05, 400, 3000
    x = jnp.asarray(np.random.default_rng(1).standard_normal((num_steps, size)))
    model = Model(
        lambda key: {"params": jnp.zeros(size), "batch_stats": {}},
        lambda variables, x, train: (jnp.broadcast_to(variables["params"], x.shape), {}, {}),
    )
    settings = TrainingSettings(1, momentum=0.0, objective=CENTRE)
    hparams = hyperparameters(rate, 0.0)._replace(num_samples=jnp.int32(num_steps))
    variables = model.init(hparams.key)
    variables["params"] += np.sqrt(rate / (2 - rate)) * jnp.asarray(np.random.default_rng(2).standard_normal(size))
    probed = run_probes(
        model, settings, ("same", "heat"), variables, None, hparams, jnp.int32(10), x, x, side_by_side=True
    )
    variance = dict(zip(order_of(["same", "heat"]), np.asarray(probed.variables["params"]).var(axis=1), strict=True))
    assert variance["same"] == pytest.approx(rate / (2 - rate), rel=0.1)
    ratio, expected = variance["heat"] / variance["same"], 4 * (2 - rate) / (2 - 4 * rate)
    assert ratio == pytest.approx(expected, rel=0.15)
    assert ratio != pytest.approx(1.5 * expected, rel=0.15)


def test_cool_ends_where_a_loop_by_hand_ends():
    x = jnp.asarray(np.random.default_rng(1).standard_normal((20, 2)))
    model = Model(
        lambda key: {"params": jnp.ones(2), "batch_stats": {}},
        lambda variables, x, train: (jnp.broadcast_to(variables["params"], x.shape), {}, {}),
    )
    settings = TrainingSettings(20, momentum=0.0, objective=CENTRE)
    hparams = hyperparameters(0.5, 0.0)._replace(num_samples=jnp.int32(20))
    probed = run_probes(
        model, settings, ("cool",), model.init(0), None, hparams, jnp.int32(40), x, x, side_by_side=False
    )
    w = np.ones(2)
    for step in range(4):
        w = w - 0.05 * 0.5 * (1 + np.cos(np.pi * step / 4)) * (w - np.asarray(x).mean(0))
    np.testing.assert_allclose(probed.variables["params"][-1], w, rtol=1e-12)
    assert int(probed.num_steps) == 4 + 10


def test_side_by_side_and_one_by_one_are_the_same(network, data):
    model, hparams, variables = network
    names = (*NAMES, "augment")
    run = functools.partial(
        run_probes, model, TrainingSettings(8), names, variables, None, hparams, jnp.int32(10), *data
    )
    both = [jax.jit(functools.partial(run, side_by_side=which, statistics_batch_size=8))() for which in (True, False)]
    assert_same(both[0].variables, both[1].variables, rtol=1e-9)
    assert order_of(names) == ("checkpoint", *names)
    assert int(both[0].num_steps) == 10 + 7 * 5
    changed = np.asarray(both[0].variables["params"]["head"]["kernel"])
    assert len({network.tobytes() for network in changed[2:]}) == 7
    np.testing.assert_array_equal(changed[0], changed[1])
    np.testing.assert_array_equal(changed[0], variables["params"]["head"]["kernel"])


def test_refreshed_statistics_are_the_means_over_the_set(network, data):
    model, hparams, variables = network
    x = np.asarray(data[0]).reshape(50, -1)[:NUM]
    fresh = jax.jit(lambda network: outcome.refreshed(model, network, data[0], hparams.num_samples, 8))(variables)
    layer = variables["params"]["Linear_0"]
    hidden = x @ np.asarray(layer["kernel"]).reshape(9, -1) + np.asarray(layer["bias"]).reshape(-1)
    batches = hidden.reshape(5, 8, -1)
    found = fresh["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(np.ravel(found["mean"]), batches.mean((0, 1)), rtol=1e-9)
    np.testing.assert_allclose(np.ravel(found["var"]), batches.var(1).mean(0), rtol=1e-9)
    assert_same(fresh["params"], variables["params"])


def test_paired_errors_are_those_of_numpy(network, data):
    model, hparams, variables = network
    other = jax.tree.map(lambda leaf: 1.5 * leaf, variables)
    evaluate = jax.jit(functools.partial(outcome.outcome_of, model, objective_functions()), static_argnums=4)
    outcomes = [evaluate(one, *data, hparams.num_samples, 16) for one in (variables, other)]
    losses = [
        np.asarray(cross_entropy(model.apply(one, data[0], False)[0], data[1]))[:NUM] for one in (variables, other)
    ]
    loss, error = outcome.paired_change(outcomes[1], outcomes[0])
    difference = losses[1] - losses[0]
    np.testing.assert_allclose(loss.mean, difference.mean(), rtol=1e-12)
    np.testing.assert_allclose(loss.standard_error, difference.std(ddof=1) / np.sqrt(NUM), rtol=1e-12)
    wrong = [np.asarray(one.error)[:NUM] for one in outcomes]
    np.testing.assert_allclose(error.mean, wrong[1].mean() - wrong[0].mean(), atol=1e-15)
    # A network that diverged is worth one that has learned nothing, and no number of it is NaN.
    broken = jax.tree.map(lambda leaf: leaf.at[...].set(jnp.nan), variables)
    nothing = evaluate(broken, *data, hparams.num_samples, 16)
    np.testing.assert_allclose(nothing.loss, np.log(CLASSES), rtol=1e-12)
    assert float(outcome.movement(broken["params"], variables["params"])) == outcome.MOST_MOVEMENT
    assert not outcome.is_finite(broken["params"])


def test_the_warm_up_moves_the_state_and_not_the_weights(network, data):
    """With the whole subset as its batch every step has the same gradient g: the buffer is g (1 - b^n) / (1 - b)."""
    model, hparams, variables = network
    trainer = constant_trainer(model, TrainingSettings(NUM))
    state = jax.jit(functools.partial(warm_up, trainer))(variables, hparams, jnp.int32(12), *data)

    def loss(params):
        logits, _, _ = model.apply({**variables, "params": params}, data[0][:NUM], True)
        return cross_entropy(logits, data[1][:NUM]).mean()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    expected = jax.tree.map(lambda g, w: (g + 5e-4 * w) * (1 - 0.9**12) / 0.1, gradient, variables["params"])
    leaves = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, optax.TraceState))
    [momentum] = [leaf.trace for leaf in leaves if isinstance(leaf, optax.TraceState)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), momentum, expected)


@pytest.mark.parametrize(("optimizer", "schedule"), [("sgd", "cosine"), ("adamw", "step")])
def test_a_whole_short_run_is_the_training_bit_for_bit(network, data, optimizer, schedule):
    model, hparams, variables = network
    trainer = make_trainer(model, batch_size=8, num_epochs=4, optimizer=optimizer, schedule=schedule, early_stop=False)
    expected = train_single(trainer, variables, hparams, *data)
    run = jax.jit(functools.partial(short_run, model, TrainingSettings(8, optimizer, schedule)))
    found, num_steps = run(variables, hparams, jnp.int32(4), jnp.float32(1), *data)
    assert_same(found, expected.variables)
    assert int(num_steps) == 20
    # A quarter: one epoch of the same order, with the whole schedule in it.
    quarter, num_steps = run(variables, hparams, jnp.int32(4), jnp.float32(0.25), *data)
    short = make_trainer(model, batch_size=8, num_epochs=1, optimizer=optimizer, schedule=schedule, early_stop=False)
    assert_same(quarter, train_single(short, variables, hparams, *data).variables)
    assert int(num_steps) == 5


def test_a_transform_of_the_user_is_scaled(network, data):
    model, hparams, variables = network
    hparams = hparams._replace(weight_decay=jnp.float64(0.0))
    own = TrainingSettings(8, scaled_transform(optax.sgd(0.05, momentum=0.9), 0.05))
    runs = []
    for settings in (TrainingSettings(8), own):
        trainer = constant_trainer(model, settings)
        state = started(trainer, variables, None, hparams, 50, 0)
        moved = change("heat", hparams, settings)
        run = jax.jit(functools.partial(continue_training, trainer))
        runs.append(run(variables, state.opt_state, hparams, moved, jnp.int32(7), 0, *data))
    assert_same(runs[0].variables, runs[1].variables, rtol=1e-12)


def test_inputs_and_targets_may_be_pytrees():
    rng = np.random.default_rng(0)
    x = {"a": jnp.asarray(rng.standard_normal((20, 2))), "b": jnp.asarray(rng.standard_normal((20, 1)))}
    model = Model(
        lambda key: {"params": {"w": jnp.ones(2)}, "batch_stats": {}},
        lambda variables, x, train: (x["a"] * variables["params"]["w"] + x["b"], {}, {}),
    )
    y = x["a"] * 0.5
    hparams = hyperparameters(0.1, 0.0)._replace(num_samples=jnp.int32(20))
    settings = TrainingSettings(5, objective=CENTRE)
    probed = run_probes(
        model, settings, ("same",), model.init(0), None, hparams, jnp.int32(50), x, y, side_by_side=True
    )
    functions = objective_functions(CENTRE)
    before, after = (
        outcome.outcome_of(model, functions, one, x, y, jnp.int32(20), 8).loss.mean()
        for one in (model.init(0), jax.tree.map(lambda leaf: leaf[-1], probed.variables))
    )
    assert after < before
