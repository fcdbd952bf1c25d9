"""Kernels from outside the package: what their functions see, their programs, and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import Kernel, Measurement, UserError, register
from mdtree_jax.data import LoadedDataset
from mdtree_jax.measuring.measure import measure_cohort
from mdtree_jax.models import build_model
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.registry.kernels import KERNELS
from mdtree_jax.registry.measurements import MEASUREMENTS

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SHAPE, WIDTH = (3, 3, 1), 4


@pytest.fixture(scope="module")
def cohort():
    members = tuple(Member(i, seed, n, n / 40, 0.1, 0.0) for i, n in enumerate((16, 40)) for seed in (0, 1, 2))
    model = build_model("mlp", WIDTH, 3, SHAPE, "float32")
    networks = [model.init(jax.random.key(10 * m.index + m.seed)) for m in members]
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, *SHAPE)).astype(np.float32), rng.integers(0, 3, 60).astype(np.int32)
    return (
        Cohort(WIDTH, 8, 1, members),
        jax.tree.map(lambda *leaves: np.stack(leaves), *networks),
        LoadedDataset(x[:40], y[:40], x[40:], y[40:], 3, "random"),
        model,
    )


def measure(cohort, metrics, is_finite=(True,) * 6):
    recipe = Recipe("digits", "mlp", num_classes=3, image_shape=SHAPE)
    settings = resolve(MeasureConfig(metrics=metrics, hessian_images=20, similarity_images=64))
    return measure_cohort(recipe, cohort[0], cohort[2], cohort[1], list(is_finite), settings, memory_budget_bytes=2**30)


def test_a_kernel_that_needs_the_training_settings_sees_them(cohort, added):
    needs = ("network", "training_settings")
    added(
        Measurement("trained_rate", "1", "of a test", needs=needs),
        kernel=lambda network: network.hyperparameters.learning_rate * network.hyperparameters.num_samples,
    )
    found = measure(cohort, ["trained_rate"]).members["trained_rate"]
    np.testing.assert_allclose(found, [1.6] * 3 + [4.0] * 3, rtol=1e-6)


def test_the_function_of_a_network_sees_parameters_batch_loss_outputs_and_key(cohort, added):
    def look(network):
        x, y = network.batch
        doubled = jax.tree.map(lambda leaf: 2 * leaf, network.params)
        return {
            "batch_error": 100 * (network.outputs(x).argmax(-1) != y).mean(),
            "batch_loss": network.loss(network.params),
            "loss_of_twice": network.loss(doubled),
            "drawn": jax.random.uniform(network.key),
        }

    added(Kernel("look", "what a function sees", cost=2.0), kernel=look)
    for name in ("batch_error", "batch_loss", "loss_of_twice", "drawn"):
        added(Measurement(name, "1", name, kernel="look"))
    found = measure(cohort, ["look"]).members
    (_, variables, data, model), members = cohort, cohort[0].members
    for row, member in enumerate(members):
        network = jax.tree.map(lambda leaf, row=row: leaf[row], variables)
        rows = np.arange(20) % member.num_samples
        for factor, loss in ((1.0, "batch_loss"), (2.0, "loss_of_twice")):
            params = jax.tree.map(lambda leaf, factor=factor: factor * leaf, network["params"])
            logits = np.asarray(model.apply({**network, "params": params}, data.x_train[rows], False)[0], np.float64)
            chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            assert found[loss][row] == pytest.approx(
                -np.log(chances[np.arange(20), data.y_train[rows]]).mean(), rel=1e-5
            )
            if factor == 1.0:
                wrong = logits.argmax(1) != data.y_train[rows]
                assert found["batch_error"][row] == pytest.approx(100 * wrong.mean(), rel=1e-5)
    assert found["drawn"].nunique() == 6
    assert found["look_flops"].nunique() == 1
    assert measure(cohort, ["look"]).num_compilations == 0
    again = measure(cohort, ["look"], [True, False, *[True] * 4]).members
    np.testing.assert_array_equal(again["drawn"].drop(1), found["drawn"].drop(1))
    assert np.isnan(again["drawn"][1])


def test_the_function_of_a_pair_sees_both_networks(cohort, added):
    """The distance of their parameters is what the package measures too."""

    def distance(pair):
        sides = (jax.tree.leaves(side.params) for side in (pair.first, pair.second))
        return jnp.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(*sides, strict=True)))

    added(Measurement("apart", "1", "distance of the parameters", needs=("pair",)), kernel=distance)
    found = measure(cohort, ["apart", "similarity"])
    assert len(found.pairs) == 6
    np.testing.assert_allclose(found.pairs["apart"], found.pairs["l2_distance"], rtol=1e-5)
    assert "apart" not in found.members
    # Registered again with another function, it is another program.
    register(MEASUREMENTS["apart"], kernel=lambda pair: 2 * distance(pair))
    np.testing.assert_allclose(measure(cohort, ["apart"]).pairs["apart"], 2 * found.pairs["apart"], rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda network: jnp.zeros(3), r"returns an array of shape \(3,\) for 'toy'; expected a scalar"),
        (lambda network: {"tiy": 0.0}, "returns 'tiy', and its measurements are 'toy'"),
        (lambda network: {}, "returns , and its measurements are 'toy'"),
    ],
)
def test_results_that_are_no_scalars_are_refused_before_anything_runs(cohort, added, function, message):
    added(Measurement("toy", "1", "a toy"), kernel=function)
    with pytest.raises(UserError, match=message):
        measure(cohort, ["toy"])


def zero(network):
    return 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: register(Measurement("cka", "1", "mine"), kernel=zero), "the name 'CKA'|'cka' is already registered"),
        (lambda: register(Measurement("CKA", "1", "mine"), kernel=zero), "the name 'CKA' is taken by the column 'cka'"),
        (lambda: register(Measurement("width", "1", "mine"), kernel=zero), "'width' is taken by the column 'width'"),
        (
            lambda: register(Measurement("mine", "1", "mine", aliases={"hessian_t": None}), kernel=zero),
            "'hessian_t' is taken by the column 'log_hessian_trace'",
        ),
        (
            lambda: register(Measurement("hessian", "1", "mine"), kernel=zero),
            "a kernel named 'hessian' is already registered",
        ),
        (lambda: register(Measurement("train", "1", "mine"), kernel=zero), "'train' is not a valid kernel name"),
        (lambda: register(Measurement("mine", "1", "mine"), kernel=3), "kernel=3 of 'mine' is not callable"),
        (
            lambda: register(Measurement("mine", "1", "mine", kernel="no")),
            "names the kernel 'no', which does not exist",
        ),
        (
            lambda: register(Measurement("mine", "1", "mine"), kernl=zero),
            r"register\(Measurement, kernl=…\): besides the entry, it takes",
        ),
        (lambda: register(Measurement("log_mine", "ln", "mine", logarithm_of="mine")), "is derived from 'mine', which"),
        (lambda: register(Measurement("my metric", "1", "mine"), kernel=zero), "is not an identifier"),
        (lambda: register("mine"), "its type is str; it must be one of"),
        (lambda: Measurement("mine_se", "1", "mine"), "'mine_se' is not a valid name for a measurement"),
        (lambda: Measurement("seed", "1", "mine"), "'seed' is not a valid name for a measurement"),
        (lambda: Measurement("mine", "1", "mine", direction="warm"), "unknown direction of 'mine' 'warm'"),
        (lambda: Measurement("mine", "1", "mine", needs=("pears",)), "'mine' needs 'pears', which is not one of"),
        (lambda: Measurement("mine", "1", "mine", bounds=(1.0, 0.0)), r"bounds=\(1.0, 0.0\) of 'mine' are empty"),
        (lambda: Measurement("mine", "1", "mine", sources=("cka",)), "'mine' needs both sources and formula"),
        (lambda: Kernel("mine", "mine", cost=-1.0), "cost=-1.0 is out of range"),
        (lambda: register(Kernel("mine", "mine", ("test_data",)), kernel=zero), "must need either 'network' or 'pair'"),
    ],
)
def test_mistakes_are_one_sentence_and_change_no_table(make, message):
    before = list(MEASUREMENTS), list(KERNELS)
    with pytest.raises(UserError, match=message):
        make()
    assert (list(MEASUREMENTS), list(KERNELS)) == before
