"""The functions of the objectives: losses, errors, what a set's mean is divided by, errors of constants. JAX.

The objectives and the roles of their functions are defined in `mdtree_jax.registry.objectives`. All functions take a
batch, outputs (batch, …) and targets (batch, …), and return (batch,), a number or a boolean for each example.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from mdtree_jax.checks import UserError
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE, OBJECTIVES, ROLES, Objective, find_objective

Scale = Callable[[jax.Array, jax.Array], jax.Array]


class ObjectiveFunctions(NamedTuple):
    """The functions that an objective applies to every example of a batch; hashable, a static argument.

    Attributes:
        loss: `loss(outputs, targets) -> (batch,)`.
        error: `error(outputs, targets) -> (batch,)`, a number or whether it counts as an error.
        loss_scale: `loss_scale(targets, is_counted) -> scalar` by which the mean loss of a set is divided, None for 1.
        error_scale: the same of the error.
        counts: whether errors are booleans.
        outputs: kind of the outputs, of `registry.objectives.OUTPUTS`.
        targets: kind of the targets, of `registry.objectives.TARGETS`.
    """

    loss: Callable[[jax.Array, jax.Array], jax.Array]
    error: Callable[[jax.Array, jax.Array], jax.Array]
    loss_scale: Scale | None = None
    error_scale: Scale | None = None
    counts: bool = False
    outputs: str = "logits"
    targets: str = "any"

    @property
    def has_scale(self) -> bool:
        """Whether a mean depends on all targets of its set."""
        return self.loss_scale is not None or self.error_scale is not None

    def mean_loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """Return the loss of a batch as a set of its own."""
        return self.over_set(self.loss(outputs, targets).mean(), targets)

    def over_set(self, mean_loss: jax.Array, targets: jax.Array, is_counted: jax.Array | None = None) -> jax.Array:
        """Return a mean of `loss` in its unit, for the set with these targets."""
        return _divided(mean_loss, self.loss_scale, targets, is_counted)

    def error_over_set(self, mean_error: jax.Array, targets: jax.Array, is_counted: jax.Array | None) -> jax.Array:
        """Return a mean, or sum, of `error` relative to the set with these targets."""
        return _divided(mean_error, self.error_scale, targets, is_counted)


#: What names an objective: its name, itself, or its functions.
ObjectiveLike = str | Objective | ObjectiveFunctions


def _divided(value: jax.Array, scale: Scale | None, targets: jax.Array, is_counted: jax.Array | None) -> jax.Array:
    if scale is None:
        return value
    is_counted = jnp.ones(len(targets), bool) if is_counted is None else is_counted
    by = scale(targets, is_counted).astype(value.dtype)
    # Where nothing counts, or no target differs from the mean, there is nothing to be relative to.
    return value / jnp.where(by > 0, by, 1)


def objective_functions(objective: ObjectiveLike = DEFAULT_OBJECTIVE) -> ObjectiveFunctions:
    """Return the functions of an objective; the same ones for the same objective.

    Raises:
        UserError: an unknown objective, or one without functions.
    """
    if isinstance(objective, ObjectiveFunctions):
        return objective
    entry = find_objective(objective)
    loss, error, loss_scale, error_scale = (_function(entry, role) for role in ROLES[:4])
    if loss is None or error is None:
        raise UserError(f"the objective '{entry.name}' has no loss and no error function; register it with both")
    if entry.outputs == "probabilities" and entry.loss is None:  # the functions of the table take logits
        to_logits = _log if entry.has_classes else _log_odds
        loss, error = _after(to_logits, loss), _after(to_logits, error)
    return ObjectiveFunctions(loss, error, loss_scale, error_scale, entry.counts, entry.outputs, entry.targets)


def _function(entry: Objective, role: str) -> Callable[..., Any] | None:
    """Return a function that an objective holds itself, or that is bound to its name in the table."""
    if entry.loss is not None:
        return getattr(entry, role)
    return OBJECTIVES.bound(entry.name, role)


def _log(outputs: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(outputs, jnp.finfo(outputs.dtype).tiny))


def _log_odds(outputs: jax.Array) -> jax.Array:
    return _log(outputs) - _log(1 - outputs)


@functools.cache
def _after(first: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of changed outputs; the same object for the same two."""
    return lambda outputs, targets: function(first(outputs), targets)


def chance_error(objective: str | Objective, targets: np.ndarray) -> float | None:
    """Return the error (%) of the best constant prediction of these targets; None where that is not known."""
    function = _function(find_objective(objective), "chance_error")
    return None if function is None or not len(targets) else 100 * float(function(np.asarray(targets)))


