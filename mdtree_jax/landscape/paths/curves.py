"""Mode connectivity: a quadratic Bézier curve of low loss between two networks (Garipov et al., 2018). JAX."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.landscape.options import check_count, check_positive
from mdtree_jax.landscape.paths.points import add_scaled, all_finite, check_pair, evaluate_path

INITS = ("linear", "published")

#: Learning rate relative to its maximum, as a function of the fraction of steps done.
SCHEDULES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "published": lambda done: jnp.clip(1 - 0.99 * (done - 0.5) / 0.4, 0.01, 1),
    "constant": jnp.ones_like,
    "cosine": lambda done: (1 + jnp.cos(jnp.pi * done)) / 2,
}


class CurveResult(NamedTuple):
    """A trained curve, measured at T points.

    Attributes:
        t: equally spaced from 0 to 1.
        train_error: percent.
        train_loss: nats, without weight decay.
        test_error: percent; NaN if `evaluate` has no test side.
        test_loss: nats.
        mode_connectivity: (e0 + e1) / 2 - e_u in points, with e the training error and u the first point where it is
            farthest from the mean of the endpoints. Negative: a barrier.
        mode_connectivity_peak: minus the largest training error at t = .25, .5, .75, percent; 0 is a path without
            error.
        middle: the trained middle point.
        final_loss: mean batch loss of the last tenth of the steps, without weight decay, nats.
        is_finite: whether middle point, final loss and training losses are finite; if not, both connectivities are NaN.
    """

    t: Float[Array, " T"]
    train_error: Float[Array, " T"]
    train_loss: Float[Array, " T"]
    test_error: Float[Array, " T"]
    test_loss: Float[Array, " T"]
    mode_connectivity: Float[Array, ""]
    mode_connectivity_peak: Float[Array, ""]
    middle: Any
    final_loss: Float[Array, ""]
    is_finite: Bool[Array, ""]


class CurveState(NamedTuple):
    """The state of a curve during training; arrays only.

    Attributes:
        end0: parameters at t = 0, fixed.
        middle: parameters w1, trained.
        end1: parameters at t = 1, fixed.
        velocity: the momentum buffer.
        key: random key of the whole training, never changed.
        step: steps done, int32.
        tail_loss: sum of the batch losses of the last tenth of the steps.
    """

    end0: Any
    middle: Any
    end1: Any
    velocity: Any
    key: jax.Array
    step: jax.Array
    tail_loss: jax.Array


class CurveTraining(NamedTuple):
    """Pure functions that train one curve in several calls; `bezier_connectivity` runs all of them.

    Attributes:
        start: `start(end0, end1, key) -> CurveState`.
        advance: `advance(state, loss, num_steps) -> CurveState` after that many steps, or fewer if the training ends;
            `num_steps` may be traced. With `block=N`, a divisor of all numbers of steps, they go in loops of this
            length, which a compiler knows. To use your own middle point, call `state._replace(middle=...)` first.
        finish: `finish(state, evaluate) -> CurveResult`.
    """

    start: Callable[[Any, Any, jax.Array], CurveState]
    advance: Callable[..., CurveState]
    finish: Callable[..., CurveResult]


def bezier(w0: Any, w1: Any, w2: Any, t: jax.Array) -> Any:
    """Return w(t) = (1-t)^2 w0 + 2t(1-t) w1 + t^2 w2 on pytrees."""

    def point(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
        s = lax.convert_element_type(t, a.dtype)
        return (1 - s) * (1 - s) * a + 2 * s * (1 - s) * b + s * s * c

    return jax.tree.map(point, w0, w1, w2)


def curve_learning_rate(
    step: jax.Array, num_steps: Any, learning_rate: Any, dtype: Any, schedule: str = "published"
) -> jax.Array:
    """Return the learning rate of a step; steps count from 0.

    `published` is constant for half of the steps, decreases linearly to 1 % until 90 %, and stays at 1 %; `cosine`
    decreases to 0 along half a cosine wave.
    """
    step, num_steps, learning_rate = (jnp.asarray(value).astype(dtype) for value in (step, num_steps, learning_rate))
    return learning_rate * SCHEDULES[schedule](step / num_steps)


def bezier_connectivity(
    num_steps: int | jax.Array = 19_000,
    learning_rate: float | jax.Array = 0.01,
    momentum: float = 0.9,
    weight_decay: float | jax.Array = 5e-4,
    num_points: int = 9,
    init: str = "linear",
    schedule: str = "published",
) -> Callable[..., CurveResult]:
    """Return `connect(end0, end1, loss, evaluate, key) -> CurveResult`, which trains and measures a curve.

    Minimises E_t [ loss(w(t)) + weight_decay / 2 |w(t)|^2 ], t ~ U(0, 1), over the middle point w1 of
    w(t) = (1-t)^2 end0 + 2t(1-t) w1 + t^2 end1 by SGD with momentum, with one t and one batch per step:
    g = 2t(1-t) (dloss/dw + weight_decay w), v = momentum v + g, w1 = w1 - rate v, with the rate of
    `curve_learning_rate`.

    The defaults are the published settings, except that the middle point is initialized according to `init`, and 9
    points are measured.

    - `init="linear"`: the mean of the endpoints, as in the code of Garipov et al. (2018).
    - `init="published"`: a new random network. The measurement code of Yang et al. (2021) does not use the linear
      start: its middle point keeps the initialization of its layers. Weight matrices and kernels are drawn from
      U(-1/sqrt(n), 1/sqrt(n)), with n the inputs of a unit (all axes but the last); so is a bias next to a matrix, with
      the n of the matrix; a vector named `scale` is drawn from U(0, 1); other vectors are 0.

    Args:
        num_steps: number of SGD steps; may be traced, like learning rate and weight decay.
        learning_rate: of the first half.
        momentum: of SGD.
        weight_decay: factor of the regulariser, applied to all parameters of w(t).
        num_points: number of equally spaced t that are measured; 5, 9, 13, ..., so that they include .25, .5 and .75.
        init: `linear` or `published`.
        schedule: of the learning rate: `published`, `constant` or `cosine`, see `curve_learning_rate`.

    `connect` takes `loss(params, step, key) -> scalar`, the mean loss of a batch that the closure draws from the step
    (int32 from 0) or its key, with BatchNorm in training mode; `evaluate(params)`, see `evaluate_path`, which
    recomputes BatchNorm statistics (`recompute_batch_stats`); and a key for t, batches and a random start.

    Raises:
        UserError: num_steps < 1, num_points not 5, 9, 13, ..., an unknown init, learning_rate <= 0, momentum outside
            [0, 1), weight_decay < 0. `connect` raises it for endpoints with different leaves, shapes or types;
            parameters that are not floating-point; a loss that is not one number; invalid results of `evaluate`.

    >>> def loss(w, step, key):  # a valley along the unit circle
    ...     return (w @ w - 1) ** 2
    >>> connect = bezier_connectivity(num_steps=2000, weight_decay=0.0)
    >>> def evaluate(w):
    ...     return {"train_error": 100 * loss(w, 0, 0), "train_loss": loss(w, 0, 0)}
    >>> east, north = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    >>> result = connect(east, north, loss, evaluate, jax.random.key(0))
    >>> float(evaluate((east + north) / 2)["train_error"]), round(float(-result.mode_connectivity_peak), 2) < 0.2
    (25.0, True)
    """
    training = curve_training(num_steps, learning_rate, momentum, weight_decay, num_points, init, schedule)

    def connect(end0: Any, end1: Any, loss: Callable, evaluate: Callable, key: jax.Array) -> CurveResult:
        state = training.start(end0, end1, key)
        return training.finish(training.advance(state, loss, num_steps), evaluate)

    return connect


class _Options(NamedTuple):
    num_steps: int | jax.Array
    learning_rate: float | jax.Array
    momentum: float
    weight_decay: float | jax.Array
    num_points: int
    init: str
    schedule: str


def curve_training(
    num_steps: int | jax.Array = 19_000,
    learning_rate: float | jax.Array = 0.01,
    momentum: float = 0.9,
    weight_decay: float | jax.Array = 5e-4,
    num_points: int = 9,
    init: str = "linear",
    schedule: str = "published",
) -> CurveTraining:
    """Return the functions that `bezier_connectivity` runs, for a training that is cut into calls."""
    num_steps, learning_rate, weight_decay = map(_plain, (num_steps, learning_rate, weight_decay))
    options = _Options(num_steps, learning_rate, momentum, weight_decay, num_points, init, schedule)
    check_choice("init", init, INITS)
    check_choice("schedule", schedule, SCHEDULES)
    # A JAX array may be traced: its value cannot be looked at now.
    if not isinstance(num_steps, jax.Array):
        check_count("num_steps", num_steps)
    check_count("num_points", num_points)
    if num_points < 5 or num_points % 4 != 1:
        raise UserError(f"num_points {num_points} must be 5, 9, 13, ..., so that t = .25, .5, .75 are among them")
    if not isinstance(learning_rate, jax.Array):
        check_positive("learning_rate", learning_rate)
    if not 0 <= momentum < 1:
        raise UserError(f"momentum {momentum:g} must be at least 0 and below 1")
    if not isinstance(weight_decay, jax.Array) and not 0 <= weight_decay < math.inf:
        raise UserError(f"weight_decay {weight_decay:g} must be a finite number of at least 0")
    return CurveTraining(
        functools.partial(_start, options), functools.partial(_advance, options), functools.partial(_finish, options)
    )


def _plain(value: Any) -> Any:
    """Return the number in a NumPy array of one."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _dtype(params: Any) -> Any:
    return jnp.result_type(jax.tree.leaves(params)[0])


