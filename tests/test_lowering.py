"""The table of platforms: what it picks, that accelerators' programs give the CPU's numbers, what it refuses."""

import dataclasses
import gc
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import landscape, lowering
from mdtree_jax.checks import UserError
from mdtree_jax.measuring.kernels import curve_block
from mdtree_jax.models import at_precision, build_model
from mdtree_jax.models.layers import convolve3x3, num_batch_parts
from mdtree_jax.population import resident
from mdtree_jax.population import train as population_train
from mdtree_jax.population.assignment import Block, block_of
from mdtree_jax.population.resident import on_devices
from mdtree_jax.population.train import train_cohort
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from tests.numerics import quick_float64
from tests.population.test_history import data_with_validation
from tests.population.test_train import CNN, MLP, executor, toy_cohort

IMAGES, KERNEL = jax.ShapeDtypeStruct((8, 6, 6, 4), np.float32), jax.ShapeDtypeStruct((3, 3, 8, 5), np.float32)


def operations(function, *arguments):
    """Return the names of the operations of a traced function."""
    return {equation.primitive.name for equation in jax.make_jaxpr(lambda *a: function(*a))(*arguments).eqns}


@pytest.mark.parametrize(
    ("platform", "lanes", "native"),
    [("cpu", 1, False), ("cpu", 4, False), ("gpu", 1, True), ("gpu", 4, False), ("tpu", 1, True), ("other", 1, True)],
)
def test_the_convolution_is_that_of_the_platform(platform, lanes, native):
    with lowering.as_on(platform), lowering.side_by_side(lanes):
        found = operations(convolve3x3, IMAGES, KERNEL)
        parts = num_batch_parts(2**18, 256)
    assert ("conv_general_dilated" in found, "matrix_product" in found) == (native, not native)
    assert parts == (64 if platform == "cpu" else 1)


def test_on_a_cpu_nothing_is_asked_of_the_compiler_or_of_products():
    assert lowering.compiler_options("cpu") == {"xla_cpu_multi_thread_eigen": False}
    assert lowering.compiler_options("tpu") == {}
    for name in ("gpu", "cuda"):
        assert lowering.compiler_options(name) == {"xla_gpu_enable_triton_gemm": False}
    model = build_model("resnet8", 2, 3, (6, 6, 1))
    assert at_precision(model, "float32") is model
    with lowering.as_on("gpu"):
        assert at_precision(model, "float32") is at_precision(model, "float32") is not model
    assert curve_block(resolve(MeasureConfig())) is None
    assert lowering.here() is lowering.TABLE["cpu"]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_native_convolution_and_its_derivatives_are_those_of_the_slices(stride):
    with quick_float64():
        x, kernel = (jax.random.normal(jax.random.key(i), a.shape, jnp.float64) for i, a in enumerate((IMAGES, KERNEL)))

        def loss(x, kernel):
            return jnp.sin(convolve3x3(x, kernel, stride)).sum()

        def both(x, kernel):
            product = jax.jvp(jax.grad(lambda k: loss(x, k)), (kernel,), (jnp.cos(kernel),))
            return loss(x, kernel), jax.grad(loss)(x, kernel), product

        expected = both(x, kernel)
        with lowering.as_on("gpu"):
            found = both(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), found, expected)


