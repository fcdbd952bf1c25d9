"""Further measures of sharpness: worst-case increase of the loss in a ball; a scale-invariant trace. JAX.

The scale-invariant trace is sum over i of w_i² H_ii, the second-order increase of the loss when every parameter is
multiplied by 1 + noise (relative flatness: Petzka et al., 2021; element-wise adaptive sharpness: Kwon et al., 2021).
Any trace estimator returns it at no extra cost, with `weights=scale_invariant_weights(params)`. Multiplying the
incoming weights of a ReLU unit by c and the outgoing ones by 1/c changes the trace of the Hessian but not this sum; the
same holds for the scale of weights in front of BatchNorm: with w_i -> c w_i, H_ii becomes H_ii / c².
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mdtree_jax.landscape.arguments import check_params, check_scalar
from mdtree_jax.landscape.options import check_count, check_positive
from mdtree_jax.landscape.pytrees import opaque, tree_axpy, tree_signs
from mdtree_jax.landscape.safe import normalize, safe_divide, safe_norm


def scale_invariant_weights(params: Any) -> Any:
    """Return the weights w_i² that make a trace invariant under rescaling of units."""
    return jax.tree.map(lambda leaf: leaf * leaf, params)


class BallSharpness(NamedTuple):
    """The largest increase of the loss found in a ball around the parameters.

    Attributes:
        increase: max of loss(params + d) - loss(params) over the points visited, >= 0; NaN if the loss at the
            parameters is not finite.
        radius: of the ball, in units of the parameters.
        num_gradients: number of gradients of the loss used.
        is_finite: whether the increase is finite.
    """

    increase: Float[Array, ""]
    radius: Float[Array, ""]
    num_gradients: Int[Array, ""]
    is_finite: Bool[Array, ""]


def ball_sharpness(
    radius: float = 0.05, num_steps: int = 5, relative: bool = False
) -> Callable[[Callable, Any], BallSharpness]:
    """Return an estimator of the worst-case increase of the loss in a ball, max over ‖d‖ <= radius of L(w + d) - L(w).

    Foret et al. (2021) take a single step d = radius * g / ‖g‖ along the gradient g = ∇L(w). Here the step is repeated
    with the gradient at w + d, which increases a loss that is convex on the ball at every step, and the best point is
    kept. The result is a lower bound of the maximum. If the gradient at w is zero, the first d is a fixed direction.

    Args:
        radius: of the ball; with `relative`, as a fraction of the norm of the parameters, which makes networks of
            different size comparable.
        num_steps: number of steps; the published method uses 1.
        relative: see `radius`.

    Returns:
        `estimate(loss, params) -> BallSharpness` for a scalar `loss(params)`. It raises `UserError` if the loss is not
        scalar, there are no parameters, or they are not floating-point numbers.

    Raises:
        UserError: a radius that is not positive, fewer than 1 step.

    | case | increase |
    |---|---|
    | gradient zero at a minimum | radius² / 2 times the top eigenvalue, for a quadratic and enough steps |
    | constant loss, or all parameters zero with `relative` | 0 |
    | loss or gradient NaN at the parameters | NaN |
    | loss infinite or NaN at a point visited in the ball | infinite or NaN, is_finite false |

    >>> result = ball_sharpness(radius=0.1)(lambda w: 2.0 * (w * w).sum(), jnp.ones(3))
    >>> round(float(result.increase), 5)  # 4 sqrt(3) 0.1 + 2 * 0.01
    0.71282
    """
    check_positive("radius", radius)
    check_count("num_steps", num_steps)

    def estimate(loss: Callable[[Any], jax.Array], params: Any) -> BallSharpness:
        check_params(params)
        check_scalar(jax.eval_shape(loss, params))
        length = radius * safe_norm(params) if relative else jnp.asarray(radius, jax.tree.leaves(params)[0].dtype)
        value_and_grad = jax.value_and_grad(loss)

        def step(index: jax.Array, state: tuple) -> tuple:
            direction, _, best = state
            # The first turn is at the parameters themselves, so that the loss is compiled once.
            value, gradient = value_and_grad(tree_axpy(jnp.where(index == 0, 0, length), direction, params))
            found = jnp.where((value <= best) & (index > 0), best, value)
            # Where the loss overflows, its gradient has no direction, and what comes after says nothing.
            found = jnp.where(jnp.isfinite(best), found, best)
            return _direction(gradient, direction), jnp.where(index == 0, value, state[1]), found

        zero = jnp.zeros_like(length)
        start = _fixed_direction(params), zero, zero
        _, value, best = lax.fori_loop(0, opaque(num_steps + 1), step, start)
        increase = best - value
        return BallSharpness(increase, length, jnp.full((), num_steps + 1, jnp.int32), jnp.isfinite(increase))

    return estimate


def relative_increase(sharpness: BallSharpness, loss: jax.Array) -> jax.Array:
    """Return the increase over 1 + the loss at the parameters (Keskar et al., 2017), without unit."""
    return safe_divide(sharpness.increase, 1 + loss)


def _direction(gradient: Any, otherwise: Any) -> Any:
    """Return the gradient's direction, or the other one where it is zero."""
    is_zero = safe_norm(gradient) == 0
    return jax.tree.map(lambda g, o: jnp.where(is_zero, o, g), normalize(gradient), otherwise)


def _fixed_direction(params: Any) -> Any:
    return normalize(jax.tree.map(lambda signs: signs[0], tree_signs(jax.random.key(0), params, 1)))
