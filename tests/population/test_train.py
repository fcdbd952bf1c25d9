import dataclasses
import functools
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import lowering
from mdtree_jax.checks import UserError
from mdtree_jax.models import build_model
from mdtree_jax.population import train as population_train
from mdtree_jax.population.assignment import balance, plan_passes
from mdtree_jax.population.compiled import executables
from mdtree_jax.population.executor import ExecutorChoice, choose_executor
from mdtree_jax.population.memory import memory_needs
from mdtree_jax.population.train import member_key, prepare_cohort, train_cohort
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.training import Hyperparameters, evaluate, make_trainer
from mdtree_jax.training.train import init_key, train_single
from tests.conftest import ROOT
from tests.numerics import quick_float64, unoptimized

MLP = Recipe("toy", "mlp", 3, (3, 3, 1), early_stop_min_epoch=2)
CNN, RESNET = (Recipe("toy", model, 3, (6, 6, 1)) for model in ("cnn_bn", "resnet8"))


def toy_data(recipe, num_train=40, num_test=30):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(recipe.num_classes, *recipe.image_shape))
    y = rng.integers(0, recipe.num_classes, num_train + num_test).astype(np.int32)
    x = (centres[y] + rng.normal(size=(len(y), *recipe.image_shape))).astype(np.float32)
    return SimpleNamespace(x_train=x[:num_train], y_train=y[:num_train], x_test=x[num_train:], y_test=y[num_train:])


def toy_cohort(epochs=4, rates=(0.1, 0.05), sizes=(12, 40, 23), width=4, **knobs):
    members = tuple(
        Member(index, seed, size, size / 40, rates[seed % len(rates)], 5e-4)
        for seed in range(2)
        for index, size in enumerate(sizes)
    )
    return Cohort(width=width, batch_size=4, train_epochs=epochs, members=members, knobs=tuple(knobs.items()))


def executor(lanes=1, per_pass=100, devices=None):
    devices = devices or len(jax.devices())
    return ExecutorChoice("chunks", "cpu", devices, lanes, per_pass)


def assert_equal(a, b, rows=slice(None)):
    for name in ("train_loss", "train_error", "test_loss", "test_error", "stop_epoch", "num_epochs", "is_finite"):
        np.testing.assert_array_equal(getattr(a, name)[rows], getattr(b, name)[rows], err_msg=name)
    jax.tree.map(lambda p, q: np.testing.assert_array_equal(p[rows], q[rows]), a.variables, b.variables)


@pytest.fixture
def strict64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def quick():
    """Have programs that no other test compiles compiled without optimizations, where only their number matters."""
    with unoptimized():
        yield


@pytest.mark.parametrize("choice", [{"lanes": 1}, {"lanes": 2}, {"lanes": 1, "per_pass": 4}, {"lanes": 3}])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_population_equals_a_loop_over_single_networks(choice, optimizer):
    # The bias correction of optax's Adam mixes integers and floats.
    promotion = "strict" if optimizer == "sgd" else "standard"
    with quick_float64(), jax.numpy_dtype_promotion(promotion), jax.numpy_rank_promotion("raise"):
        compare_with_loop(choice, optimizer)


def compare_with_loop(choice, optimizer):
    cohort, data = toy_cohort(optimizer=optimizer, schedule="cosine"), toy_data(MLP)
    trained = train_cohort(MLP, cohort, data, executor=executor(**choice), dtype="float64", grid_seed=3)
    # Adam divides what is only rounding, as of a bias before BatchNorm, by its own size.
    rtol = 1e-10 if optimizer == "sgd" else 1e-6
    for row, (kept, kept_epoch, loss, wrong) in enumerate(trained_alone(optimizer)):
        jax.tree.map(
            lambda a, b, row=row: np.testing.assert_allclose(a[row], b, rtol=rtol, atol=rtol), trained.variables, kept
        )
        assert trained.stop_epoch[row] == kept_epoch
        np.testing.assert_allclose(trained.train_loss[row], loss, rtol=rtol)
        assert trained.train_error[row] == 100 * wrong / cohort.members[row].num_samples


@functools.cache
def trained_alone(optimizer):
    """Return networks, kept epoch, loss and errors of the first four members, each trained by itself."""
    cohort, data = toy_cohort(), toy_data(MLP)
    model = build_model("mlp", 4, 3, (3, 3, 1), "float64")
    trainer = make_trainer(
        model, batch_size=4, num_epochs=4, optimizer=optimizer, schedule="cosine", early_stop_min_epoch=2
    )
    x, y = jnp.array(data.x_train, jnp.float64), jnp.array(data.y_train)
    evaluated = jax.jit(functools.partial(evaluate, model), static_argnums=4)
    found = []
    for member in cohort.members[:4]:
        key = member_key(3, member.seed, member.num_samples)
        values = jnp.float64(member.learning_rate), jnp.float64(member.weight_decay)
        hparams = Hyperparameters(jnp.array(key), jnp.int32(member.num_samples), *values)
        state = train_single(trainer, model.init(init_key(key)), hparams, x, y)
        loss, wrong = evaluated(state.kept, x, y, hparams.num_samples, 512)
        found.append((jax.tree.map(np.asarray, state.kept), int(state.record.kept_epoch), float(loss), int(wrong)))
    return found


