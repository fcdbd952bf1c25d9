import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import default_trace, hutchinson, hvp, scale_invariant_weights, xtrace
from mdtree_jax.landscape.pytrees import tree_signs
from tests.landscape.problems import dense_hessian, matrix_product, split, symmetric, tiny_network

KERNELS = [hutchinson, xtrace]
#: dim 40 with a tail; its trace is 20.4.
SPECTRUM = np.concatenate([[12.0, -6.0, 5.0], np.linspace(0.1, 0.7, 37) * np.where(np.arange(37) % 4, 1, -0.5)])


@functools.cache
def estimates(kernel, budget=32, keys=200):
    """Return a kernel's results for many keys on one indefinite matrix, its matrix and the parameters."""
    with jax.enable_x64(True):
        matrix, params = symmetric(SPECTRUM), split(40)
        weights = jax.tree.map(lambda p: jnp.arange(1.0, p.size + 1, dtype=p.dtype).reshape(p.shape), params)
        run = jax.jit(
            jax.vmap(lambda key: kernel(budget, block=4)(matrix_product(matrix, params), key, params, weights))
        )
        return run(jax.random.split(jax.random.key(0), keys)), matrix, weights


def accepts(samples, exact, factor=1.0):
    """Return whether the mean over the keys is the exact value within 4 of its standard errors."""
    samples = factor * np.asarray(samples)
    return abs(samples.mean() - exact) < 4 * samples.std(ddof=1) / np.sqrt(len(samples))


@pytest.mark.parametrize("kernel", KERNELS)
def test_estimates_are_unbiased_and_three_halves_of_them_are_not(kernel):
    result, matrix, weights = estimates(kernel)
    diagonal = np.diag(matrix)
    flat_weights = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(weights)])
    first = weights["a"].size
    cases = [
        (result.mean, diagonal.sum()),
        (result.leaf_traces["a"], diagonal[:first].sum()),
        (result.leaf_traces["b"], diagonal[first:].sum()),
        (result.weighted_mean, (flat_weights * diagonal).sum()),
    ]
    for samples, exact in cases:
        assert accepts(samples, exact)
        assert not accepts(samples, exact, 1.5)
    total = result.leaf_traces["a"] + result.leaf_traces["b"]
    if kernel is hutchinson:
        np.testing.assert_allclose(total, result.mean, rtol=1e-12)
    assert set(np.asarray(result.num_products)) == {32}
    assert result.is_finite.all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_standard_errors_are_those_over_keys(kernel):
    result, _, _ = estimates(kernel)
    pairs = [
        (result.mean, result.standard_error),
        (result.weighted_mean, result.weighted_standard_error),
        (result.leaf_traces["b"], result.leaf_standard_errors["b"]),
    ]
    for samples, claimed in pairs:
        over_keys = np.asarray(samples).std(ddof=1)
        # XTrace claims too little of its mean: 0.73 of the true spread here (4000 keys).
        assert (0.6 if kernel is xtrace else 0.75) < float(np.sqrt((claimed**2).mean())) / over_keys < 1.35


def test_xtrace_is_the_more_accurate():
    assert float(estimates(xtrace)[0].mean.std()) < 0.4 * float(estimates(hutchinson)[0].mean.std())


def test_hutchinson_has_its_known_variance():
    result, matrix, _ = estimates(hutchinson)
    expected = np.sqrt(2 * ((matrix**2).sum() - (np.diag(matrix) ** 2).sum()) / 32)
    assert 0.85 < float(result.mean.std(ddof=1)) / expected < 1.15


def test_xtrace_is_the_definition_column_by_column():
    """The definition with a QR for every column left out, on the same signs."""
    matrix, params = symmetric(SPECTRUM, seed=3), jnp.zeros(40)

    def product(vector):
        return jnp.asarray(matrix) @ vector

    key = jax.random.key(5)
    omega = np.concatenate([tree_signs(jax.random.fold_in(key, jnp.int32(i)), params, 4) for i in range(3)]).T
    each = []
    for i in range(12):
        q = np.linalg.qr(matrix @ np.delete(omega, i, 1))[0]
        rest = omega[:, i] - q @ (q.T @ omega[:, i])
        each.append(np.trace(q.T @ matrix @ q) + rest @ matrix @ rest)
    result = xtrace(24, block=4)(product, key, params)
    np.testing.assert_allclose(result.mean, np.mean(each), rtol=1e-9)
    np.testing.assert_allclose(result.standard_error, np.std(each, ddof=1) / np.sqrt(12), rtol=1e-8)


