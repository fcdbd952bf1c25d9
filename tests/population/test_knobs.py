"""Knobs along the population axis, beside a training loop written out for one network."""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.models import build_model
from mdtree_jax.population.executor import ExecutorChoice
from mdtree_jax.population.train import member_key, train_cohort
from mdtree_jax.recipe.axes import Grid, make_cohorts
from mdtree_jax.registry.knobs import KNOBS, Knob, Words, register_knob
from mdtree_jax.training.train import init_key, random_order
from tests.numerics import quick_float64, unoptimized
from tests.population.test_train import MLP, assert_equal, toy_data

RECIPE = dataclasses.replace(MLP, early_stop=False)
RATE, DECAY, EPOCHS, BATCH = 0.05, 5e-4, 3, 4
TOYS = {
    "input_noise": ("inputs", lambda x, key, value: x + value * jax.random.normal(key, x.shape, x.dtype)),
    "shrink": ("gradients", lambda gradients, params, value: jax.tree.map(lambda g: g / (1 + value), gradients)),
}


@pytest.fixture
def _toys():
    for name, (place, apply) in TOYS.items():
        words = Words(name.replace("_", " "))
        register_knob(Knob(name, "1", "of a test", place, is_static=False, default=0.0, low=0.0, words=words), apply)
    yield
    for name in TOYS:
        KNOBS.unregister(name)


@functools.cache
def model_by_hand():
    return build_model("mlp", 4, 3, (3, 3, 1), "float64")


@jax.jit
def gradient_and_stats(params, stats, x, y, smoothing):
    def loss(params):
        logits, _, after = model_by_hand().apply({"params": params, "batch_stats": stats}, x, True)
        targets = (1 - smoothing) * jax.nn.one_hot(y, 3, dtype=jnp.float64) + smoothing / 3
        return -(targets * jax.nn.log_softmax(logits)).sum(1).mean(), after

    return jax.grad(loss, has_aux=True)(params)


def train_by_hand(member, data, smoothing=0.0, input_noise=0.0, shrink=0.0):
    """Return the parameters after training one network by SGD with momentum 0.9, written out."""
    raw = member_key(0, member.seed, member.num_samples)
    variables = model_by_hand().init(init_key(raw))
    params, stats = variables["params"], variables["batch_stats"]
    x_train, y_train = jnp.array(data.x_train, jnp.float64), jnp.array(data.y_train)
    velocity = jax.tree.map(jnp.zeros_like, params)

    for epoch in range(EPOCHS):
        epoch_key = jax.random.fold_in(jax.random.wrap_key_data(jnp.array(raw)), epoch + 1)
        order = random_order(epoch_key, jnp.int32(member.num_samples), len(x_train))
        for step in range(member.num_samples // BATCH):
            rows = order[BATCH * step : BATCH * (step + 1)]
            key = jax.random.fold_in(jax.random.fold_in(epoch_key, 1 + step), zlib.crc32(b"input_noise"))
            x = x_train[rows] + input_noise * jax.random.normal(key, (BATCH, 3, 3, 1), jnp.float64)
            gradient, stats = gradient_and_stats(params, stats, x, y_train[rows], smoothing)
            gradient = jax.tree.map(lambda g: g / (1 + shrink), gradient)
            velocity = jax.tree.map(lambda v, g, w: 0.9 * v + g + DECAY * w, velocity, gradient, params)
            params = jax.tree.map(lambda w, v: w - RATE * v, params, velocity)
    return params


def cohort_of(**axes):
    grid = Grid((4,), (BATCH,), (0.5,), (RATE,), (DECAY,), (EPOCHS,), **axes)
    (cohort,) = make_cohorts(grid, 40)
    return cohort


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.usefixtures("_toys")
def test_batched_knobs_equal_a_loop_written_out(lanes):
    cohort, data = cohort_of(label_smoothing=(0.0, 0.2), input_noise=(0.0, 0.5), shrink=(1.0,)), toy_data(MLP)
    with quick_float64(), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        choice = ExecutorChoice("chunks", "cpu", 2, lanes, 100)
        trained = train_cohort(RECIPE, cohort, data, executor=choice, dtype="float64")
    assert len(cohort.members) == 4
    with quick_float64():
        for row, member in enumerate(cohort.members):
            values = {"smoothing": member.value("label_smoothing"), "input_noise": member.value("input_noise")}
            params = train_by_hand(member, data, **values, shrink=member.value("shrink"))
            jax.tree.map(
                lambda a, b, row=row: np.testing.assert_allclose(a[row], b, rtol=1e-9, atol=1e-9),
                trained.variables["params"],
                params,
            )
    assert len(set(trained.train_loss)) == 4


def test_a_knob_at_its_default_alone_changes_no_bit():
    data, choice = toy_data(MLP), ExecutorChoice("chunks", "cpu", 2, 1, 100)
    plain, off = cohort_of(num_seeds=2), cohort_of(num_seeds=2, label_smoothing=(0.0,), augment=(False,))
    assert off == plain
    assert_equal(*(train_cohort(MLP, cohort, data, executor=choice) for cohort in (plain, off)))


def test_static_knobs_cut_cohorts_that_train_alike_alone_and_in_a_grid():
    data, choice = toy_data(MLP), ExecutorChoice("chunks", "cpu", 1, 1, 100)
    grid = Grid((4,), (BATCH,), (0.5,), train_epochs=(2,), augment=(False, True), momentum=(0.9, 0.5))
    cohorts = {cohort.key: cohort for cohort in make_cohorts(grid, 40)}
    assert list(cohorts) == ["w4-b4-e2", "w4-b4-e2-m0.5", "w4-b4-e2-a1", "w4-b4-e2-a1-m0.5"]
    alone = Grid((4,), (BATCH,), (0.5,), train_epochs=(2,), augment=(True,), momentum=(0.5,))
    (one,) = make_cohorts(alone, 40)
    with unoptimized():
        found = {key: train_cohort(MLP, cohort, data, executor=choice) for key, cohort in cohorts.items()}
        assert_equal(found[one.key], train_cohort(MLP, one, data, executor=choice))
    assert len({float(trained.train_loss[0]) for trained in found.values()}) == 4
