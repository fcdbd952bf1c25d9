"""The barrier on the straight line between two networks (Frankle et al., 2020; Entezari et al., 2022). JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mdtree_jax.landscape.options import check_count
from mdtree_jax.landscape.paths.points import all_finite, check_pair, evaluate_path, interpolate


class LinearBarrier(NamedTuple):
    """Errors and losses on the straight line between two networks at T points, and the barriers.

    Attributes:
        t: equally spaced from 0 to 1.
        train_error: percent.
        train_loss: nats.
        test_error: percent; NaN, like the two test barriers, if `evaluate` has no test side.
        test_loss: nats.
        train_error_barrier: max over t of e(t) - ((1 - t) e(0) + t e(1)), points; at least 0.
        train_loss_barrier: the same for the loss, nats.
        test_error_barrier: points.
        test_loss_barrier: nats.
        is_finite: whether the training losses are finite; if not, the barriers of the training side are NaN.
    """

    t: Float[Array, " T"]
    train_error: Float[Array, " T"]
    train_loss: Float[Array, " T"]
    test_error: Float[Array, " T"]
    test_loss: Float[Array, " T"]
    train_error_barrier: Float[Array, ""]
    train_loss_barrier: Float[Array, ""]
    test_error_barrier: Float[Array, ""]
    test_loss_barrier: Float[Array, ""]
    is_finite: Bool[Array, ""]


def linear_barrier(num_points: int = 11) -> Callable[..., LinearBarrier]:
    """Return `measure(end0, end1, evaluate) -> LinearBarrier` at `num_points` equally spaced points including the ends.

    barrier = max over t of f(t) - ((1 - t) f(0) + t f(1)), with f at the parameters (1 - t) end0 + t end1. It is never
    negative, because t = 0 is included, and 0 for a convex loss and for identical networks. `evaluate`: see
    `evaluate_path`.

    Raises:
        UserError: num_points < 3. `measure` raises the errors of `check_pair`.
    """
    check_count("num_points", num_points, at_least=3)  # both ends and a point between

    def measure(end0: Any, end1: Any, evaluate: Callable[[Any], dict[str, jax.Array]]) -> LinearBarrier:
        check_pair(end0, end1)
        end0, end1 = jax.tree.map(jnp.asarray, (end0, end1))
        t = jnp.linspace(0, 1, num_points, dtype=jnp.result_type(jax.tree.leaves(end0)[0]))
        measured = evaluate_path(lambda t: interpolate(end0, end1, t), evaluate, t)
        barriers = {f"{name}_barrier": _barrier(values, t) for name, values in measured.items()}
        return LinearBarrier(t, **measured, **barriers, is_finite=all_finite(measured["train_loss"]))

    return measure


def _barrier(values: jax.Array, t: jax.Array) -> jax.Array:
    height = (values - interpolate(values[0], values[-1], t)).max()
    return jnp.where(jnp.isfinite(values).all(), height, jnp.nan)
