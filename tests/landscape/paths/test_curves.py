import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import bezier, bezier_connectivity, curve_training
from mdtree_jax.landscape.paths.curves import curve_learning_rate, random_network

pytestmark = pytest.mark.usefixtures("strict")


def evaluate_with(loss):
    """Error and loss of a problem without classes: the error is the loss in per cent."""

    def evaluate(params):
        value = loss(params, 0, None)
        return {"train_error": 100 * value, "train_loss": value}

    return evaluate


def ring(w, step, key):
    """A valley along the unit circle."""
    return (jnp.vdot(w, w) - 1) ** 2


def ring_ends(degrees):
    return jnp.array([1.0, 0.0]), jnp.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])


def best_ring_middle(degrees):
    """The middle point of least expected loss, by quadrature and a general minimiser."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    t = (nodes[:, None] + 1) / 2
    end0, end1 = map(np.asarray, ring_ends(degrees))

    def expected(w1):
        w = (1 - t) ** 2 * end0 + 2 * t * (1 - t) * w1 + t**2 * end1
        return float(weights @ ((w * w).sum(1) - 1) ** 2 / 2)

    found = minimize(expected, end0 + end1, tol=1e-12)
    return found.x, expected


def test_bezier_hits_its_ends_and_a_straight_line():
    w0, w2 = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}, {"a": jnp.array([5.0, -2.0]), "b": jnp.array(-1.0)}
    middle = jax.tree.map(lambda a, b: (a + b) / 2, w0, w2)
    far = jax.tree.map(lambda a: a + 100, w0)
    for t, end in ((0.0, w0), (1.0, w2)):
        jax.tree.map(np.testing.assert_array_equal, bezier(w0, far, w2, jnp.array(t)), end)
    for t in np.linspace(0, 1, 7):
        line = jax.tree.map(lambda a, b, t=t: (1 - t) * a + t * b, w0, w2)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), bezier(w0, middle, w2, t), line)
    # At t = 1/2 the middle point counts half.
    np.testing.assert_allclose(bezier(w0, far, w2, jnp.array(0.5))["b"], (3 + 2 * 103 - 1) / 4)


def test_learning_rate_is_constant_then_linear_then_one_percent():
    expected = {0: 1, 250: 1, 500: 1, 600: 1 - 0.99 / 4, 700: 0.505, 800: 1 - 0.99 * 3 / 4, 900: 0.01, 999: 0.01}
    for step, factor in expected.items():
        rate = curve_learning_rate(jnp.int32(step), 1000, 0.02, jnp.float64)
        np.testing.assert_allclose(rate, 0.02 * factor, rtol=1e-12)


def test_other_schedules():
    for step, factor in {0: 1, 250: 0.75, 500: 0.5, 750: 0.25}.items():
        turn = np.arccos(2 * factor - 1) / np.pi  # half a wave is down to this factor at this share of the steps
        rate = curve_learning_rate(jnp.int32(round(1000 * turn)), 1000, 0.02, jnp.float64, "cosine")
        np.testing.assert_allclose(rate, 0.02 * factor, rtol=3e-3)
        np.testing.assert_allclose(curve_learning_rate(jnp.int32(step), 1000, 0.02, jnp.float64, "constant"), 0.02)


def test_training_is_the_stated_recursion():
    """A plain loop over the same t, with a gradient by hand of loss = sum(w^3) that also depends on the step."""
    end0, end1, key = np.array([0.3, -0.2]), np.array([0.1, 0.5]), jax.random.key(5)

    def loss(w, step, key):
        return jnp.sum(w**3) * (1 + step.astype(w.dtype)) + jax.random.uniform(key, dtype=w.dtype)

    training = curve_training(40, 0.02, 0.8, 0.3, 5)
    state = training.advance(training.start(end0, end1, key), loss, 40)
    draw = jax.jit(lambda key: jax.random.uniform(key, dtype=jnp.float64))
    middle, velocity, tail = (end0 + end1) / 2, np.zeros(2), []
    for step in range(40):
        t_key, batch_key = jax.random.split(jax.random.fold_in(key, 1 + step))
        t = float(draw(t_key))
        w = (1 - t) ** 2 * end0 + 2 * t * (1 - t) * middle + t**2 * end1
        tail.append((w**3).sum() * (1 + step) + float(draw(batch_key)))
        gradient = 3 * w**2 * (1 + step) + 0.3 * w
        velocity = 0.8 * velocity + 2 * t * (1 - t) * gradient
        rate = 0.02 if step <= 20 else max(0.02 * (1 - 0.99 * (step / 40 - 0.5) / 0.4), 0.0002)
        middle = middle - rate * velocity
    np.testing.assert_allclose(state.middle, middle, rtol=1e-11)
    result = training.finish(state, lambda w: {"train_error": w.sum(), "train_loss": w.sum()})
    np.testing.assert_allclose(result.final_loss, np.mean(tail[-4:]), rtol=1e-11)


def test_quadratic_loss_has_its_closed_form_middle_point():
    """SGD on a quadratic is unbiased, so the mean over keys is the optimum of the expected loss over t ~ U(0, 1).

    With b = 2t(1-t): E b = 1/3, E b^2 = 2/15, E b (1-t)^2 = E b t^2 = 1/10, hence
    w1 = 15/2 ((A + wd)^-1 A c / 3 - (w0 + w2) / 10).
    """
    curvature, centre, decay = np.array([0.5, 2.0]), np.array([1.0, -1.0]), 0.4
    w0, w2 = np.array([2.0, 0.0]), np.array([0.5, -3.0])

    def loss(w, step, key):
        return jnp.sum(jnp.array(curvature) * (w - jnp.array(centre)) ** 2) / 2

    connect = bezier_connectivity(2000, 0.1, 0.5, decay, 5)
    keys = jax.random.split(jax.random.key(0), 64)
    ends = jnp.array(w0), jnp.array(w2)
    middles = jax.jit(jax.vmap(lambda key: connect(*ends, loss, evaluate_with(loss), key).middle))(keys)
    mean, se = np.mean(middles, 0), np.std(middles, 0, ddof=1) / 8

    def optimum(decay):
        return 7.5 * (curvature * centre / (curvature + decay) / 3 - (w0 + w2) / 10)

    assert (np.abs(mean - optimum(decay)) < 4 * se).all(), (mean, optimum(decay), se)
    assert (np.abs(mean - 1.5 * optimum(decay)) > 4 * se).all()
    assert (np.abs(mean - optimum(1.5 * decay)) > 4 * se).all()


@pytest.mark.parametrize("degrees", [90, 120])
def test_curve_around_a_ring_is_the_best_quadratic(degrees):
    end0, end1 = ring_ends(degrees)
    connect = bezier_connectivity(4000, 0.05, 0.9, 0.0)
    result = connect(end0, end1, ring, evaluate_with(ring), jax.random.key(1))
    best, expected = best_ring_middle(degrees)
    np.testing.assert_allclose(result.middle, best, atol=0.02)
    assert expected(np.asarray(result.middle)) < 1.02 * expected(best)
    # The straight line's peak is known: half way, |w| = cos(angle / 2).
    line = 100 * (np.cos(np.deg2rad(degrees / 2)) ** 2 - 1) ** 2
    assert -result.mode_connectivity_peak < 0.1 * line
    np.testing.assert_allclose(result.mode_connectivity_peak, -max(result.train_error[i] for i in (2, 4, 6)))
    assert np.isnan(result.test_error).all()
    assert result.is_finite


@pytest.mark.parametrize(
    ("error", "connectivity", "peak"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0, 0], 0, 0),
        ([2, 9, 3, 3, 3, 3, 3, 3, 4], (2 + 4) / 2 - 9, -3),  # the peak looks at three points only
        ([6, 1, 3, 5, 5, 5, 8, 7, 10], 8 - 1, -8),  # below the ends: positive
        ([1, 1, 1, 1, 2, 1, 0, 1, 1], 1 - 2, -2),  # the first of equal deviations
        ([20, 2, 2, 2, 2, 2, 2, 2, 0], 10 - 20, -2),  # an end itself
    ],
)
def test_connectivity_of_a_given_curve(error, connectivity, peak):
    """Ends 0 and 1 and no gradient: the parameter is t, and the error is read from a table."""
    table = jnp.array(error, jnp.float64)

    def evaluate(w):
        e = table[jnp.round(8 * w).astype(jnp.int32)]
        return {"train_error": e, "train_loss": e / 10, "test_error": e + 1, "test_loss": e / 5}

    connect = bezier_connectivity(1, weight_decay=0.0)
    result = connect(jnp.array(0.0), jnp.array(1.0), lambda w, step, key: 0 * w, evaluate, jax.random.key(0))
    np.testing.assert_array_equal(result.t, np.linspace(0, 1, 9))
    np.testing.assert_array_equal(result.train_error, error)
    np.testing.assert_array_equal(result.test_error, np.array(error) + 1)
    np.testing.assert_allclose(result.test_loss, np.array(error) / 5)
    assert (result.mode_connectivity, result.mode_connectivity_peak) == (connectivity, peak)


def test_pieces_make_the_whole_in_one_compilation():
    end0, end1 = ring_ends(100)
    training = curve_training(100, num_points=5)
    whole = bezier_connectivity(100, num_points=5)(end0, end1, ring, evaluate_with(ring), jax.random.key(2))
    advance = jax.jit(lambda state, num_steps: training.advance(state, ring, num_steps))
    state = training.start(end0, end1, jax.random.key(2))
    for num_steps in (1, 30, 0, 50, 1000):  # past the end is the end
        state = advance(state, jnp.int32(num_steps))
    assert int(state.step) == 100
    assert advance._cache_size() == 1
    np.testing.assert_allclose(state.middle, whole.middle, rtol=1e-12)
    np.testing.assert_allclose(training.finish(state, evaluate_with(ring)).final_loss, whole.final_loss, rtol=1e-12)


def test_batched_equals_one_by_one_and_a_diverged_member_harms_no_other():
    """Members with steps and rates of their own: one diverges in training, one begins as NaN."""
    angles = (80.0, 100.0, 120.0, 90.0, 60.0)
    ends = [ring_ends(angle) for angle in angles]
    end0, end1 = (jnp.stack([pair[i] for pair in ends]) for i in (0, 1))
    end1 = end1.at[3].set(jnp.nan)
    rates, steps = jnp.array([0.01, 1e4, 0.02, 0.01, 0.01]), jnp.array([50, 60, 60, 60, 40], jnp.int32)
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 5))  # raw key data will do

    def one(end0, end1, key, rate, num_steps):
        return bezier_connectivity(num_steps, rate, num_points=5, init="published")(
            end0, end1, ring, evaluate_with(ring), key
        )

    members = end0, end1, keys, rates, steps
    single = jax.jit(one)
    looped = [single(*(array[i] for array in members)) for i in range(5)]
    looped = jax.tree.map(lambda *leaves: np.stack(leaves), *looped)
    for batched in (jax.jit(jax.vmap(one))(*members), jax.lax.map(lambda member: one(*member), members)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), batched, looped)
    np.testing.assert_array_equal(looped.is_finite, [True, False, True, False, True])
    for values in (looped.mode_connectivity, looped.mode_connectivity_peak, looped.train_error[:, 2]):
        np.testing.assert_array_equal(np.isnan(values), ~looped.is_finite)


def test_an_error_without_a_finite_loss_is_no_error():
    """A network of NaN makes some errors: they must not pass for a measurement."""
    connect = bezier_connectivity(1, num_points=5)

    def evaluate(w):
        return {"train_error": jnp.where(w > 0.4, 90.0, 1.0), "train_loss": jnp.where(w > 0.4, jnp.inf, 0.5)}

    result = connect(jnp.array(0.0), jnp.array(1.0), lambda w, step, key: 0 * w, evaluate, jax.random.key(0))
    np.testing.assert_array_equal(np.isnan(result.train_error), [False, False, True, True, True])
    assert not result.is_finite
    assert np.isnan(result.mode_connectivity)


def test_random_start_is_a_freshly_constructed_network():
    shapes = {"conv": {"kernel": (3, 3, 40, 50)}, "norm": {"scale": (900,), "bias": (900,)}}
    shapes |= {"head": {"kernel": (400, 30), "bias": (30,)}}
    params = jax.tree.map(np.ones, shapes, is_leaf=lambda x: isinstance(x, tuple))
    start = jax.device_get(jax.jit(random_network)(jax.random.key(3), params))
    assert not start["norm"]["bias"].any()
    for values, low, high in (
        (start["conv"]["kernel"], -(360**-0.5), 360**-0.5),
        (start["head"]["kernel"], -(400**-0.5), 400**-0.5),
        (start["norm"]["scale"], 0, 1),
        (start["head"]["bias"], -(400**-0.5), 400**-0.5),
    ):
        values = np.asarray(values).ravel()
        assert low <= values.min() < values.max() <= high
        n, width = values.size, high - low
        assert abs(values.mean() - (low + high) / 2) < 4 * width / np.sqrt(12 * n)
        # The variance of a uniform distribution is width^2 / 12, its estimate's s.d. width^2 sqrt(1 / (180 n)).
        deviation = (values.var() - width**2 / 12) / (width**2 * np.sqrt(1 / (180 * n)))
        assert abs(deviation) < 4
        assert n < 100 or abs((values.var() * 1.5 - width**2 / 12) / (width**2 * np.sqrt(1 / (180 * n)))) > 4


def test_float32_stays_float32():
    with jax.enable_x64(False):
        end0, end1 = ring_ends(90)
        connect = jax.jit(lambda *ends: bezier_connectivity(10)(*ends, ring, evaluate_with(ring), jax.random.key(0)))
        result = connect(end0, end1)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(result)} == {"float32", "bool"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps 0 must be a whole number of at least 1"),
        ({"num_points": 8}, r"num_points 8 must be 5, 9, 13, \.\.\."),
        ({"num_points": 1}, "num_points 1 must be 5, 9"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 must be a finite number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan must be a finite number above 0"),
        ({"momentum": 1.0}, "momentum 1 must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay -0.1 must be a finite number of at least 0"),
        ({"num_steps": 2.5}, "num_steps 2.5 must be a whole number"),
        ({"learning_rate": float("inf")}, "learning_rate inf must be a finite number above 0"),
        ({"schedule": "step"}, "unknown schedule .step.; available: published, constant, cosine"),
        ({"init": "linaer"}, r"unknown init 'linaer' \(did you mean 'linear'\?\); available: linear, published"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        bezier_connectivity(**options)


@pytest.mark.parametrize(
    ("end0", "end1", "message"),
    [
        ({"a": {"b": np.ones(2)}}, {"a": {"b": np.ones(3)}}, r"leaf 'a/b' has shape \(2,\) in one network and \(3,\)"),
        ({"a": np.ones(2)}, {"b": np.ones(2)}, r"the second network has no leaf 'a', the other one has, of shape"),
        ({"a": np.ones(2)}, {"a": np.ones(2, np.float32)}, "leaf 'a' is float64 in one network and float32"),
        (
            {"a": np.ones(2, int)},
            {"a": np.ones(2)},
            "the first network hold 'a' of type int64; expected floating-point",
        ),
        ({}, {}, "the first network have no arrays"),
        ([np.ones(1)], (np.ones(1),), "containers of different types"),
    ],
)
def test_bad_ends(end0, end1, message):
    connect = functools.partial(bezier_connectivity(1), loss=ring, evaluate=evaluate_with(ring), key=jax.random.key(0))
    with pytest.raises(UserError, match=message):
        connect(end0, end1)


def test_bad_evaluation():
    connect = bezier_connectivity(1)
    for found in ({"train_error": jnp.array(1.0)}, {"train_error": 1.0, "train_loss": 1.0, "test_loss": 1.0}):
        with pytest.raises(UserError, match=r"evaluate\(params\) returned .*expected train_error and train_loss"):
            connect(jnp.ones(2), jnp.ones(2), ring, lambda w, found=found: found, jax.random.key(0))
    with pytest.raises(
        UserError, match=r"evaluate\(params\) returned arrays: {'train_loss': \(2,\)}; expected one number"
    ):
        connect(jnp.ones(2), jnp.ones(2), ring, lambda w: {"train_error": w[0], "train_loss": w}, jax.random.key(0))
    with pytest.raises(UserError, match=r"loss\(params, step, key\) returns .*\(2,\).*; expected one number"):
        connect(jnp.ones(2), jnp.ones(2), lambda w, step, key: w, evaluate_with(ring), jax.random.key(0))
