"""Cross-entropy and errors. JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return -ln p(label) of every example in nats: logits (batch, classes), labels (batch,) -> (batch,)."""
    log_probability = jax.nn.log_softmax(logits)
    # A product with the indicator, because a gather per example is slow on CPU and its gradient a scatter.
    return -jnp.sum(log_probability * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), axis=-1)


def error_count(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return for every example whether the largest logit is another class: (batch, classes), (batch,) -> (batch,)."""
    return lax.argmax(logits, logits.ndim - 1, labels.dtype) != labels
