"""Vectors that have the shape of the parameters: sums, inner products, probes. JAX."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def tree_dot(a: Any, b: Any) -> jax.Array:
    """Return the inner product of two pytrees of equal structure; scalar."""
    return sum_of(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)))


def sum_of(values: list[jax.Array]) -> jax.Array:
    """Return the sum of a list of at least one array of equal shape."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def tree_axpy(scale: jax.Array | float, x: Any, y: Any) -> Any:
    """Return scale * x + y for a scalar and two pytrees of equal structure."""
    return jax.tree.map(lambda a, b: scale * a + b, x, y)


def tree_size(tree: Any) -> int:
    """Return the number of entries of a pytree of arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def tree_signs(key: jax.Array, tree: Any, count: int) -> Any:
    """Return `count` random vectors of independent +1 and -1: a pytree like `tree`, leaves (count, *shape)."""
    # One draw of words, not one draw of numbers a leaf: a generator for each of 62 leaves takes minutes to compile.
    size = tree_size(tree)
    words = jax.random.bits(key, (count, -(-size // 32)), jnp.uint32)
    bits = (words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)[None, None]) & 1
    bits = bits.reshape(count, -1)
    leaves, structure = jax.tree.flatten(tree)
    signs, start = [], 0
    for leaf in leaves:
        part = bits[:, start : start + leaf.size].reshape(count, *leaf.shape)
        signs.append(2 * part.astype(leaf.dtype) - 1)
        start += leaf.size
    return structure.unflatten(signs)


def opaque(number: int) -> jax.Array:
    """Return an int32 that the compiler does not see through.

    A loop with a small bound that it knows is unrolled: each turn is compiled anew, ten times the compile time.
    """
    return lax.optimization_barrier(jnp.int32(number))
