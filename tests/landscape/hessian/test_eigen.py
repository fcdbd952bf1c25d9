import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import hvp, lanczos, power_iteration, smooth_density, spectral_density, xtrace
from tests.landscape.problems import dense_hessian, matrix_product, split, symmetric, tiny_network

TAIL = np.linspace(-0.5, 1, 37)
SPECTRA = {
    "positive": [9.0, 5.0, 3.0, *TAIL],
    "negative dominates": [-9.0, 5.0, 3.0, *TAIL],
    "degenerate": [-9.0, -9.0, 5.0, *TAIL],
    "all negative": [-9.0, -5.0, -3.0, *(TAIL - 1)],
}


def run(kernel, matrix, key=0):
    params = split(len(matrix))
    return jax.jit(lambda m, k: kernel(matrix_product(m, params), k, params))(jnp.asarray(matrix), jax.random.key(key))


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_the_dominant_eigenvalue_with_its_sign(spectrum):
    matrix = symmetric(spectrum)
    result = run(lanczos(return_vectors=True), matrix)
    dominant = max(spectrum, key=abs)
    np.testing.assert_allclose(result.values, [dominant], rtol=1e-5)
    assert result.converged.all()
    vector = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result.vectors[0])])
    np.testing.assert_allclose(np.linalg.norm(vector), 1, rtol=1e-10)
    residual = np.linalg.norm(matrix @ vector - float(result.values[0]) * vector)
    np.testing.assert_allclose(result.residuals[0], residual, rtol=1e-6)
    assert residual <= 1e-3 * abs(dominant)
    published = run(power_iteration(return_vectors=True), matrix)
    np.testing.assert_allclose(published.values, [dominant], rtol=1e-2)
    assert published.converged.all()
    assert int(result.num_products) < int(published.num_products) <= 100


def test_of_two_signs_that_are_nearly_equal_the_larger_one():
    """A residual alone stops 5 of these 400 runs at the other one, exactly found and second."""
    matrix = jnp.asarray(symmetric([5.0, -4.99, *np.random.default_rng(0).normal(size=298) * 0.8]))
    params, keys = jnp.zeros(300), jax.random.split(jax.random.key(0), 400)
    run = jax.jit(jax.vmap(lambda key: lanczos(1, 48)(lambda v: matrix @ v, key, params)))(keys)
    assert run.converged.all()
    np.testing.assert_allclose(run.values[:, 0], 5.0, rtol=1e-3)
    k = jax.jit(jax.vmap(lambda key: lanczos(2, 48)(lambda v: matrix @ v, key, params)))(keys)
    assert k.converged.all()
    np.testing.assert_allclose(k.values, np.broadcast_to([5.0, -4.99], (400, 2)), rtol=1e-3)


@pytest.mark.parametrize(
    ("spectrum", "saves"),
    [
        ([20.0, 9, 5, -3, *TAIL], True),
        ([-20.0, 9, 5, 3, *TAIL], True),
        ([10.0, -9.9, 5, 3, *TAIL], False),
        ([0.0] * 60, False),
    ],
    ids=["positive", "negative", "both signs", "zero"],
)
def test_a_start_from_the_products_of_the_trace_saves_steps_and_changes_nothing(spectrum, saves):
    matrix = symmetric([*spectrum, *[0.0] * (120 - len(spectrum))])
    params, keys = split(120), jax.random.split(jax.random.key(0), 50)

    def estimate(key):
        product = matrix_product(jnp.asarray(matrix), params)
        trace = xtrace(32, leading=True)(product, jax.random.fold_in(key, 1), params)
        return lanczos()(product, key, params), lanczos()(product, key, params, start=trace.leading), trace

    plain, warm, trace = jax.jit(jax.vmap(estimate))(keys)
    dominant = max(spectrum, key=abs)
    for found in (plain, warm):
        np.testing.assert_allclose(found.values[:, 0], dominant, rtol=1e-4, atol=1e-12)
        assert found.converged.all()
    assert float(warm.num_products.mean()) <= float(plain.num_products.mean()) - (1 if saves else 0)
    lengths = sum((np.asarray(leaf) ** 2).reshape(50, -1).sum(1) for leaf in jax.tree.leaves(trace.leading))
    np.testing.assert_allclose(lengths, float(saves), atol=1e-9)
    # A diverged member stays one.
    nothing = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    lost = lanczos()(lambda v: nothing, keys[0], params, start=nothing)
    assert np.isnan(lost.values).all()


