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
from jaxtyping import Array, Float


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
def symmetric_eigen(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Return eigenvalues, rising, and eigenvectors as columns of a symmetric matrix."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@_one_after_the_other
def orthogonal_triangular(matrix: Float[Array, "m n"]) -> tuple[Float[Array, "m k"], Float[Array, "k n"]]:
    """Return Q and R of a matrix; k is the smaller of m and n."""
    orthogonal, triangular = jnp.linalg.qr(matrix)
    return orthogonal, triangular


@_one_after_the_other
def triangular_inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return the inverse of an upper triangular matrix."""
    return jax.scipy.linalg.solve_triangular(matrix, jnp.eye(matrix.shape[0], dtype=matrix.dtype))