def test_xtrace_is_that_of_matfree():
    stochtrace = pytest.importorskip("matfree.stochtrace")
    matrix, params = symmetric(SPECTRUM, seed=3), jnp.zeros(40)

    def product(vector):
        return jnp.asarray(matrix) @ vector

    key = jax.random.key(5)
    omega = np.concatenate([tree_signs(jax.random.fold_in(key, jnp.int32(i)), params, 4) for i in range(3)]).T
    result = xtrace(24, block=4)(product, key, params)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = stochtrace.leave_one_out_xtrace(apply_resphering=False)(product, jnp.asarray(omega.T))
    np.testing.assert_allclose(result.mean, np.mean(theirs), rtol=1e-8)
    np.testing.assert_allclose(result.standard_error, np.std(theirs, ddof=1) / np.sqrt(12), rtol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_traces_of_a_network_against_the_dense_hessian(kernel):
    _, _, loss, params, data = tiny_network()
    diagonal = np.diag(dense_hessian(loss, params, data))
    weights = scale_invariant_weights(params)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    run = jax.jit(lambda key: kernel(400, block=8)(hvp(loss, params, data), key, params, weights))
    result = run(jax.random.key(0))
    # 31 parameters: xtrace is exact here.
    tolerance = 0 if kernel is xtrace else 4
    assert abs(result.mean - diagonal.sum()) <= tolerance * result.standard_error + 1e-10
    bound = tolerance * result.weighted_standard_error + 1e-10
    assert abs(result.weighted_mean - (flat**2 * diagonal).sum()) <= bound
    sizes = np.cumsum([leaf.size for leaf in jax.tree.leaves(params)])[:-1]
    parts = zip("abcd", np.split(diagonal, sizes), strict=True)
    for name, part in parts:
        bound = tolerance * result.leaf_standard_errors[name] + 1e-10
        assert abs(result.leaf_traces[name] - part.sum()) <= bound
    assert int(result.num_products) == (31 if kernel is xtrace else 400)


@pytest.mark.parametrize("kernel", KERNELS)
def test_stops_at_the_relative_error(kernel):
    matrix, params = symmetric(np.linspace(1, 2, 60)), split(60)
    run = jax.jit(lambda key: kernel(56, relative_error=0.05, block=4)(matrix_product(matrix, params), key, params))
    result = run(jax.random.key(0))
    assert result.converged
    assert 8 <= int(result.num_products) < 40
    assert result.standard_error <= 0.05 * abs(result.mean)
    assert abs(result.mean / 90 - 1) < 0.2
    # A trace of zero cannot be had to a relative error: the budget ends it.
    balanced = symmetric(np.concatenate([np.linspace(1, 2, 30), -np.linspace(1, 2, 30)]))
    run = jax.jit(lambda key: kernel(56, relative_error=0.05, block=4)(matrix_product(balanced, params), key, params))
    result = run(jax.random.key(0))
    assert int(result.num_products) == 56
    assert not result.converged
    assert result.is_finite


@pytest.mark.parametrize(("kernel", "stated", "num_keys"), [(hutchinson, 0.05, 400), (xtrace, 0.02, 100)])
def test_the_error_at_the_stop_is_the_stated_one(kernel, stated, num_keys):
    """A standard error that is small by chance stops a run, so its promise is tested there."""
    spectrum = np.r_[np.geomspace(100, 5, 10), np.abs(np.random.default_rng(0).normal(size=290)) * 0.3]
    matrix, params = jnp.asarray(symmetric(spectrum)), jnp.zeros(300)
    keys = jax.random.split(jax.random.key(0), num_keys)
    run = jax.jit(jax.vmap(lambda key: kernel(256, relative_error=stated)(lambda v: matrix @ v, key, params)))(keys)
    assert run.converged.all()
    assert float((run.num_products > 16).mean()) > 0.3  # the rule is at work
    error = np.sqrt(np.mean((np.asarray(run.mean) / spectrum.sum() - 1) ** 2))
    assert 0.3 * stated < error < 1.2 * stated
    ratio = np.sqrt(np.mean(((np.asarray(run.mean) - spectrum.sum()) / np.asarray(run.standard_error)) ** 2))
    assert 0.9 < ratio < (2.4 if kernel is xtrace else 1.3)  # how much too small it is: see `xtrace`


@pytest.mark.parametrize("kernel", KERNELS)
def test_members_of_a_population_are_as_alone_and_a_diverged_one_harms_none(kernel):
    spectra = [SPECTRUM, -SPECTRUM, np.full(40, np.nan), np.zeros(40), np.r_[np.ones(3), np.zeros(37)]]
    matrices = jnp.stack([jnp.asarray(symmetric(s, seed)) for seed, s in enumerate(spectra[:2])])
    matrices = jnp.concatenate(
        [matrices, jnp.full((1, 40, 40), jnp.nan), jnp.zeros((1, 40, 40)), jnp.asarray(symmetric(spectra[4]))[None]]
    )
    params, keys = split(40), jax.random.split(jax.random.key(0), 5)

    def estimate(matrix, key):
        return kernel(32, relative_error=1e-3, block=4)(matrix_product(matrix, params), key, params)

    alone = jax.jit(estimate)
    loop = jax.tree.map(lambda *a: np.stack(a), *[alone(m, k) for m, k in zip(matrices, keys, strict=True)])
    for batched in (jax.jit(jax.vmap(estimate)), jax.jit(lambda *a: lax.map(lambda b: estimate(*b), a))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), batched(matrices, keys), loop)
    np.testing.assert_array_equal(loop.is_finite, [True, True, False, True, True])
    np.testing.assert_array_equal(np.isnan(loop.mean), [False, False, True, False, False])
    np.testing.assert_array_equal(np.isnan(loop.standard_error), [False, False, True, False, False])
    assert loop.num_products[2] <= 8  # stopped at once
    assert not loop.converged[2]
    np.testing.assert_array_equal(loop.mean[3], 0)
    assert loop.converged[3]
    if kernel is xtrace:  # rank 3: exact once the range is exhausted
        np.testing.assert_allclose(loop.mean[4], 3, rtol=1e-10)
        assert loop.standard_error[4] < 1e-9


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("entry", [-3.0, 0.0])
def test_one_parameter(kernel, entry):
    result = kernel(max_products_or_probes(kernel))(
        lambda v: entry * v, jax.random.key(0), jnp.ones(()), jnp.ones(()) * 2
    )
    assert float(result.mean) == entry
    assert float(result.weighted_mean) == 2 * entry
    assert float(result.leaf_traces) == entry
    assert float(result.standard_error) == 0