def test_leading_eigenvalues_in_the_order_asked_for():
    matrix = symmetric(SPECTRA["negative dominates"])
    result = run(lanczos(k=3), matrix)
    np.testing.assert_allclose(result.values, [-9, 5, 3], rtol=1e-5)
    np.testing.assert_allclose(run(lanczos(k=3, which="largest"), matrix).values, [5, 3, 1], rtol=1e-3)
    assert result.vectors is None


def test_power_iteration_is_the_published_loop():
    matrix = symmetric(SPECTRA["negative dominates"])
    result = run(power_iteration(100, 1e-3), matrix)
    vector = np.asarray(jax.random.normal(jax.random.key(0), (40,), jnp.float64))
    vector, value, count = vector / np.linalg.norm(vector), None, 0
    while True:
        image = matrix @ vector
        new, count = vector @ image, count + 1
        if value is not None and abs(new - value) / (abs(value) + 1e-6) < 1e-3:
            break
        value, vector = new, image / np.linalg.norm(image)
    assert int(result.num_products) == count
    np.testing.assert_allclose(result.values, [new], rtol=1e-9)
    np.testing.assert_allclose(result.residuals, [np.linalg.norm(image - new * vector)], rtol=1e-8)


def test_eigenvalues_of_a_network_against_the_dense_hessian():
    _, _, loss, params, data = tiny_network()
    for sign in (1, -1):  # of the loss: the eigenvalue that dominates is positive, and negative

        def signed(params, data, sign=sign):
            return sign * loss(params, data)

        exact = np.linalg.eigvalsh(dense_hessian(signed, params, data))
        by_size = exact[np.argsort(-np.abs(exact))]
        assert np.sign(by_size[0]) == sign
        for k, which, expected in ((4, "magnitude", by_size[:4]), (3, "largest", exact[::-1][:3])):
            kernel = lanczos(k=k, max_steps=80, relative_tolerance=1e-6, which=which)
            product = hvp(signed, params, data)
            result = jax.jit(lambda key, kernel=kernel, product=product: kernel(product, key, params))(
                jax.random.key(0)
            )
            np.testing.assert_allclose(result.values, expected, rtol=1e-8)
            assert result.converged.all()


def test_too_few_steps_are_told():
    result = run(lanczos(k=2, max_steps=3, relative_tolerance=1e-8), symmetric(SPECTRA["positive"]))
    assert int(result.num_products) == 3
    assert not result.converged.all()
    assert result.is_finite
    # An eigenvalue lies within the residual of each value.
    distance = np.abs(np.asarray(SPECTRA["positive"])[None] - np.asarray(result.values)[:, None]).min(1)
    assert (distance <= result.residuals).all()


@pytest.mark.parametrize("kernel", [power_iteration(), lanczos(k=1), lanczos(k=3)], ids=["power", "one", "three"])
def test_members_of_a_population_are_as_alone_and_a_diverged_one_harms_none(kernel):
    matrices = [symmetric(SPECTRA["negative dominates"]), np.full((40, 40), np.nan), np.zeros((40, 40)), np.eye(40)]
    matrices = jnp.asarray(np.stack([*matrices, symmetric([4.0, -3, 2] + [0.0] * 37)]))
    params, keys = split(40), jax.random.split(jax.random.key(0), 5)

    def estimate(matrix, key):
        return kernel(matrix_product(matrix, params), key, params)

    alone = jax.jit(estimate)
    loop = jax.tree.map(lambda *a: np.stack(a), *[alone(m, k) for m, k in zip(matrices, keys, strict=True)])
    for batched in (jax.jit(jax.vmap(estimate)), jax.jit(lambda *a: lax.map(lambda b: estimate(*b), a))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), batched(matrices, keys), loop)
    np.testing.assert_array_equal(loop.is_finite, [True, False, True, True, True])
    assert np.isnan(loop.values[1]).all()
    assert np.isnan(loop.residuals[1]).all()
    assert not loop.converged[1].any()
    assert loop.num_products[1] == 1
    k = loop.values.shape[1]
    np.testing.assert_array_equal(loop.values[2], np.zeros(k))
    np.testing.assert_allclose(loop.values[3], np.ones(k), rtol=1e-12)
    np.testing.assert_allclose(loop.values[4], [4.0, -3, 2][:k], rtol=2e-2)
    assert loop.converged[[0, 2, 3, 4]].all()


def test_fewer_parameters_than_steps():
    np.testing.assert_allclose(run(lanczos(k=3), symmetric([-2.0, 1, 0.5])).values, [-2, 1, 0.5], rtol=1e-9)
    one = lanczos()(lambda v: -3.0 * v, jax.random.key(0), jnp.ones(()))
    np.testing.assert_allclose(one.values, [-3])
    assert one.converged.all()
    assert int(one.num_products) == 1
    np.testing.assert_allclose(power_iteration()(lambda v: -3.0 * v, jax.random.key(0), jnp.ones(())).values, [-3])


