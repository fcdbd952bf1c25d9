"""Matrix products whose derivatives, of every order, are matrix products without a transposed copy. JAX.

`lax.dot_general` puts the axes of a derivative in an order of its own: the gradient with respect to the second factor
of a' b comes out transposed, and where that is differentiated again XLA no longer folds the transposition into the
product but copies the activations. With transposition rules of its own, a Hessian-vector product of a convolutional
network takes half the time on CPU.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from mdtree_jax import lowering

# The axis of each factor that is summed over.
_SUMMED = {"first": (0, 0), "inner": (1, 0), "last": (1, 1)}

_product_p = Primitive("matrix_product")


def contract_first(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a' b for `a` (depth, m) and `b` (depth, n), as (m, n)."""
    return lowering.in_factors(functools.partial(_bind, summed="first", precision=_asked()), a, b)


def product_flops(shapes: tuple[tuple[int, int], tuple[int, int]], summed: str) -> int:
    """Return the floating-point operations of a product, 2 per multiply-add, from the two factors' shapes."""
    left, right = shapes
    j = _SUMMED[summed][1]
    return 2 * left[0] * left[1] * right[1 - j]


def _asked() -> Any:
    """Return the precision that products are traced with; derivatives keep it. None: what the platform does."""
    return jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]


def _bind(a: jax.Array, b: jax.Array, summed: str, precision: Any) -> jax.Array:
    # The parameter is there only where it says something: programs for a CPU are those from before there was one.
    return _product_p.bind(a, b, summed=summed, **({} if precision is None else {"precision": precision}))


def _dot(a: jax.Array, b: jax.Array, summed: str, precision: Any = None) -> jax.Array:
    i, j = _SUMMED[summed]
    return lax.dot_general(a, b, (((i,), (j,)), ((), ())), precision=precision)


def _shape(a: ShapedArray, b: ShapedArray, summed: str, precision: Any = None) -> ShapedArray:
    i, j = _SUMMED[summed]
    if a.ndim != 2 or b.ndim != 2 or a.shape[i] != b.shape[j] or a.dtype != b.dtype:
        raise TypeError(f"cannot multiply {a.str_short()} and {b.str_short()} over their axes {i} and {j}")
    return ShapedArray((a.shape[1 - i], b.shape[1 - j]), a.dtype)


def _left(cotangent: jax.Array, a: jax.Array, b: jax.Array, summed: str, precision: Any = None) -> jax.Array:
    if summed == "first":  # c = a' b, so da = b dc'
        return _bind(b, cotangent, "last", precision)
    return _bind(cotangent, b, "last" if summed == "inner" else "inner", precision)


def _right(cotangent: jax.Array, a: jax.Array, b: jax.Array, summed: str, precision: Any = None) -> jax.Array:
    if summed == "last":  # c = a b', so db = dc' a
        return _bind(cotangent, a, "first", precision)
    return _bind(a, cotangent, "inner" if summed == "first" else "first", precision)


def _batch(factors: tuple, axes: tuple, **options: Any) -> tuple[jax.Array, int]:
    return jax.vmap(functools.partial(_dot, **options), in_axes=axes)(*factors), 0


_product_p.def_impl(functools.partial(jax.jit, static_argnames=("summed", "precision"))(_dot))
_product_p.def_abstract_eval(_shape)
ad.defbilinear(_product_p, _left, _right)
batching.primitive_batchers[_product_p] = _batch
mlir.register_lowering(_product_p, mlir.lower_fun(_dot, multiple_results=False))
