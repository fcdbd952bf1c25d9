"""Similarity of networks against n x n formulas and loops in NumPy, float64, strict promotion."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import agreement, l2_distance, linear_cka, mean_over_pairs, mixup
from mdtree_jax.landscape.similarity import draw_mixup


def dense_hsic(x, y, debiased):
    """HSIC from the n x n Gram matrices, as Song et al. (2012) state the two estimators."""
    n = len(x)
    gram_x, gram_y = x @ x.T, y @ y.T
    if not debiased:
        h = np.eye(n) - 1 / n
        return np.trace(gram_x @ h @ gram_y @ h) / (n - 1) ** 2
    np.fill_diagonal(gram_x, 0)
    np.fill_diagonal(gram_y, 0)
    one = np.ones(n)
    middle = (one @ gram_x @ one) * (one @ gram_y @ one) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (one @ gram_x @ gram_y @ one)
    return (np.trace(gram_x @ gram_y) + middle - cross) / (n * (n - 3))


def dense_cka(features, debiased):
    k = len(features)
    hsic = np.array([[dense_hsic(features[i], features[j], debiased) for j in range(k)] for i in range(k)])
    return hsic / np.sqrt(np.outer(np.diag(hsic), np.diag(hsic)))


@functools.partial(jax.jit, static_argnums=1)
def compiled_cka(features, debiased):
    return linear_cka(features, debiased)


def cka_of(features, debiased=False):
    return np.asarray(compiled_cka(jnp.asarray(np.stack(features)), debiased))


compiled_mean = jax.jit(mean_over_pairs)


def related_features(rng, networks, n, d, common=0.7):
    shared = rng.normal(size=(n, d))
    return np.stack([common * shared + rng.normal(size=(n, d)) + 3 for _ in range(networks)])


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 30), (4, 4)])
def test_cka_equals_the_formula_in_sample_space(n, d, debiased):
    features = related_features(np.random.default_rng(0), 3, n, d)
    expected = dense_cka(features, debiased)
    # The trailing axes of an activation are one axis of features, and a list is a stack.
    found = linear_cka([jnp.asarray(f.reshape(n, 2, -1)) for f in features], debiased)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_is_invariant_to_rotation_scale_and_shift_but_not_to_every_linear_map(debiased):
    rng = np.random.default_rng(1)
    x, y = related_features(rng, 2, 50, 8, common=2)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    value = cka_of([x, y], debiased)[0, 1]
    assert cka_of([x, 1e6 * x @ rotation - 5], debiased)[0, 1] == pytest.approx(1, abs=1e-12)
    assert cka_of([x, 1e-30 * y @ rotation + 1e-31], debiased)[0, 1] == pytest.approx(value, abs=1e-12)
    stretched = y @ (rotation * np.geomspace(1, 100, 8))  # invertible
    assert abs(cka_of([x, stretched], debiased)[0, 1] - value) > 0.1


def test_cka_debiased_is_zero_for_independent_features_where_the_biased_is_not():
    """20 images of 40 features: the mean over 200 pairs is 0 within 4 standard errors, and the biased form is not."""
    rng = np.random.default_rng(2)
    pairs = jnp.asarray(rng.normal(size=(200, 2, 20, 40)))

    def within(values, wanted):
        return abs(values.mean() - wanted) < 4 * values.std(ddof=1) / np.sqrt(len(values))

    biased, debiased = (np.asarray(jax.vmap(lambda x, d=d: compiled_cka(x, d)[0, 1])(pairs)) for d in (False, True))
    assert within(debiased, 0)
    assert debiased.min() < 0 < debiased.max()
    assert biased.mean() > 0.5
    assert not within(biased, 0)
    # The scale is right too: half of the features in common is 1/2 for the unbiased form, and not 3/4.
    half = jnp.concatenate([pairs[:, :1, :, :20].repeat(2, 1), pairs[:, :, :, 20:]], 3)
    common = np.asarray(jax.vmap(lambda x: compiled_cka(x, True)[0, 1])(half))
    assert abs(common.mean() - 0.5) < 0.03
    assert abs(common.mean() - 0.75) > 0.03


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("d", [3, 50])
def test_edge_cases_of_cka(dtype, debiased, d):
    x, y = related_features(np.random.default_rng(3), 2, 30, d).astype(dtype)
    constant = np.full_like(x, 1 / 3)
    broken = y.copy()
    broken[4, 1] = np.nan
    endless = y.copy()
    endless[0, 0] = np.inf
    cka = np.asarray(cka_of([x, y, x, constant, broken, endless], debiased))
    assert cka.dtype == dtype
    undefined = [3, 4, 5]
    assert np.isnan(cka[undefined]).all()
    assert np.isnan(cka[:, undefined]).all()
    good = cka[:3, :3]
    np.testing.assert_array_equal(good, good.T)
    assert good[0, 2] == 1  # the same network twice
    assert (np.diag(good) == 1).all()
    assert 0 < good[0, 1] < 1
    # The others do no harm.
    rtol = 30 * np.finfo(dtype).eps
    np.testing.assert_allclose(good[:2, :2], cka_of([x, y, x, x, x, x], debiased)[:2, :2], rtol=rtol)


def test_cka_does_not_overflow_in_single_precision():
    x, y = related_features(np.random.default_rng(4), 2, 30, 5)
    expected = dense_cka([x, y], False)
    for scale in (1e-16, 1e16):
        scaled = jnp.asarray(scale * np.stack([x, y]), jnp.float32)
        np.testing.assert_allclose(compiled_cka(scaled, False), expected, rtol=1e-4)


def test_agreement_counts_equal_predictions():
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(4, 31, 3))
    logits[2] = logits[0] * 7
    logits[3, 5, 0] = np.nan
    found = np.asarray(agreement(jnp.asarray(logits)))
    predictions = logits[:3].argmax(2)
    for i, j in itertools.product(range(3), repeat=2):
        assert found[i, j] == pytest.approx(np.mean(predictions[i] == predictions[j]))
    assert found[0, 2] == 1
    assert np.isnan(found[3]).all()
    assert np.isnan(found[:, 3]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distance_of_parameters(dtype):
    rng = np.random.default_rng(6)
    params = {"a": rng.normal(size=(4, 3, 5)).astype(dtype), "b": [rng.normal(size=(4,)).astype(dtype)]}
    params["a"][2], params["b"][0][2] = params["a"][0], params["b"][0][0] + 1e-3
    params["a"][3, 0, 0] = np.inf
    flat = np.concatenate([params["a"].reshape(4, -1), params["b"][0][:, None]], 1)
    found = np.asarray(l2_distance(params))
    assert found.dtype == dtype
    for i, j in itertools.product(range(3), repeat=2):
        assert found[i, j] == pytest.approx(np.linalg.norm(flat[i] - flat[j]), rel=1e-5)
    assert (np.diag(found)[:3] == 0).all()
    assert np.isnan(found[3]).all()


def test_distance_does_not_form_all_pairs_of_parameters():
    params = {"w": jax.ShapeDtypeStruct((50, 2000), jnp.float32)}
    jaxpr = jax.make_jaxpr(l2_distance)(params).jaxpr
    assert largest(jaxpr) == 50 * 2000


def test_cka_holds_no_more_than_the_features():
    for n, d in ((2000, 10), (30, 1000)):
        jaxpr = jax.make_jaxpr(lambda x: linear_cka(x, True))(jax.ShapeDtypeStruct((5, n, d), jnp.float32)).jaxpr
        assert largest(jaxpr) == 5 * n * d


def largest(jaxpr):
    """Return the size of the largest array of a program, those within its loops included."""
    sizes = [out.aval.size for equation in jaxpr.eqns for out in equation.outvars]
    inner = (getattr(value, "jaxpr", value) for equation in jaxpr.eqns for value in equation.params.values())
    return max(sizes + [largest(body) for body in inner if hasattr(body, "eqns")])


def loop_jackknife(matrix):
    pairs = list(itertools.combinations(range(len(matrix)), 2))
    without = [np.mean([matrix[p] for p in pairs if i not in p]) for i in range(len(matrix))]
    m = len(matrix)
    return np.mean([matrix[p] for p in pairs]), np.sqrt((m - 1) / m * np.sum((without - np.mean(without)) ** 2))


def test_mean_over_pairs_is_that_of_the_members_that_count():
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(6, 6))
    matrix += matrix.T
    matrix[4] = matrix[:, 4] = np.nan  # no value
    is_finite = np.array([True, True, False, True, True, True])
    found = compiled_mean(jnp.asarray(matrix), jnp.asarray(is_finite))
    rest = [0, 1, 3, 5]
    np.testing.assert_allclose(found[:2], loop_jackknife(matrix[np.ix_(rest, rest)]), rtol=1e-12)
    assert found[2] == 6
    # An undefined pair of members that both have a value is not hidden.
    matrix[0, 1] = matrix[1, 0] = np.nan
    assert np.isnan(compiled_mean(jnp.asarray(matrix), jnp.asarray(is_finite))[0])


@pytest.mark.parametrize(("counting", "mean", "pairs"), [(0, np.nan, 0), (1, np.nan, 0), (2, 0.25, 1), (3, 0.25, 3)])
def test_mean_over_few_members(counting, mean, pairs):
    matrix = np.full((3, 3), 0.25, np.float32)
    found = compiled_mean(matrix, np.arange(3) < counting)
    np.testing.assert_equal(np.asarray(found[0]), np.float32(mean))
    np.testing.assert_equal(np.asarray(found[1]), np.float32(0 if counting == 3 else np.nan))
    assert (found[2].dtype, int(found[2])) == (jnp.int32, pairs)
    assert found[0].dtype == found[1].dtype == jnp.float32
    if counting == 0:
        assert np.isnan(compiled_mean(np.ones((1, 1)), np.ones(1, bool))[:2]).all()


def test_standard_error_over_pairs_is_right_where_pairs_share_networks():
    """Pair measures a_i + a_j + noise: the true standard error is known, that of independent pairs is far off."""
    networks, trials, noise = 12, 2000, 0.3
    rng = np.random.default_rng(8)
    own = rng.normal(size=(trials, networks))
    values = own[:, :, None] + own[:, None] + noise * np.triu(rng.normal(size=(trials, networks, networks)), 1)
    values = np.triu(values, 1) + np.triu(values, 1).transpose(0, 2, 1)
    found = jax.vmap(compiled_mean, (0, None))(jnp.asarray(values), jnp.ones(networks, bool))
    num_pairs = networks * (networks - 1) / 2
    true = np.sqrt(4 / networks + noise**2 / num_pairs)
    typical = np.sqrt(np.mean(np.asarray(found[1]) ** 2))
    assert typical == pytest.approx(true, rel=0.05)
    assert np.std(found[0]) == pytest.approx(true, rel=0.05)
    upper = values[:, *np.triu_indices(networks, 1)]
    assert np.sqrt(np.mean(upper.var(1, ddof=1) / num_pairs)) < true / 2


@pytest.mark.parametrize(("num_samples", "num_images", "batch_size"), [(90, 64, 16), (10, 37, 16), (3, 5, 8)])
def test_mixup_equals_a_loop_over_batches(num_samples, num_images, batch_size):
    x = np.random.default_rng(9).normal(size=(100, 2, 3))
    key = jax.random.key(3)
    draw = jax.jit(lambda n: draw_mixup(key, len(x), n, num_images, batch_size, 16.0, jnp.float64))
    draws = draw(jnp.int32(num_samples))
    expected = np.empty((num_images, 2, 3))
    for start in range(0, num_images, batch_size):
        rows = slice(start, min(start + batch_size, num_images))
        first, second, weight = (np.asarray(a)[rows] for a in draws)
        assert sorted(first) == sorted(second)
        assert len(set(weight)) == 1
        expected[rows] = weight[0] * x[first] + (1 - weight[0]) * x[second]
    counts = np.bincount(draws.first, minlength=100)
    assert (counts[num_samples:] == 0).all()
    assert counts[:num_samples].max() - counts[:num_samples].min() <= 1
    found = jax.jit(lambda n: mixup(key, jnp.asarray(x), n, num_images, batch_size))(jnp.int32(num_samples))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_mixup_draws_are_random():
    draw = jax.jit(jax.vmap(lambda key: draw_mixup(key, 20, 8, 16, 8, 16.0, jnp.float64)))
    many = draw(jax.random.split(jax.random.key(0), 4000))
    weight = np.asarray(many.weight[:, ::8]).ravel()

    def is_beta(weight, alpha):  # the moments, mean 1/2 and variance 1 / (8 alpha + 4), and the whole distribution
        error, spread = 4 / np.sqrt(len(weight)), weight.std(ddof=1)
        right_moments = abs(weight.mean() - 0.5) < error * spread and abs(spread**2 * (8 * alpha + 4) - 1) < 1.5 * error
        return right_moments and scipy.stats.kstest(weight, "beta", (alpha, alpha)).pvalue > 1e-3

    assert is_beta(weight, 16)
    assert not is_beta(weight, 24)
    assert not is_beta(weight, 1)
    # Every image is as likely at every place, and as partner of it: 4000 / 8 each, binomial.
    for place in (0, 5):
        for counts in (np.bincount(many.first[:, place], minlength=8), np.bincount(many.second[:, place], minlength=8)):
            assert abs(counts - 500).max() < 4.5 * np.sqrt(500 * 7 / 8)
    assert not np.array_equal(many.second[:, :8], many.second[:, 8:])


def test_batched_equals_alone():
    rng = np.random.default_rng(10)
    groups = jnp.asarray(np.stack([related_features(rng, 3, 20, 5) for _ in range(4)]))
    for measure in (linear_cka, lambda x: linear_cka(x, True), agreement, l2_distance):
        one = jax.jit(measure)
        alone = np.stack([one(group) for group in groups])
        together = jax.jit(lambda x, f=measure: (jax.vmap(f)(x), jax.lax.map(f, x)))(groups)
        for found in together:
            np.testing.assert_allclose(found, alone, rtol=1e-12)


ONES = np.ones((2, 5, 3))
MISTAKES = [
    (lambda: linear_cka(ONES[:1]), "linear_cka needs at least two networks, not 1"),
    (lambda: linear_cka([ONES[0], ONES[0, :4]]), r"linear_cka needs arrays of one shape .*, not \(4, 3\), \(5, 3\)"),
    (lambda: linear_cka([]), "linear_cka needs at least two networks, not 0"),
    (lambda: linear_cka(ONES[:, :0]), "linear_cka needs at least 2 images, not 0"),
    (lambda: linear_cka(ONES[:, :3], True), "linear_cka needs at least 4 images, not 3"),
    (lambda: linear_cka(ONES[:, :, :0]), r"linear_cka needs outputs that are not empty, .* \(2, 5, 0\)"),
    (lambda: linear_cka(ONES[0]), r"linear_cka needs an array of shape \(networks, images, ...\), not \(5, 3\)"),
    (lambda: linear_cka(ONES.astype(int)), "linear_cka needs floating-point numbers, not int64"),
    (lambda: agreement(ONES[:1]), "agreement needs at least two networks, not 1"),
    (lambda: agreement(ONES[:, :0]), "agreement needs at least 1 images, not 0"),
    (lambda: agreement(ONES[..., None]), r"agreement needs logits of shape \(networks, images, classes\), not"),
    (lambda: l2_distance({"w": ONES[:1]}), "l2_distance needs at least two networks, not 1"),
    (
        lambda: l2_distance({"w": ONES, "b": np.ones(3)}),
        r"first axis of all parameters, but their lengths are \[2, 3\]",
    ),
    (lambda: l2_distance({}), "l2_distance needs a pytree of arrays"),
    (lambda: l2_distance({"w": np.ones((2, 0))}), "l2_distance needs at least one parameter"),
    (lambda: l2_distance(ONES.astype(int)), "l2_distance needs floating-point parameters, not int64"),
    (
        lambda: mean_over_pairs(jnp.ones((2, 3)), jnp.ones(2, bool)),
        r"needs a matrix \(k, k\) and is_finite \(k,\), not",
    ),
    (lambda: mixup(jax.random.key(0), ONES, 3), "num_samples=3 of mixup must be between 1 and the 2 rows of x"),
    (lambda: mixup(jax.random.key(0), ONES[:0], 1), "mixup needs at least one image"),
    (lambda: mixup(jax.random.key(0), ONES, 2, num_images=0), "num_images=0 of mixup must be more than 0"),
    (lambda: mixup(jax.random.key(0), ONES, 2, alpha=0.5), "alpha=0.5 of mixup must be more than 0.5"),
    (lambda: mixup(jax.random.key(0), ONES.astype(int), 2), "mixup needs floating-point images, not int64"),
]


@pytest.mark.parametrize(("call", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_one_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()
