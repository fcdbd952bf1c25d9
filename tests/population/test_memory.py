"""The estimated memory of a cohort beside what the compiled programs say they take."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.population import train as population_train
from mdtree_jax.population.executor import ExecutorChoice, choose_executor
from mdtree_jax.population.loop import start_population
from mdtree_jax.population.memory import memory_needs, peak_bytes
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe

RESNET8, RESNET18 = Recipe("r", "resnet8", 10, (10, 10, 1)), Recipe("r", "resnet18", 10, (32, 32, 3))
MLP = Recipe("r", "mlp", 10, (10, 10, 1))


def compiled_bytes(recipe, cohort, lanes, num_train, num_test):
    """Return what the training and the evaluation program of one device take beside their arguments, and the latter."""
    x = np.zeros((num_train, *recipe.image_shape), np.float32)
    y = np.zeros(num_train, np.int32)
    data = SimpleNamespace(x_train=x, y_train=y, x_test=x[:num_test], y_test=y[:num_test])
    choice = ExecutorChoice("chunks", "cpu", 1, lanes, len(cohort.members))
    run = population_train._CohortRun(recipe, cohort, data, choice, "float32", 0)
    group = run.passes[0]
    hparams = run.hyperparameters(group)
    network = population_train.jit_init(run.model)(hparams.key[0])
    variables = jax.tree.map(lambda leaf: np.stack([leaf] * len(hparams.key)), network)
    state = start_population(run.trainer, variables, hparams, group.queue, num_train, 1)
    training = run.jit_run.lower(state, hparams, group.queue, *run.data[:2], np.int32(1)).compile()
    evaluate = population_train._jit_evaluate(run.model, run.mesh, recipe.eval_batch_size, lanes, run.objective)
    evaluation = evaluate.lower((variables, hparams.num_samples), tuple(run.data)).compile()
    found = training.memory_analysis(), evaluation.memory_analysis()
    return max(one.temp_size_in_bytes for one in found), max(one.argument_size_in_bytes for one in found)


def cohort_of(width, batch_size, num_members, num_samples, static=(), batched=()):
    members = tuple(Member(0, s, num_samples, 1.0, 0.05, 0.0, batched) for s in range(num_members))
    return Cohort(width, batch_size, 2, members, static)


@pytest.mark.parametrize(
    ("recipe", "width", "batch_size", "lanes", "num_train", "num_test", "knobs"),
    [
        (RESNET8, 1, 4, 1, 640, 512, {}),
        pytest.param(RESNET8, 13, 288, 1, 1300, 1300, {}, marks=pytest.mark.slow),
        (MLP, 64, 256, 2, 3200, 1300, {"batched": (("label_smoothing", 0.1),)}),
        pytest.param(RESNET8, 2, 16, 4, 1300, 1300, {}, marks=pytest.mark.slow),
        pytest.param(
            dataclasses.replace(RESNET8, eval_batch_size=64),
            *(8, 16, 1, 640, 640, {"static": (("optimizer", "adamw"),)}),
            marks=pytest.mark.slow,
        ),
        pytest.param(RESNET18, 16, 16, 1, 1300, 1300, {}, marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_never_below_and_not_far_above(recipe, width, batch_size, lanes, num_train, num_test, knobs):
    cohort = cohort_of(width, batch_size, 2 * lanes, num_train, **knobs)
    needs = memory_needs(recipe, cohort, "float32", num_train, num_test)
    temporary, arguments = compiled_bytes(recipe, cohort, lanes, num_train, num_test)
    estimated = needs.total(1, lanes, len(cohort.members))
    assert estimated >= temporary + arguments
    assert estimated <= 2.5 * (temporary + arguments)
    # Temporary memory alone, so that a large data set does not hide a wrong estimate.
    assert lanes * needs.lane <= 2.5 * temporary + 2**20


def test_arrays_live_until_their_last_use():
    def body(carry, _):
        return jnp.sin(jnp.tile(carry, 10)).sum() * carry, None

    x = jnp.zeros(100, jnp.float32)
    straight = jax.make_jaxpr(lambda x: jnp.sin(jnp.cos(jnp.sin(x))))(x).jaxpr
    assert peak_bytes(straight) == 800  # one is read while one is written
    loop = jax.make_jaxpr(lambda x: jax.lax.scan(body, x, None, length=50)[0])(x).jaxpr
    assert 8000 <= peak_bytes(loop) <= 14000  # one turn's arrays, however many turns


def test_the_choice_stays_within_its_budget():
    cpus, gpus = ([SimpleNamespace(platform=platform)] * 4 for platform in ("cpu", "gpu"))
    for width, batch_size in ((1, 4), (8, 64), (13, 288)):
        cohort = cohort_of(width, batch_size, 30, 3200)
        needs = memory_needs(RESNET8, cohort, "float32", 3200, 5120)
        least = needs.total(1, 1, 1)
        for budget in (least, 2 * least, 7 * least, 100 * least):
            for devices in (cpus, gpus):
                choice = choose_executor(RESNET8, cohort, budget, devices, num_train=3200, num_test=5120)
                took = needs.total(choice.num_devices, choice.lanes_per_device, choice.members_per_pass)
                assert took <= budget


def test_the_data_set_counts_on_every_device():
    cohort = cohort_of(2, 16, 30, 5000)
    images = 60_000 * 32 * 32 * 3 * 4
    needs = memory_needs(RESNET18, cohort, "float32", 50_000, 10_000)
    assert needs.data == images + 60_000 * 4
    cpus = [SimpleNamespace(platform="cpu")] * 64
    choice = choose_executor(RESNET18, cohort, 4 * images, cpus, num_train=50_000, num_test=10_000)
    assert choice.num_devices == 3