def chance_loss(objective: ObjectiveLike, targets: np.ndarray, num_outputs: int) -> float:
    """Return the mean loss of the best constant prediction of these targets, in the objective's unit.

    Args:
        objective: its loss is minimized over the outputs by L-BFGS, so that any differentiable one will do.
        targets: (n, ...).
        num_outputs: of a network, the last axis of its outputs.
    """
    functions, wanted = objective_functions(objective), jnp.asarray(targets)
    places = wanted.shape[1:] if functions.targets == "tokens" else ()
    start = jnp.full((num_outputs,), 0.5 if functions.outputs == "probabilities" else 0.0, jnp.result_type(float))

    def mean(outputs: jax.Array) -> jax.Array:
        constant = jnp.broadcast_to(outputs, (len(wanted), *places, num_outputs))
        return functions.over_set(functions.loss(constant, wanted).mean(), wanted)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(mean)

    def step(carry: tuple[Any, Any], _: Any) -> tuple[tuple[Any, Any], Any]:
        outputs, state = carry
        value, gradient = value_and_grad(outputs, state=state)
        updates, state = solver.update(gradient, state, outputs, value=value, grad=gradient, value_fn=mean)
        return (optax.apply_updates(outputs, updates), state), value

    (best, _), values = jax.lax.scan(step, (start, solver.init(start)), length=60)
    return float(jnp.nanmin(jnp.append(values, mean(best))))


def _mean_of(values: jax.Array, is_counted: jax.Array) -> jax.Array:
    """Return the mean over the examples that are counted, (batch, …) -> (…)."""
    dtype = values.dtype if jnp.issubdtype(values.dtype, jnp.floating) else jnp.result_type(float)
    mask = is_counted.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(mask, values, 0).sum(0, dtype=dtype) / jnp.maximum(is_counted.sum(), 1).astype(dtype)


# One class of several


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return -ln p(label) of every example in nats: logits (batch, classes), labels (batch,) -> (batch,).

    Labels may be probabilities of the classes, (batch, classes): then it is the mean over them.
    """
    log_probability = jax.nn.log_softmax(logits)
    if labels.ndim == 2:
        return -jnp.sum(log_probability * labels.astype(logits.dtype), axis=-1)
    # A product with the indicator, because a gather per example is slow on CPU and its gradient a scatter.
    return -jnp.sum(log_probability * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), axis=-1)


def error_count(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return for every example whether the largest logit is another class: (batch, classes), (batch,) -> (batch,).

    Of probabilities of the classes, (batch, classes), the largest is the class.
    """
    if labels.ndim == 2:
        labels = lax.argmax(labels, 1, jnp.int32)
    return lax.argmax(logits, logits.ndim - 1, labels.dtype) != labels


def _rarest(labels: np.ndarray) -> float:
    labels = labels.argmax(1) if labels.ndim == 2 else labels
    return 1 - np.bincount(labels).max() / len(labels)


def weighted_cross_entropy(
    class_weights: Sequence[float], label_smoothing: float = 0.0, name: str = "own"
) -> Objective:
    """Return cross-entropy with a weight for each class: the weighted mean of -ln p(label) over the examples.

    With smoothing s, the target is (1 - s) · one-hot + s / classes, and each class enters with its own weight, as in
    PyTorch's `CrossEntropyLoss(weight=, label_smoothing=)`. The error is the unweighted one.

    Raises:
        UserError: fewer than two weights, negative ones or none above 0, a smoothing outside [0, 1).
    """
    weights = np.asarray(class_weights, float)
    if (
        weights.ndim != 1
        or len(weights) < 2
        or not np.isfinite(weights).all()
        or weights.min() < 0
        or not weights.max()
    ):
        raise UserError(
            f"class_weights={class_weights!r:.60} must be two or more numbers of at least 0, not all of them 0"
        )
    if not 0 <= label_smoothing < 1:
        raise UserError(f"label_smoothing={label_smoothing:g} is out of range; it must be in [0, 1)")

    def hot(labels: jax.Array, dtype: Any) -> jax.Array:
        return labels.astype(dtype) if labels.ndim == 2 else jax.nn.one_hot(labels, len(weights), dtype=dtype)

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        target = hot(labels, logits.dtype)
        smooth = (1 - label_smoothing) * target + label_smoothing / len(weights)
        return -jnp.sum(jax.nn.log_softmax(logits) * smooth * jnp.asarray(weights, logits.dtype)[None], axis=-1)

    def loss_scale(labels: jax.Array, is_counted: jax.Array) -> jax.Array:
        dtype = jnp.result_type(float)
        return _mean_of((hot(labels, dtype) * jnp.asarray(weights, dtype)[None]).sum(1), is_counted)

    known = replace(OBJECTIVES[DEFAULT_OBJECTIVE], name=name, loss_scale=loss_scale, chance_error=_rarest)
    return replace(known, loss=loss, error=error_count, meaning=f"weighted {known.meaning}")


# A token at every place of a sequence