def _start(options: _Options, end0: Any, end1: Any, key: jax.Array) -> CurveState:
    check_pair(end0, end1)
    end0, end1 = jax.tree.map(jnp.asarray, (end0, end1))
    if options.init == "linear":
        middle = jax.tree.map(lambda a, b: (a + b) / 2, end0, end1)
    else:
        middle = random_network(jax.random.fold_in(key, 0), end0)
    zeros = jax.tree.map(jnp.zeros_like, middle)
    return CurveState(end0, middle, end1, zeros, key, jnp.int32(0), jnp.zeros((), _dtype(end0)))


def random_network(key: jax.Array, params: Any) -> Any:
    """Return a fresh network of the shapes of `params`, by the rule that `bezier_connectivity` states."""
    leaves, structure = jax.tree.flatten_with_path(params)
    fan_in = {path[:-1]: math.prod(leaf.shape[:-1]) for path, leaf in leaves if leaf.ndim > 1}
    drawn = []
    for index, (path, leaf) in enumerate(leaves):
        draw = functools.partial(jax.random.uniform, jax.random.fold_in(key, index), leaf.shape, leaf.dtype)
        if leaf.ndim > 1 or path[:-1] in fan_in:
            bound = (math.prod(leaf.shape[:-1]) if leaf.ndim > 1 else fan_in[path[:-1]]) ** -0.5
            drawn.append(draw(-bound, bound))
        elif path and jax.tree_util.keystr(path[-1:], simple=True) == "scale":
            drawn.append(draw())
        else:
            drawn.append(jnp.zeros_like(leaf))
    return jax.tree.unflatten(structure, drawn)