def max_products_or_probes(kernel):
    return 5 if kernel is hutchinson else 4


def test_single_precision():
    matrix, params = symmetric(SPECTRUM).astype(np.float32), jax.tree.map(lambda p: p.astype(jnp.float32), split(40))
    for kernel in KERNELS:
        result = jax.jit(lambda key, k=kernel: k(32, block=4)(matrix_product(matrix, params), key, params))(
            jax.random.key(1)
        )
        assert result.mean.dtype == jnp.float32
        assert abs(float(result.mean) - SPECTRUM.sum()) < 5 * float(result.standard_error)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hutchinson(0), "max_probes 0 must be a whole number of at least 1"),
        (lambda: hutchinson(2.5), "max_probes 2.5 must be a whole number"),
        (lambda: hutchinson(10, block=0), "block 0 must be"),
        (lambda: hutchinson(10, relative_error=0.0), "relative_error 0.0 must be a finite number above 0"),
        (lambda: xtrace(3), "max_products 3 must be a whole number of at least 4"),
        (lambda: xtrace(10, block=-1), "block -1 must be"),
        (lambda: xtrace(10, relative_error=float("nan")), "relative_error nan must be a finite number above 0"),
        (lambda: xtrace()(lambda v: v, jax.random.key(0), {}), "the parameters are empty"),
        (lambda: hutchinson()(lambda v: v, jax.random.key(0), {}), "the parameters are empty"),
        (lambda: hutchinson()(lambda v: v, jax.random.key(0), {"a": jnp.arange(2)}), "'a'.* has type int"),
    ],
)
def test_bad_options_are_one_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_the_default_is_the_more_accurate():
    assert default_trace is xtrace


def test_of_a_small_network_no_vector_leads():
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    result = xtrace(20, leading=True)(lambda v: jax.tree.map(lambda leaf: 2 * leaf, v), jax.random.key(0), params)
    jax.tree.map(np.testing.assert_array_equal, result.leading, params)
    assert xtrace(20)(lambda v: v, jax.random.key(0), params).leading is None


def test_one_sample_says_nothing_of_its_spread():
    matrix = jnp.array([[1.0, 5.0], [5.0, 1.0]])
    result = hutchinson(1, relative_error=0.5)(lambda v: matrix @ v, jax.random.key(0), jnp.zeros(2))
    assert np.isnan(result.standard_error)
    assert np.isnan(result.leaf_standard_errors)
    assert not result.converged
