"""Division and norms that stay defined at zero. JAX.

NaN goes through unchanged: a diverged member of a population stays visible.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mdtree_jax.landscape.pytrees import tree_dot


def safe_divide(numerator: jax.Array, denominator: jax.Array, otherwise: float = 0.0) -> jax.Array:
    """Return numerator / denominator, and `otherwise` where the denominator is exactly zero; shapes equal.

    >>> safe_divide(jnp.ones(2), jnp.array([0.0, 2.0])).tolist()
    [0.0, 0.5]
    """
    is_zero = denominator == 0
    quotient = numerator / jnp.where(is_zero, jnp.ones_like(denominator), denominator)
    return jnp.where(is_zero, jnp.asarray(otherwise, quotient.dtype), quotient)


def safe_norm(tree: Any) -> jax.Array:
    """Return the Euclidean norm of all numbers of a pytree, without overflow or underflow of their squares; scalar."""
    largest = jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]).max()
    scale = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    scaled = jax.tree.map(lambda leaf: leaf / scale, tree)
    norm = scale * jnp.sqrt(tree_dot(scaled, scaled))
    return jnp.where(jnp.isnan(largest), largest, norm)


def normalize(tree: Any) -> Any:
    """Return the pytree divided by its Euclidean norm; zero stays zero."""
    norm = safe_norm(tree)
    return jax.tree.map(lambda leaf: safe_divide(leaf, jnp.full_like(leaf, 1) * norm), tree)