@pytest.mark.parametrize("recipe", [CNN, pytest.param(RESNET, marks=pytest.mark.slow)], ids=["cnn", "resnet"])
def test_a_members_result_does_not_depend_on_the_others(strict64, recipe):
    # 20 steps: two epochs of ten batches for the largest subset.
    cohort, data = toy_cohort(epochs=2), toy_data(recipe)
    whole = train_cohort(recipe, cohort, data, executor=executor(), dtype="float64")
    alone = dataclasses.replace(cohort, members=(cohort.members[4],))
    single = train_cohort(recipe, alone, data, executor=executor(devices=1), dtype="float64")
    for a, b in zip(*map(jax.tree.leaves, (whole.variables, single.variables)), strict=True):
        np.testing.assert_array_equal(a[4], b[0])


@pytest.mark.usefixtures("quick")
def test_one_compilation_and_none_for_the_second_call():
    cohort, data = toy_cohort(momentum=0.8), toy_data(MLP)
    first = train_cohort(MLP, cohort, data, executor=executor(per_pass=4))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
    )
    second = train_cohort(MLP, cohort, data, executor=executor(per_pass=4))
    assert (first.num_compilations, second.num_compilations) == (1, 0)
    assert compiled == []
    assert_equal(first, second)


@pytest.mark.usefixtures("quick")
def test_a_program_compiled_ahead_in_another_thread_is_the_one_that_trains(monkeypatch):
    def make_slowly(*args, **kwargs):
        time.sleep(0.5)  # both threads ask for the trainer before either has made it
        return make_trainer(*args, **kwargs)

    monkeypatch.setattr("mdtree_jax.population.programs.make_trainer", make_slowly)
    cohort, data = toy_cohort(momentum=0.7), toy_data(MLP)
    thread = threading.Thread(target=prepare_cohort, args=(MLP, cohort, data), kwargs={"executor": executor()})
    thread.start()
    first = train_cohort(MLP, cohort, data, executor=executor())  # waits for it, or it for this one
    thread.join()
    second = train_cohort(MLP, cohort, data, executor=executor())
    assert (first.num_compilations, second.num_compilations) == (1, 0)
    ahead = dataclasses.replace(cohort, batch_size=3)
    prepare_cohort(MLP, ahead, data, executor=executor())
    there = dict(executables._found)
    third = train_cohort(MLP, ahead, data, executor=executor())
    assert third.num_compilations == 1
    assert executables._found == there  # found, not made


def test_a_diverged_member_is_marked_and_the_others_go_on():
    data, cohort = toy_data(MLP), toy_cohort()
    wild = dataclasses.replace(cohort.members[1], learning_rate=1e30)
    mixed = dataclasses.replace(cohort, members=(cohort.members[0], wild, *cohort.members[2:]))
    good = train_cohort(MLP, cohort, data, executor=executor())
    bad = train_cohort(MLP, mixed, data, executor=executor())
    assert bad.is_finite.tolist() == [True, False, True, True, True, True]
    assert bad.num_epochs[1] < 4
    assert_equal(good, bad, rows=[0, 2, 3, 4, 5])


