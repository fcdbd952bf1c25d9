"""Inputs of a network: one array or a pytree of arrays with the same first axis, floating point or whole numbers. JAX.

Floating-point arrays are computed in the type of a program's arithmetic; whole numbers (token ids, class labels) and
booleans are int32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def kind_in(array: Any, dtype: Any) -> np.dtype:
    """Return the type in which a program whose arithmetic is of `dtype` takes an array."""
    return np.dtype(dtype) if jnp.issubdtype(np.result_type(array), jnp.floating) else np.dtype(np.int32)


def in_dtype(tree: Any, dtype: Any) -> Any:
    """Return the arrays in the types of a program whose arithmetic is of `dtype`, on the host."""
    return jax.tree.map(lambda a: np.asarray(a, kind_in(a, dtype)), tree)


def shapes_in(tree: Any, dtype: Any) -> Any:
    """Return abstract arrays like those of `in_dtype`."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), kind_in(a, dtype)), tree)


def num_rows(tree: Any) -> int:
    """Return the length of the first axis."""
    return jax.tree.leaves(tree)[0].shape[0]


def take_rows(tree: Any, rows: Any) -> Any:
    """Return rows of every array, by their numbers or as a slice."""
    return jax.tree.map(lambda a: a[rows], tree)


def one_row(tree: Any) -> Any:
    """Return an abstract array, for one example, of every array of a set."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), tree)


def num_bytes(tree: Any) -> int:
    """Return what the arrays take, which may be abstract."""
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
