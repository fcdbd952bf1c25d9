"""Kernels of every objective: dense Hessians of formulas written out, token ids, mappings of inputs, similarity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import landscape
from mdtree_jax.data import LoadedDataset
from mdtree_jax.measuring.kernels import make_loss
from mdtree_jax.measuring.measure import measure_cohort
from mdtree_jax.measuring.similarity import compared_inputs, similarities
from mdtree_jax.models import Model
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.training import weighted_cross_entropy
from tests.landscape.problems import dense, dense_hessian

pytestmark = pytest.mark.usefixtures("float64")

RNG = np.random.default_rng(0)
N, T, V = 11, 3, 4
WEIGHTS = np.array([0.5, 1.0, 3.0])


def of_rows(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def of_tokens(params, x):
    return jnp.tanh(params["a"][x]) @ params["b"]


def random_params(shape, seed=0):
    rng = np.random.default_rng(seed)
    return {"a": jnp.asarray(rng.normal(size=(shape[0], 3))), "b": jnp.asarray(rng.normal(size=(3, shape[1])))}


def nll(z, y):
    return jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, y[..., None], -1)[..., 0]


def of_signs(z, y):
    return jnp.where(y > 0, jnp.logaddexp(0.0, -z), jnp.logaddexp(0.0, z))


def weighted(z, y):
    w = jnp.asarray(WEIGHTS)[y]
    return (w * nll(z, y)).sum() / w.sum()


def of_counted(z, y):
    return jnp.where(y >= 0, nll(z, jnp.maximum(y, 0)), 0).sum() / (y >= 0).sum()


def huber(z, y):
    r = jnp.abs(z - y)
    return jnp.where(r < 1, r**2 / 2, r - 0.5).mean()


X, IDS = RNG.normal(size=(N, 2)), RNG.integers(0, V, (N, T))
#: Objective, network, shape of its parameters, inputs, targets, the loss of the whole set written out.
CASES = {
    "cross_entropy": ("cross_entropy", of_rows, (2, 3), X, RNG.integers(0, 3, N), lambda z, y: nll(z, y).mean()),
    "soft labels": (
        "cross_entropy", of_rows, (2, 3), X, RNG.dirichlet(np.ones(3), N),
        lambda z, y: (jax.nn.logsumexp(z, -1)[:, None] * y - z * y).sum() / N,
    ),
    "weights": (weighted_cross_entropy(WEIGHTS), of_rows, (2, 3), X, RNG.integers(0, 3, N), weighted),
    "lm": ("lm", of_tokens, (V, V), IDS, RNG.integers(-1, V, (N, T)), of_counted),
    "binary": ("binary", of_rows, (2, 1), X, RNG.integers(0, 2, N), lambda z, y: of_signs(z[:, 0], y).mean()),
    "multilabel": ("multilabel", of_rows, (2, 3), X, RNG.integers(0, 2, (N, 3)), lambda z, y: of_signs(z, y).mean()),
    "regression": ("regression", of_rows, (2, 1), X, RNG.normal(size=N), lambda z, y: ((z[:, 0] - y) ** 2).mean()),
    "huber": ("huber", of_rows, (2, 2), X, 3 * RNG.normal(size=(N, 2)), huber),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_dense_hessian_of_the_formula(name):
    objective, apply, shape, x, y, formula = CASES[name]
    params, x, y = random_params(shape), jnp.asarray(x), jnp.asarray(y)
    model = Model(lambda key: None, lambda variables, x, train: (apply(variables["params"], x), {}, {}))
    wanted = dense_hessian(lambda params: formula(apply(params, x), y), params)
    loss = make_loss(model, {}, objective, y)
    for batch_size in (None, 4):  # 4 does not divide 11
        product = landscape.hvp(loss, params, (x, y), batch_size=batch_size)
        np.testing.assert_allclose(dense(product, params), wanted, atol=1e-12)
    np.testing.assert_allclose(loss(params, (x, y)), formula(apply(params, x), y), rtol=1e-12)


CONFIG = MeasureConfig(
    hessian_images=24,
    trace_products=200,
    trace_relative_error=1e-9,
    similarity_images=32,
    barrier_points=5,
    curve_steps=6,
    curve_batch_size=8,
    statistics_batch_size=8,
)


def measured(objective, apply, shape, x, y, kinds):
    """Measure two random networks on 40 training and 10 test examples; return the tables and the networks."""
    model = Model(
        lambda key: {"params": random_params(shape), "batch_stats": {}},
        lambda variables, x, train: (apply(variables["params"], x), {}, {}),
    )
    networks = [random_params(shape, seed) for seed in range(2)]
    stacked = {"params": jax.tree.map(lambda *leaves: np.stack(leaves), *networks), "batch_stats": {}}
    members = tuple(Member(0, seed, 40, 1.0, 0.1, 0.0) for seed in range(2))
    train, test = (jax.tree.map(lambda a, part=part: a[part], (x, y)) for part in (slice(40), slice(40, None)))
    found = measure_cohort(
        Recipe("own", "", 1, (), objective=objective), Cohort(1, 8, 1, members), LoadedDataset(*train, *test, 1, "own"),
        stacked, [True, True], resolve(CONFIG), memory_budget_bytes=2**30, dtype="float64", model=model,
    )  # fmt: skip
    assert kinds == [str(leaf.dtype) for leaf in jax.tree.leaves(x)]
    return found, networks


def test_a_language_model_is_measured():
    x, y = RNG.integers(0, V, (50, T)), RNG.integers(-1, V, (50, T))
    found, networks = measured("lm", of_tokens, (V, V), x, y, ["int64"])
    x, y = jnp.asarray(x), jnp.asarray(y)
    traces = [np.trace(dense_hessian(lambda p: of_counted(of_tokens(p, x[:24]), y[:24]), p)) for p in networks]
    np.testing.assert_allclose(found.members["hessian_trace"], traces, rtol=1e-8)
    (pair,) = found.pairs.to_dict("records")
    outputs = [np.asarray(of_tokens(p, x[:40])) for p in networks]
    middle = jax.tree.map(lambda a, b: (a + b) / 2, *networks)
    points = [
        jax.tree.map(lambda a, b, t=t: (1 - t) * a + t * b, *networks) for t in np.linspace(0, 1, CONFIG.barrier_points)
    ]

    def error(params):
        z, t = np.asarray(of_tokens(params, x[:40])), np.asarray(y[:40])
        return 100 * (z.argmax(-1) != t)[t >= 0].mean()

    errors = np.array([error(p) for p in points])
    line = np.linspace(errors[0], errors[-1], len(errors))
    assert pair["barrier"] == pytest.approx((errors - line).max())
    losses = np.array([float(of_counted(of_tokens(p, x[:40]), y[:40])) for p in points])
    line = np.linspace(losses[0], losses[-1], len(losses))
    assert pair["barrier_loss"] == pytest.approx((losses - line).max())
    assert np.isfinite(pair["mode_connectivity_peak"])
    # Ids cannot be mixed: the networks are compared on the first 32 in the order of the draw, all of 40 or fewer.
    assert 0 < pair["cka"] < 1
    assert 0 <= pair["agreement"] <= 1
    assert middle.keys() == networks[0].keys()
    assert outputs[0].shape == (40, T, V)


def test_a_regression_on_a_mapping_of_inputs_is_measured():
    def apply(params, x):
        return of_rows(params, jnp.concatenate([x["left"], params["a"][:2, 0][x["which"]][:, None]], 1))

    x = {"left": RNG.normal(size=(50, 1)), "which": RNG.integers(0, 2, 50)}
    y = RNG.normal(size=50)
    found, networks = measured("regression", apply, (2, 1), x, y, ["float64", "int64"])
    few = jax.tree.map(lambda a: jnp.asarray(a[:24]), x)
    traces = [np.trace(dense_hessian(lambda p: ((apply(p, few)[:, 0] - y[:24]) ** 2).mean(), p)) for p in networks]
    np.testing.assert_allclose(found.members["hessian_trace"], traces, rtol=1e-8)
    (pair,) = found.pairs.to_dict("records")
    # Numbers are no decisions, in which networks could agree.
    assert "agreement" not in pair
    assert np.isfinite([pair["cka"], pair["l2_distance"], pair["barrier"], pair["mode_connectivity_peak"]]).all()
    ends = [apply(p, jax.tree.map(jnp.asarray, x))[:40, 0] for p in networks]
    unexplained = [100 * float(((z - y[:40]) ** 2).mean() / y[:40].var()) for z in ends]
    curve = pair["curve_train_error"]
    np.testing.assert_allclose([curve[0], curve[-1]], unexplained)


def test_inputs_are_mixed_where_they_are_numbers_and_chosen_alike_where_they_are_not():
    settings, key = resolve(CONFIG), jax.random.key(3)
    numbers = {"a": jnp.asarray(RNG.normal(size=(40, 2))), "b": jnp.asarray(RNG.normal(size=(40, 3, 3)))}
    found = compared_inputs(key, numbers, 40, settings)
    for name, array in numbers.items():
        alone = landscape.mixup(key, array, 40, num_images=32, alpha=settings.mixup_alpha)
        np.testing.assert_array_equal(found[name], alone)
    rows = compared_inputs(key, jnp.arange(40), 30, settings)
    assert sorted(rows[:30].tolist()) == list(range(30))


def test_similarity_is_of_probabilities_and_agreement_of_decisions():
    settings, params = resolve(CONFIG), {"w": jnp.asarray(RNG.normal(size=(2, 3)))}
    z = jnp.asarray(RNG.normal(size=(2, 32, 3)))
    found = similarities(settings, z, None, params, "multilabel")
    p = 1 / (1 + np.exp(-np.asarray(z)))
    np.testing.assert_allclose(found["cka"], landscape.linear_cka(jnp.asarray(p)))
    assert found["agreement"][0, 1] == pytest.approx(((z[0] > 0) == (z[1] > 0)).mean())
    values = similarities(settings, z, None, params, "regression")
    np.testing.assert_allclose(values["cka"], landscape.linear_cka(z))
