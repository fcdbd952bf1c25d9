"""The functions of the objectives, by name; cross-entropy and errors. JAX.

The objectives are defined in `mdtree_jax.registry.objectives`. All functions take a batch, outputs (batch, …) and
targets (batch, …), and return (batch,), a number or a boolean for each example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mdtree_jax.checks import UserError
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE, OBJECTIVES


class ObjectiveFunctions(NamedTuple):
    """The functions that an objective applies to every example of a batch.

    Attributes:
        loss: `loss(outputs, targets) -> (batch,)`, in the objective's unit.
        error: `error(outputs, targets) -> (batch,)`, whether it counts as an error.
    """

    loss: Callable[[jax.Array, jax.Array], jax.Array]
    error: Callable[[jax.Array, jax.Array], jax.Array]


def objective_functions(name: str = DEFAULT_OBJECTIVE) -> ObjectiveFunctions:
    """Return the functions that are bound to an objective.

    Raises:
        UserError: an unknown objective, or one without functions.
    """
    loss, error = (OBJECTIVES.bound(OBJECTIVES.find(name).name, role) for role in ("loss", "error"))
    if loss is None or error is None:
        raise UserError(f"the objective '{name}' has no loss and no error function; register it with loss= and error=")
    return ObjectiveFunctions(loss, error)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return -ln p(label) of every example in nats: logits (batch, classes), labels (batch,) -> (batch,)."""
    log_probability = jax.nn.log_softmax(logits)
    # A product with the indicator, because a gather per example is slow on CPU and its gradient a scatter.
    return -jnp.sum(log_probability * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), axis=-1)


def error_count(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return for every example whether the largest logit is another class: (batch, classes), (batch,) -> (batch,)."""
    return lax.argmax(logits, logits.ndim - 1, labels.dtype) != labels


OBJECTIVES.bind(DEFAULT_OBJECTIVE, loss=cross_entropy, error=error_count)