def test_single_precision():
    params = jnp.zeros(40, jnp.float32)
    matrix = jnp.asarray(symmetric(SPECTRA["negative dominates"]), jnp.float32)
    result = jax.jit(lambda key: lanczos(k=2)(lambda v: matrix @ v, key, params))(jax.random.key(0))
    assert result.values.dtype == jnp.float32
    np.testing.assert_allclose(result.values, [-9, 5], rtol=1e-4)


def test_spectral_density_has_the_moments_and_masses_of_the_spectrum():
    spectrum = np.concatenate([np.full(30, 0.5), np.full(9, -1.0), [20.0]])
    density = run(spectral_density(64, 10), symmetric(spectrum))
    nodes, weights = (np.asarray(a) for a in density)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
    assert (weights >= 0).all()
    # Three distinct eigenvalues: the nodes that carry weight are those, and their weights the shares, on average.
    for value, share in ((0.5, 30 / 40), (-1.0, 9 / 40), (20.0, 1 / 40)):
        mass = np.where(np.abs(nodes - value) < 1e-6, weights, 0).sum(1) * 64
        error = mass.std(ddof=1) / 8
        assert abs(mass.mean() - share) < 4 * error
        assert share < 0.1 or not abs(1.5 * mass.mean() - share) < 4 * error
    grid = jnp.linspace(-10, 30, 2001)
    smooth = smooth_density(density, grid, 0.5)
    np.testing.assert_allclose(np.trapezoid(smooth, grid), 1, rtol=1e-6)
    nodes, weights = spectral_density(2, 4)(lambda v: v * jnp.nan, jax.random.key(0), jnp.zeros(5))
    assert np.isnan(nodes).all()
    nodes, weights = spectral_density(2, 4)(lambda v: v * 0, jax.random.key(0), jnp.zeros(5))
    np.testing.assert_array_equal((nodes * weights).sum(), 0)


def test_densities_and_products_of_a_population_are_as_alone():
    matrices = jnp.asarray(np.stack([symmetric(SPECTRA[name]) for name in ("positive", "negative dominates")]))
    matrices = jnp.concatenate([matrices, jnp.full((1, 40, 40), jnp.nan)])
    keys, params = jax.random.split(jax.random.key(0), 3), jnp.zeros(40)

    def density(matrix, key):
        return spectral_density(3, 6, block=2)(lambda v: matrix @ v, key, params)

    together, one = jax.jit(jax.vmap(density))(matrices, keys), jax.jit(density)
    alone = jax.tree.map(lambda *a: np.stack(a), *[one(m, k) for m, k in zip(matrices, keys, strict=True)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), together, alone)
    assert np.isnan(together.nodes[2]).all()
    assert np.isfinite(together.nodes[:2]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lanczos(k=0), "k 0 must be a whole number of at least 1"),
        (lambda: lanczos(k=5, max_steps=4), "k 5 needs at least as many steps, but max_steps is 4"),
        (lambda: lanczos(max_steps=0), "max_steps 0 must be"),
        (lambda: lanczos(relative_tolerance=0), "relative_tolerance 0 must be a finite number above 0"),
        (lambda: lanczos(which="largst"), "unknown which 'largst' .did you mean 'largest'.*magnitude, largest"),
        (lambda: power_iteration(0), "max_steps 0 must be"),
        (lambda: power_iteration(relative_tolerance=-1.0), "relative_tolerance -1.0 must be"),
        (lambda: spectral_density(0), "num_probes 0 must be"),
        (lambda: spectral_density(num_steps=0), "num_steps 0 must be"),
        (lambda: smooth_density(None, None, 0.0), "width 0.0 must be"),
        (lambda: lanczos(k=3)(lambda v: v, None, jnp.zeros(2)), "k 3 must be at most the number of parameters, 2"),
        (lambda: lanczos()(lambda v: v, None, {}), "the parameters are empty"),
        (
            lambda: lanczos()(lambda v: v, jax.random.key(0), jnp.zeros(3), start=jnp.zeros(2)),
            r"the vector has arrays float64\[2\]; the parameters have float64\[3\]",
        ),
        (
            lambda: lanczos()(lambda v: v, None, {"a": jnp.zeros(2), "b": jnp.zeros(2, jnp.float32)}),
            "the parameters have types float32 and float64; cast them to one type",
        ),
        (lambda: lanczos()(lambda v: v, None, {"a": 1.0}), r"parameter \['a'\] is a float; parameters must be arrays"),
    ],
)
def test_bad_options_are_one_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()
