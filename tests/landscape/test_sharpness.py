import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import ball_sharpness, hutchinson, hvp, scale_invariant_weights, xtrace
from mdtree_jax.landscape.safe import normalize, safe_divide, safe_norm
from mdtree_jax.landscape.sharpness import relative_increase
from tests.landscape.problems import dense_hessian, symmetric, tiny_network


def quadratic(matrix, gradient):
    matrix, gradient = jnp.asarray(matrix), jnp.asarray(gradient)
    return lambda w: 3 + gradient @ w + 0.5 * w @ matrix @ w


def worst_increase(matrix, gradient, radius):
    """The trust-region problem by its secular equation: (mu - H) d = g with ‖d‖ = radius and mu >= top eigenvalue."""
    values, vectors = np.linalg.eigh(matrix)
    parts = vectors.T @ gradient

    def excess(mu):
        return np.sqrt(((parts / (mu - values)) ** 2).sum()) - radius

    from scipy.optimize import brentq

    mu = brentq(excess, values[-1] + 1e-9, values[-1] + 1e6, xtol=1e-14)
    d = vectors @ (parts / (mu - values))
    return gradient @ d + 0.5 * d @ matrix @ d


def test_a_convex_quadratic_reaches_the_worst_case():
    matrix, gradient = symmetric([5.0, 2.0, 1.0, 0.1, 0.0]), np.array([0.3, -0.2, 0.1, 0.5, 0.2])
    loss = quadratic(matrix, gradient)
    exact = worst_increase(matrix, gradient, 0.5)
    found = jax.jit(lambda w: ball_sharpness(0.5, num_steps=40)(loss, w))(jnp.zeros(5))
    np.testing.assert_allclose(found.increase, exact, rtol=1e-6)
    assert found.is_finite
    assert int(found.num_gradients) == 41  # one more at the parameters themselves
    steps = [float(ball_sharpness(0.5, num_steps=n)(loss, jnp.zeros(5)).increase) for n in (1, 2, 5, 10)]
    assert steps == sorted(steps)
    d = 0.5 * gradient / np.linalg.norm(gradient)  # the published single step
    np.testing.assert_allclose(steps[0], gradient @ d + 0.5 * d @ matrix @ d, rtol=1e-10)


def test_at_a_minimum_it_is_the_top_eigenvalue():
    loss = quadratic(symmetric([5.0, 2.0, 1.0]), np.zeros(3))
    found = ball_sharpness(0.1, num_steps=30)(loss, jnp.zeros(3))
    np.testing.assert_allclose(found.increase, 0.5 * 0.01 * 5, rtol=1e-6)


def test_edges_and_a_relative_radius():
    flat = ball_sharpness()(lambda w: 0 * w.sum() + 1, jnp.ones(3))
    assert float(flat.increase) == 0
    down = ball_sharpness(0.1)(lambda w: -(w @ w), jnp.zeros(3))  # a maximum: no increase anywhere
    assert float(down.increase) == 0
    nothing = ball_sharpness(0.1, relative=True)(lambda w: w @ w, jnp.zeros(3))
    assert float(nothing.increase) == float(nothing.radius) == 0
    relative = ball_sharpness(0.1, relative=True)(lambda w: w @ w, jnp.array([3.0, 4.0]))
    np.testing.assert_allclose([relative.radius, relative.increase], [0.5, 5.5**2 - 25], rtol=1e-10)
    for steps in (1, 5):
        steep = ball_sharpness(1.0, steps)(lambda w: jnp.exp(1000 * w.sum()), jnp.zeros(2))
        assert not steep.is_finite
        assert float(steep.increase) == np.inf
    for bad in (jnp.nan, jnp.inf):  # at the parameters themselves
        assert np.isnan(ball_sharpness()(lambda w, bad=bad: bad * (1 + w.sum()), jnp.zeros(2)).increase)
    np.testing.assert_allclose(relative_increase(relative, jnp.asarray(25.0)), (5.5**2 - 25) / 26)


