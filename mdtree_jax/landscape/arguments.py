"""Checks of the arrays and functions passed to a kernel, based on shapes and types during tracing. JAX."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from mdtree_jax.checks import UserError


def check_params(params: Any) -> None:
    """Check that there are parameters and that they are real floating-point numbers, arrays of one type.

    Raises:
        UserError: no parameters, integer or other types, several types.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not sum(math.prod(jnp.shape(leaf)) for _, leaf in leaves):
        raise UserError("the parameters are empty; they must hold at least one number")
    for path, leaf in leaves:
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            name = jax.tree_util.keystr(path) or "the array"
            raise UserError(f"parameter {name} has type {dtype}; parameters must be floating-point numbers")
        if not hasattr(leaf, "dtype"):
            name = jax.tree_util.keystr(path) or "the array"
            raise UserError(f"parameter {name} is a {type(leaf).__name__}; parameters must be arrays")
    types = sorted({str(leaf.dtype) for _, leaf in leaves})
    if len(types) > 1:  # vectors over all parameters have one
        raise UserError(f"the parameters have types {' and '.join(types)}; cast them to one type")


def check_alike(vector: Any, params: Any) -> None:
    """Check that a vector is a pytree like the parameters, in shapes and types; raises `UserError`."""
    shapes = [jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", t) for t in (vector, params)]
    if shapes[0] != shapes[1]:
        raise UserError(f"the vector has arrays {shapes[0]}; the parameters have {shapes[1]}")


def check_scalar(value: Any) -> None:
    """Check that a loss, or its abstract value, is one floating-point number; raises `UserError`."""
    shape = getattr(value, "shape", None)
    if shape is None and not isinstance(value, float):
        raise UserError(f"the loss is a {type(value).__name__}; it must be a scalar array")
    if shape:
        raise UserError(f"the loss has shape {tuple(shape)}; it must be a scalar")
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise UserError(f"the loss has type {jnp.result_type(value)}; it must be a floating-point number")


def count_rows(data: Any) -> int:
    """Return the length of the first axis of all arrays of `data`.

    Raises:
        UserError: no arrays, no rows, first axes that differ.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    if not shapes or any(not shape for shape in shapes):
        raise UserError(f"data with arrays of shapes {shapes} has no rows; every array needs a first axis of rows")
    if len({shape[0] for shape in shapes}) > 1:
        raise UserError(f"data with arrays of shapes {shapes} is uneven; all first axes must be equal")
    if shapes[0][0] == 0:
        raise UserError(f"data with arrays of shapes {shapes} is an empty batch; it needs at least one row")
    return shapes[0][0]