def test_resuming_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(population_train, "BLOCK_SECONDS", 1e-9)
    cohort, data, saved = toy_cohort(), toy_data(MLP), []
    choice = executor(per_pass=4)
    straight = train_cohort(MLP, cohort, data, executor=choice, checkpoint=saved.append, checkpoint_seconds=0.0)
    assert len(saved) > 10
    fractions = []
    for state in (saved[0], saved[len(saved) // 2], saved[-1]):
        resumed = train_cohort(
            MLP, cohort, data, executor=choice, resume=state, progress=lambda done, _: fractions.append(done)
        )
        assert_equal(straight, resumed)
        assert resumed.useful_step_fraction == straight.useful_step_fraction
    assert fractions[-1] == 1.0
    with pytest.raises(UserError, match="the saved state is not of cohort w5-b4-e4"):
        train_cohort(MLP, dataclasses.replace(cohort, width=5), data, executor=choice, resume=saved[0])


def test_every_member_trains_once_and_lanes_are_balanced():
    costs = [320 * (index + 1) for _ in range(3) for index in range(10)]
    for per_pass, devices, lanes in [(30, 2, 1), (30, 1, 15), (7, 2, 2), (1, 1, 1), (30, 4, 16)]:
        passes = plan_passes(costs, per_pass, devices, lanes)
        assert sorted(m for group in passes for m in group.members if m >= 0) == list(range(30))
        slots = passes[0].members.shape[0] // devices
        for group in passes:
            by_lane = group.queue.reshape(devices, -1)
            used = [set(row[row >= 0]) for row in by_lane]
            found = [set(np.flatnonzero(row >= 0)) for row in group.members.reshape(devices, slots)]
            assert used == found
    assert balance(costs, 2) > 0.98
    assert balance(costs, 15) > 0.98
    assert balance(costs, 30) == 0.55


@pytest.mark.usefixtures("quick")
def test_useful_steps_are_reported():
    cohort = toy_cohort(sizes=(4, 8, 12, 16, 20, 24, 28, 32, 36, 40), epochs=3)
    recipe = dataclasses.replace(MLP, early_stop=False)
    for lanes in (1, 2):
        trained = train_cohort(recipe, cohort, toy_data(MLP), executor=executor(lanes=lanes))
        assert 0.9 < trained.useful_step_fraction <= 1
        assert (trained.stop_epoch == 3).all()
        steps = 3 * np.array([m.num_samples // 4 for m in cohort.members])
        np.testing.assert_allclose(trained.train_flops, 3 * 2 * (9 * 4 + 16 + 12) * 4 * steps)


def test_choice_of_executor():
    members = tuple(Member(i, s, 320 * (i + 1), 0.1 * (i + 1), 0.05, 5e-4) for s in range(3) for i in range(10))
    recipe = Recipe("digits", "resnet8", 10, (10, 10, 1))
    cpus = [SimpleNamespace(platform="cpu")] * 2
    gpu = [SimpleNamespace(platform="gpu")]
    cohort = Cohort(8, 64, 50, members)
    assert choose_executor(recipe, cohort, 2**32, cpus) == ExecutorChoice("map", "cpu", 2, 1, 30)
    # A GPU takes as many lanes as keep busy, and fewer when memory is short.
    many = choose_executor(recipe, cohort, 2**36, gpu)
    assert (many.kind, many.members_per_pass) == ("chunks", 30)
    assert many.lanes_per_device >= 15
    assert balance([member.num_samples for member in members], many.lanes_per_device) > 0.9
    with lowering.as_on("gpu"), lowering.side_by_side(2):
        needs = memory_needs(recipe, cohort)
    tight = choose_executor(recipe, cohort, needs.total(1, 3, 10), gpu)
    assert (tight.lanes_per_device, tight.members_per_pass) == (3, 10)
    equal = dataclasses.replace(cohort, members=tuple(dataclasses.replace(m, num_samples=3200) for m in members))
    small = dataclasses.replace(equal, width=1)
    assert choose_executor(recipe, small, 2**36, gpu).kind == "vmap"
    # A step of one fills the device, and several would be slower.
    wide = Recipe("cifar10", "resnet18", 10, (32, 32, 3)), dataclasses.replace(equal, width=32, batch_size=128)
    assert choose_executor(*wide, 2**36, gpu).lanes_per_device == 1
    with pytest.raises(UserError, match="memory budget 1000 bytes is too small for one network of cohort w8-b64-e50"):
        choose_executor(recipe, cohort, 1000, cpus)


def test_bad_input_is_one_sentence():
    data, cohort = toy_data(MLP), toy_cohort()
    with pytest.raises(UserError, match="num_samples 41 in cohort w4-b4-e4 must be at least the batch size 4 and at"):
        train_cohort(MLP, toy_cohort(sizes=(41,)), data)
    with pytest.raises(UserError, match="num_samples 3 in cohort"):
        train_cohort(MLP, toy_cohort(sizes=(3,)), data)
    with pytest.raises(UserError, match=r"inputs of shape \(3, 3, 1\) do not fit the recipe's image_shape \(4, 4, 1\)"):
        train_cohort(dataclasses.replace(MLP, image_shape=(4, 4, 1)), cohort, data)
    with pytest.raises(UserError, match="has no members"):
        train_cohort(MLP, dataclasses.replace(cohort, members=()), data)
    with pytest.raises(UserError, match="executor for 99 devices, but JAX has"):
        train_cohort(MLP, cohort, data, executor=executor(devices=99))


CACHED = """
import sys, jax
from mdtree_jax.population.executor import configure_devices
configure_devices(2, cache_dir=sys.argv[1])
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
from tests.population.test_train import MLP, toy_cohort, toy_data, train_cohort
train_cohort(MLP, toy_cohort(), toy_data(MLP))
print(*(events.count(name) for name in ("compile_requests_use_cache", "cache_hits")))
"""


@pytest.mark.slow
def test_a_second_process_recompiles_nothing(tmp_path):
    root = str(ROOT)
    command = [sys.executable, "-c", CACHED, str(tmp_path)]
    runs = [subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    (asked, hits), (asked_again, all_hits) = (map(int, out.split()) for out in runs)
    assert asked > 0
    assert hits < asked
    assert all_hits == asked_again == asked