def token_loss(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Return the sum of -ln p(token) over the tokens that count: (batch, time, vocabulary), (batch, time) -> (batch,).

    A token that is negative does not count.
    """
    _check_places(logits, tokens)
    log_probability = jax.nn.log_softmax(logits)
    # Of a negative token the indicator is zero everywhere.
    return -jnp.sum(log_probability * jax.nn.one_hot(tokens, logits.shape[-1], dtype=logits.dtype), axis=(1, 2))


def token_errors(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Return the number of tokens that count and for which the largest logit is another: (batch,), whole numbers."""
    _check_places(logits, tokens)
    wrong = (tokens >= 0) & (lax.argmax(logits, 2, tokens.dtype) != tokens)
    return wrong.sum(1, dtype=tokens.dtype).astype(logits.dtype)


def num_tokens(tokens: jax.Array, is_counted: jax.Array) -> jax.Array:
    """Return the mean number of tokens of an example that count."""
    return _mean_of((tokens >= 0).sum(1, dtype=tokens.dtype), is_counted)


def _check_places(logits: jax.Array, tokens: jax.Array) -> None:
    if logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        raise UserError(
            f"the outputs have shape {logits.shape} and the targets {tokens.shape}; objective=lm takes outputs (batch, "
            "time, vocabulary) and targets (batch, time)"
        )


def _other_tokens(tokens: np.ndarray) -> float:
    there = tokens[tokens >= 0]
    return 1 - np.bincount(there).max() / len(there) if len(there) else 0.0


# Labels that are there or not


def sigmoid_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean of -ln p(label) over the labels of an example, p the sigmoid: (batch, k) twice -> (batch,)."""
    logits, labels = _alike(logits, labels)
    return (jax.nn.softplus(logits) - logits * labels).mean(1)


def sign_error(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return whether the logit of an example has the wrong sign: (batch,) or (batch, 1) twice -> (batch,)."""
    logits, labels = _alike(logits, labels)
    return ((logits > 0) != (labels > 0.5)).any(1)


def num_wrong_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the number of an example's logits that have the wrong sign: (batch, k) twice -> (batch,)."""
    logits, labels = _alike(logits, labels)
    return ((logits > 0) != (labels > 0.5)).astype(logits.dtype).sum(1)


def _num_labels(labels: jax.Array, is_counted: jax.Array) -> jax.Array:
    del is_counted
    return jnp.asarray(labels.reshape(len(labels), -1).shape[1], jnp.result_type(float))


def _rarer_value(labels: np.ndarray) -> float:
    share = (labels.reshape(len(labels), -1) > 0.5).mean(0)
    return float(np.minimum(share, 1 - share).mean())


# Numbers


def squared_residual(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean squared residual of an example: (batch,) or (batch, k) twice -> (batch,)."""
    outputs, targets = _alike(outputs, targets)
    return jnp.square(outputs - targets).mean(1)


def huber(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean of half the squared residual up to 1, and of |residual| - 1/2 beyond; shapes as before."""
    outputs, targets = _alike(outputs, targets)
    size = jnp.abs(outputs - targets)
    within = jnp.minimum(size, 1)
    return (0.5 * jnp.square(within) + (size - within)).mean(1)


def variance(targets: jax.Array, is_counted: jax.Array) -> jax.Array:
    """Return the mean squared deviation of a set's targets from their mean, averaged over their components."""
    values = targets.reshape(len(targets), -1)
    centred = values - _mean_of(values, is_counted)[None]
    return _mean_of(jnp.square(centred), is_counted).mean()


def _alike(outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return outputs and targets as (batch, k) numbers; unlike shapes would be broadcast against each other."""
    if outputs.size != targets.size or outputs.shape[0] != targets.shape[0]:
        raise UserError(
            f"the outputs have shape {outputs.shape} and the targets {targets.shape}; expected as many of both"
        )
    rows = targets.shape[0]
    return outputs.reshape(rows, -1), targets.reshape(rows, -1).astype(outputs.dtype)


def _whole(targets: np.ndarray) -> float:
    del targets
    return 1.0


_VARIANCE: dict[str, Any] = {"error": squared_residual, "error_scale": variance, "chance_error": _whole}
OBJECTIVES.bind(DEFAULT_OBJECTIVE, loss=cross_entropy, error=error_count, chance_error=_rarest)
OBJECTIVES.bind(
    "lm",
    loss=token_loss,
    error=token_errors,
    loss_scale=num_tokens,
    error_scale=num_tokens,
    chance_error=_other_tokens,
)
OBJECTIVES.bind("binary", loss=sigmoid_loss, error=sign_error, chance_error=_rarer_value)
OBJECTIVES.bind(
    "multilabel", loss=sigmoid_loss, error=num_wrong_labels, error_scale=_num_labels, chance_error=_rarer_value
)
OBJECTIVES.bind("regression", loss=squared_residual, **_VARIANCE)
OBJECTIVES.bind("huber", loss=huber, **_VARIANCE)
