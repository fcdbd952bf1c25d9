"""BatchNorm statistics of given weights, recomputed over batches. JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mdtree_jax.checks import UserError


def recompute_batch_stats(
    apply_train: Callable[[Any, Any], tuple[Any, Any]],
    variables: Any,
    draw: Callable[[jax.Array], Any],
    num_batches: int | jax.Array,
) -> Any:
    """Return BatchNorm statistics as the average over batches of each batch's mean and variance.

    Weights between two networks have no running averages of their own, and those of the endpoints are not valid for
    them: they are recomputed before the weights are evaluated (Izmailov et al., 2018, section 3.2; Garipov et al.,
    2018, A.2).

    This works for any model whose running averages are updated by new = m * old + (1 - m) * batch in training mode. The
    momentum m of each leaf is determined from two calls on the first batch, with old = 0 and with old = s, a number of
    the magnitude of the batch statistics to limit rounding errors: m = (new(s) - new(0)) / s. Every batch then gives
    batch = new(0) / (1 - m). A leaf that is not updated (m = 1) is returned unchanged. The cost is num_batches + 1
    forward passes.

    Args:
        apply_train: `apply_train(variables, x) -> (outputs, updated)` in training mode, where
            `updated["batch_stats"]` are the running averages after the batch.
        variables: `{"params": ..., "batch_stats": ...}`; only the shapes of the running averages are used.
        draw: `draw(index) -> x`, the batch with that index, int32 from 0; all batches have the same size.
        num_batches: at least 1; may be traced.

    Returns:
        The new `batch_stats`; an empty tree, without calling the model, if it has none.

    Raises:
        UserError: a static `num_batches` below 1.
    """
    stats = variables.get("batch_stats", {})
    if not jax.tree.leaves(stats):
        return stats
    if not isinstance(num_batches, jax.Array) and num_batches < 1:
        raise UserError(f"num_batches {num_batches} must be at least 1")
    num_batches = jnp.asarray(num_batches, jnp.int32)

    def body(call: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        # Call 0 is the first batch, call 1 the same with old = s, call i > 1 batch i - 1: one program for all.
        total, momentum = carry
        is_probe = call == 1
        scale = jax.tree.map(lambda first: jnp.maximum(jnp.abs(first).max(), 1), total)
        old = jax.tree.map(lambda s, leaf: jnp.full_like(leaf, jnp.where(is_probe, s, 0)), scale, stats)
        _, updated = apply_train({**variables, "batch_stats": old}, draw(jnp.maximum(call - 1, 0)))
        new = updated["batch_stats"]
        # The mean over channels: one momentum a leaf, less rounding.
        probed = jax.tree.map(lambda new, first, s: ((new - first) / s).mean(), new, total, scale)
        momentum = jax.tree.map(lambda new, old: jnp.where(is_probe, new, old), probed, momentum)
        return jax.tree.map(lambda total, new: jnp.where(is_probe, total, total + new), total, new), momentum

    zeros = jax.tree.map(jnp.zeros_like, stats), jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), stats)
    total, momentum = lax.fori_loop(jnp.zeros_like(num_batches), num_batches + 1, body, zeros)

    def average(total: jax.Array, m: jax.Array, old: jax.Array) -> jax.Array:
        is_fixed = jnp.abs(1 - m) < 16 * jnp.finfo(m.dtype).eps
        weight = jnp.where(is_fixed, 1, 1 - m) * num_batches.astype(m.dtype)
        return jnp.where(is_fixed, old, total / weight)

    return jax.tree.map(average, total, momentum, stats)
