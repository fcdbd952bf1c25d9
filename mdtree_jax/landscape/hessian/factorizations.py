"""Dense factorizations of small matrices inside kernels, safe under `vmap` on a CPU. JAX.

There LAPACK takes a batch of matrices on the threads that also run the program, and waits for them: with as many such
calls at once as there are threads, nothing goes on (jax-ml/jax#39292 is another fault of the same path). So on a CPU
the matrices of a batch are taken one after the other; elsewhere they go together. A single matrix is not touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def _one_after_the_other(function: Callable) -> Callable:
    """Return a function of arrays that a CPU maps over a batch one after the other."""
    call = jax.custom_batching.custom_vmap(function)

    @call.def_vmap
    def of_batch(axis_size: int, is_batched: list[bool], *arrays: jax.Array) -> tuple[Any, Any]:
        arrays = tuple(
            array if batched else jnp.broadcast_to(array, (axis_size, *array.shape))
            for array, batched in zip(arrays, is_batched, strict=True)
        )
        found = lax.platform_dependent(
            *arrays, cpu=lambda *a: lax.map(lambda one: call(*one), a), default=jax.vmap(function)
        )
        return found, jax.tree.map(lambda _: True, found)

    return functools.wraps(function)(lambda *arrays: call(*arrays))


@_one_after_the_other
def symmetric_eigen(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return eigenvalues (n,), rising, and eigenvectors as columns (n, n) of a symmetric matrix (n, n)."""
    return tuple(jnp.linalg.eigh(matrix))


@_one_after_the_other
def orthogonal_triangular(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return Q (m, k) and R (k, n) of a matrix (m, n), k the smaller of both."""
    return tuple(jnp.linalg.qr(matrix))


@_one_after_the_other
def triangular_inverse(matrix: jax.Array) -> jax.Array:
    """Return the inverse of an upper triangular matrix (n, n)."""
    return jax.scipy.linalg.solve_triangular(matrix, jnp.eye(matrix.shape[0], dtype=matrix.dtype))