@pytest.mark.parametrize(
    ("recipe", "lanes", "block"),
    [(MLP, 1, Block(4, False)), (MLP, 3, Block(4, False)), (MLP, 2, Block(1, True)), (CNN, 1, Block(4, False))],
    ids=["one", "lanes", "exact", "cnn"],
)
def test_blocks_of_steps_train_the_networks_that_single_steps_do(recipe, lanes, block):
    # Epochs of 3, 10 and 5 steps; some lanes end early, and some have a second member.
    recipe = dataclasses.replace(recipe, early_stop_min_epoch=1, history_points=3)
    cohort, data = toy_cohort(epochs=5), data_with_validation(recipe)
    with quick_float64():

        def train():
            population_train._make_trainer.cache_clear()
            population_train._jit_evaluate.cache_clear()
            return train_cohort(recipe, cohort, data, executor=executor(lanes=lanes, per_pass=5), dtype="float64")

        expected = train()
        as_here = mock.patch.object(lowering, "compiler_options", return_value={})
        with lowering.as_on("gpu"), as_here, mock.patch.object(population_train, "block_of", return_value=block):
            found = train()
        population_train._make_trainer.cache_clear()
        population_train._jit_evaluate.cache_clear()
    for a, b in zip(*(jax.tree.leaves((t.variables, t.history)) for t in (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    for name in ("stop_epoch", "num_epochs", "train_error", "test_error", "is_finite"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_curve_in_loops_of_known_length_is_the_same_curve():
    training = landscape.curve_training(num_steps=12, learning_rate=0.1)

    def loss(w, step, key):
        return (w @ w - 1) ** 2 + 0.01 * step * jax.random.normal(key, ()) * w[0]

    with quick_float64():
        state = training.start(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), jax.random.key(0))
        expected = training.advance(training.advance(state, loss, 8), loss, 8)
        found = training.advance(training.advance(state, loss, 8, block=4), loss, 8, block=4)
        assert int(found.step) == 12
        np.testing.assert_allclose(found.middle, expected.middle, rtol=1e-12)


@pytest.mark.parametrize("times", [[1], [7, 7], [390, 39, 195], [3, 10, 5], [5000]])
def test_a_block_loses_little(times):
    block = block_of(times)
    lost = sum(-(-t // block.length) * block.length for t in times) / sum(times) - 1
    assert 1 <= block.length <= 512
    assert block.is_exact == (lost == 0)
    assert lost <= 0.25


@pytest.mark.parametrize(
    ("platform", "name", "asked", "kind"),
    [
        ("gpu", "float32", "HIGHEST", "f32"),
        ("gpu", "tensorfloat32", "DEFAULT", "f32"),
        ("gpu", "bfloat16", "DEFAULT", "bf16"),
        ("tpu", "bfloat16", "DEFAULT", "f32"),
    ],
)
def test_products_and_those_of_derivatives_are_of_the_precision(platform, name, asked, kind):
    model = build_model("cnn", 2, 3, (6, 6, 1))
    variables, x = model.init(jax.random.key(0)), jnp.ones((4, 6, 6, 1))
    with lowering.as_on(platform):
        chosen = at_precision(model, name)

        def loss(params):
            outputs, _, _ = chosen.apply({**variables, "params": params}, x, True)
            return jnp.sin(outputs).sum()

        def product(params):
            return jax.jvp(jax.grad(loss), (params,), (params,))[1]

        # A function of its own for each: what was traced is found again by the function.
        with jax.default_matmul_precision("highest"):
            text = jax.jit(product).lower(variables["params"]).as_text()
    products = [line for line in text.splitlines() if any(f"stablehlo.{n}" in line for n in ("dot_g", "convolution"))]
    assert len(products) > 10
    for line in products:
        assert {"HIGHEST", "DEFAULT"} & {word.strip("[]>,") for word in line.replace("#", " ").split()} <= {asked}
        assert asked in line or (asked == "DEFAULT" and "HIGHEST" not in line)
        assert f"x{kind}>" in line


def device(platform, capability="9.0"):
    return [SimpleNamespace(platform=platform, device_kind="X9", compute_capability=capability)]


@pytest.mark.parametrize(
    ("devices", "name", "built_in", "said"),
    [
        (device("cpu"), "bfloat16", True, r"grid.precision=bfloat16 is not to be had on a CPU \(X9\); use float32"),
        (device("tpu"), "tensorfloat32", True, "on a TPU .*; use float32 or bfloat16"),
        (device("gpu", "7.5"), "tensorfloat32", True, "on this GPU .*; use float32$"),
        (device("gpu"), "bfloat16", False, "a network of one's own"),
    ],
)
def test_a_precision_that_the_machine_lacks_is_refused(devices, name, built_in, said):
    with mock.patch.object(jax, "local_devices", return_value=devices), pytest.raises(UserError, match=said):
        lowering.check_precision(name, is_built_in=built_in)


def test_a_precision_that_the_machine_has_is_not_refused():
    for devices, names in ((device("gpu", "8.0"), lowering.TABLE["gpu"].precisions), (device("cpu"), ["float32"])):
        with mock.patch.object(jax, "local_devices", return_value=devices):
            for name in names:
                lowering.check_precision(name)


def test_a_platform_that_is_not_there_is_one_sentence():
    with (
        mock.patch.object(jax, "local_devices", side_effect=RuntimeError("Unable to initialize backend 'cuda'")),
        mock.patch.object(lowering, "_asked_platforms", return_value="cuda"),
        pytest.raises(UserError, match="JAX_PLATFORMS=cuda asks for a device that JAX does not find here"),
    ):
        lowering.local_devices()


def test_the_data_set_is_put_on_an_accelerator_once_and_freed_with_its_arrays():
    images = np.arange(6.0).reshape(3, 2)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert on_devices(images, "float32", here) is not on_devices(images, "float32", here)
    with lowering.as_on("gpu"):
        placed = on_devices({"x": images}, "float32", here)["x"]
        assert on_devices(images, "float32", here) is placed
        np.testing.assert_array_equal(placed, images)
        assert on_devices(images.copy(), "float32", here) is not placed
        del images
        gc.collect()
    assert not resident._THERE
