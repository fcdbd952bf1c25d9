import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import linear_barrier
from tests.landscape.paths.test_curves import evaluate_with, ring, ring_ends

pytestmark = pytest.mark.usefixtures("strict")


@pytest.mark.parametrize("degrees", [60, 90, 120])
def test_barrier_across_a_ring_is_known(degrees):
    """Half way, |w| = cos(angle / 2), and both ends have loss 0."""
    result = linear_barrier(5)(*ring_ends(degrees), evaluate_with(ring))
    expected = (np.cos(np.deg2rad(degrees / 2)) ** 2 - 1) ** 2
    np.testing.assert_allclose(result.train_loss_barrier, expected, rtol=1e-12)
    np.testing.assert_allclose(result.train_error_barrier, 100 * expected, rtol=1e-12)
    np.testing.assert_allclose(result.train_loss[0], 0, atol=1e-30)
    assert np.isnan(result.test_error_barrier)
    assert result.is_finite


def test_barrier_stands_on_the_line_between_unequal_ends():
    """A step of height 1 at t = .75 over ends 0 and 4 is not a barrier; a bump to 5 is one of 5 - 3."""
    for bump, barrier in ((3.0, 0.0), (5.0, 2.0)):
        table = jnp.array([0.0, 0.0, 1.0, bump, 4.0])

        def evaluate(w, table=table):
            value = table[jnp.round(4 * w).astype(jnp.int32)]
            return {"train_error": value, "train_loss": value, "test_error": 2 * value, "test_loss": value}

        result = linear_barrier(5)(jnp.array(0.0), jnp.array(1.0), evaluate)
        assert float(result.train_error_barrier) == barrier
        assert float(result.test_error_barrier) == 2 * barrier


def test_convex_loss_and_identical_networks_have_none():
    key = jax.random.key(0)
    x, end0, end1 = (jax.random.normal(jax.random.fold_in(key, i), (8, 5)) for i in range(3))

    def logistic(w, step, unused):
        return jnp.logaddexp(0, -jnp.vdot(x, w)) + jnp.vdot(w, w) / 9

    assert linear_barrier(11)(end0, end1, evaluate_with(logistic)).train_loss_barrier == 0

    def rough(w, step, unused):  # any rounding of the parameters would show
        return jnp.abs(jnp.sin(1e12 * w)).sum()

    same = linear_barrier(11)(end0, end0, evaluate_with(rough))
    assert same.train_loss_barrier == 0
    assert same.train_error_barrier == 0
    assert linear_barrier(11)(end0, end1, evaluate_with(rough)).train_loss_barrier > 0


def test_batched_equals_one_by_one_and_nan_harms_no_other():
    ends = [ring_ends(angle) for angle in (70.0, 100.0, 120.0)]
    end0, end1 = (jnp.stack([pair[i] for pair in ends]) for i in (0, 1))
    end0 = end0.at[1, 0].set(jnp.nan)

    def one(pair):
        return linear_barrier(5)(*pair, evaluate_with(ring))

    single = jax.jit(one)
    looped = jax.tree.map(lambda *leaves: np.stack(leaves), *[single((end0[i], end1[i])) for i in range(3)])
    for batched in (jax.jit(jax.vmap(one))((end0, end1)), jax.lax.map(one, (end0, end1))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), batched, looped)
    np.testing.assert_array_equal(looped.is_finite, [True, False, True])
    np.testing.assert_array_equal(np.isnan(looped.train_error_barrier), ~looped.is_finite)


def test_bad_input():
    with pytest.raises(UserError, match="num_points 2 must be a whole number of at least 3"):
        linear_barrier(2)
    with pytest.raises(UserError, match=r"leaf '' has shape \(2,\) in one network and \(3,\) in the other"):
        linear_barrier()(jnp.ones(2), jnp.ones(3), evaluate_with(ring))