def _num_tail_steps(options: _Options) -> jax.Array:
    return jnp.maximum(jnp.asarray(options.num_steps, jnp.int32) // 10, 1)


def _advance(
    options: _Options, state: CurveState, loss: Callable, num_steps: int | jax.Array, block: int | None = None
) -> CurveState:
    shape = jax.eval_shape(loss, state.middle, state.step, state.key)
    if getattr(shape, "shape", None) != ():
        raise UserError(f"loss(params, step, key) returns {shape}; expected one number, the mean loss of a batch")
    last = jnp.minimum(state.step + jnp.asarray(num_steps, jnp.int32), jnp.asarray(options.num_steps, jnp.int32))
    if block is None:
        return lax.fori_loop(state.step, last, lambda _, state: _step(options, state, loss), state)

    def turn(_: Any, state: CurveState) -> CurveState:
        return lax.fori_loop(0, block, lambda _, state: _step(options, state, loss), state)

    return lax.fori_loop(0, (last - state.step) // block, turn, state)


def _step(options: _Options, state: CurveState, loss: Callable) -> CurveState:
    dtype = state.tail_loss.dtype
    t_key, batch_key = jax.random.split(jax.random.fold_in(state.key, 1 + state.step))
    t = jax.random.uniform(t_key, (), dtype)
    params = bezier(state.end0, state.middle, state.end1, t)
    value, gradient = jax.value_and_grad(loss)(params, state.step, batch_key)
    gradient = add_scaled(gradient, params, jnp.asarray(options.weight_decay))
    velocity = jax.tree.map(lambda v: options.momentum * v, state.velocity)
    velocity = add_scaled(velocity, gradient, 2 * t * (1 - t))
    rate = curve_learning_rate(state.step, options.num_steps, options.learning_rate, dtype, options.schedule)
    is_tail = state.step >= jnp.asarray(options.num_steps, jnp.int32) - _num_tail_steps(options)
    return state._replace(
        middle=add_scaled(state.middle, velocity, -rate),
        velocity=velocity,
        step=state.step + 1,
        tail_loss=state.tail_loss + jnp.where(is_tail, value.astype(dtype), 0),
    )


def _finish(options: _Options, state: CurveState, evaluate: Callable) -> CurveResult:
    t = jnp.linspace(0, 1, options.num_points, dtype=state.tail_loss.dtype)
    measured = evaluate_path(lambda t: bezier(state.end0, state.middle, state.end1, t), evaluate, t)
    final_loss = state.tail_loss / _num_tail_steps(options).astype(t.dtype)
    is_finite = all_finite((state.middle, final_loss, measured["train_loss"]))
    error = measured["train_error"]
    mean = (error[0] + error[-1]) / 2
    farthest = error[jnp.argmax(jnp.abs(error - mean))]
    quarter = (options.num_points - 1) // 4
    peak = error[quarter : 3 * quarter + 1 : quarter].max()
    return CurveResult(
        t=t,
        **measured,
        mode_connectivity=jnp.where(is_finite, mean - farthest, jnp.nan),
        mode_connectivity_peak=jnp.where(is_finite, -peak, jnp.nan),
        middle=state.middle,
        final_loss=final_loss,
        is_finite=is_finite,
    )