def test_members_of_a_population_are_as_alone_and_a_diverged_one_harms_none():
    _, _, loss, params, data = tiny_network()
    members = jax.tree.map(lambda p: jnp.stack([p, 2 * p, p * jnp.nan, p * 0]), params)

    def estimate(params):
        return ball_sharpness(0.1, 3)(lambda p: loss(p, data), params)

    alone = jax.jit(estimate)
    loop = [alone(jax.tree.map(lambda leaf, i=i: leaf[i], members)) for i in range(4)]
    loop = jax.tree.map(lambda *a: np.stack(a), *loop)
    for batched in (jax.jit(jax.vmap(estimate)), jax.jit(lambda p: lax.map(estimate, p))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), batched(members), loop)
    np.testing.assert_array_equal(loop.is_finite, [True, True, False, True])
    assert np.isnan(loop.increase[2])
    assert (loop.increase[[0, 1, 3]] > 0).all()


def relu_network(params, x):
    return jax.nn.relu(x @ params["a"] + params["b"][None]) @ params["c"]


def normalized_network(params, x):
    z = x @ params["a"]
    z = (z - z.mean(0)[None]) / jnp.sqrt(z.var(0))[None]  # statistics of a fixed set of rows
    return jax.nn.relu(z + params["b"][None]) @ params["c"]


@pytest.mark.parametrize(
    ("network", "changes"), [(relu_network, (3.0, 3.0, 1 / 3)), (normalized_network, (3.0, 1.0, 1.0))]
)
def test_the_weighted_trace_ignores_the_scale_of_units_and_the_trace_does_not(network, changes):
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(20, 3))), jnp.asarray(rng.normal(size=(20, 2)))
    params = {name: jnp.asarray(rng.normal(size=s)) for name, s in {"a": (3, 5), "b": (5,), "c": (5, 2)}.items()}
    same = {name: params[name] * factor for name, factor in zip("abc", changes, strict=True)}

    def loss(params):
        return ((network(params, x) - y) ** 2).mean()

    np.testing.assert_allclose(loss(params), loss(same), rtol=1e-12)
    results = [
        jax.jit(lambda p: xtrace(60)(hvp(loss, p), jax.random.key(0), p, scale_invariant_weights(p)))(p)
        for p in (params, same)
    ]
    np.testing.assert_allclose(results[0].weighted_mean, results[1].weighted_mean, rtol=1e-9)
    assert abs(results[0].mean / results[1].mean - 1) > 0.1
    # Other probes' worth: the sum itself, from the dense Hessian.
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    expected = (flat**2 * np.diag(dense_hessian(loss, params))).sum()
    np.testing.assert_allclose(results[0].weighted_mean, expected, rtol=1e-9)
    estimate = jax.jit(lambda p: hutchinson(400)(hvp(loss, p), jax.random.key(0), p, scale_invariant_weights(p)))(
        params
    )
    assert abs(estimate.weighted_mean - expected) < 4 * estimate.weighted_standard_error
    assert abs(1.5 * estimate.weighted_mean - expected) > 4 * estimate.weighted_standard_error


def test_safe_primitives():
    np.testing.assert_allclose(safe_norm({"a": jnp.array([3e-200, 0.0]), "b": jnp.array(4e-200)}), 5e-200)
    np.testing.assert_allclose(safe_norm(jnp.array([3e200, 4e200])), 5e200)
    assert float(safe_norm(jnp.zeros(3))) == 0
    assert np.isnan(safe_norm(jnp.array([1.0, np.nan])))
    np.testing.assert_allclose(normalize(jnp.array([3e-200, 4e-200])), [0.6, 0.8])
    np.testing.assert_array_equal(normalize(jnp.zeros(2)), [0, 0])
    np.testing.assert_array_equal(safe_divide(jnp.ones(2), jnp.array([0.0, 4.0]), otherwise=-1.0), [-1, 0.25])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ball_sharpness(0.0), "radius 0.0 must be a finite number above 0"),
        (lambda: ball_sharpness(float("inf")), "radius inf must be"),
        (lambda: ball_sharpness(num_steps=0), "num_steps 0 must be"),
        (lambda: ball_sharpness()(lambda w: 0.0, {}), "the parameters are empty"),
        (lambda: ball_sharpness()(lambda w: w.sum(), jnp.arange(3)), "the array has type int"),
        (lambda: ball_sharpness()(lambda w: 2 * w, jnp.ones(3)), r"the loss has shape \(3,\); it must be a scalar"),
    ],
)
def test_bad_options_are_one_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()
