"""XTrace: the trace of a symmetric matrix from a low-rank approximation and its remainder. JAX.

| case | mean | standard_error |
|---|---|---|
| at most as many parameters as products | exact, from the unit vectors | 0, also for leaves and weights |
| rank below the number of probes, the zero matrix | exact to rounding: the range is exhausted | 0 |
| a product with NaN or infinity | NaN | NaN; stops after the block in which it appears |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mdtree_jax.landscape.hessian.factorizations import orthogonal_triangular, symmetric_eigen, triangular_inverse
from mdtree_jax.landscape.hessian.products import Product, flat_product, over_block
from mdtree_jax.landscape.hessian.trace import (
    TraceEstimate,
    TraceKernel,
    empty_samples,
    is_done,
    make_estimate,
    probe_samples,
)
from mdtree_jax.landscape.options import check_count, check_positive
from mdtree_jax.landscape.pytrees import tree_signs

#: Where the ends of the spectrum are nearer to each other than this, neither vector leads.
CLEAR = 0.8


class _State(NamedTuple):
    """The factorization so far; rows and columns that are not there yet are zero.

    With ±1 vectors Omega: A Omega = Q R, H = Q' A Q, W = Q' Omega, so that Q' A Omega = R as A is symmetric.
    """

    num_done: Int[Array, ""]  # blocks of Omega multiplied
    is_basis: Bool[Array, ""]  # whether `pending` are columns of Q, not of Omega
    pending: Float[Array, "block dim"]  # the vectors to multiply next
    omega: Int[Array, "blocks block dim"]
    q: Float[Array, "rank dim"]
    r: Float[Array, "rank rank"]
    h: Float[Array, "rank rank"]
    w: Float[Array, "rank rank"]
    samples: Float[Array, "probes columns"]  # of the plain estimates
    mean: Float[Array, ""]
    error: Float[Array, ""]
    is_done: Bool[Array, ""]


def xtrace(
    max_products: int = 100,
    relative_error: float | None = None,
    block: int = 8,
    batched: bool = True,
    leading: bool = False,
) -> TraceKernel:
    """Return an estimator of the trace by XTrace (Epperly, Tropp and Webber, 2024), grown block by block.

    Half of the products find the range Q of A Omega for ±1 vectors Omega; the other half give A Q. Each column of Omega
    is left out of Q in turn: the trace of A on the rest of Q is exact, and that of the remainder is estimated from the
    left-out column. The estimate is the mean of these, which is unbiased; the standard error is their standard
    deviation over sqrt(number), as the authors propose. They are not independent, so it is too small, especially for
    few columns: the root mean square error is 1.2 to 2 standard errors with eight of them, 1.1 to 1.4 with fifty. With
    a requested relative error, the actual error was 0.4 to 1.3 times the requested one, because blocks overshoot
    (`tests/benchmarks/hessian_kernels.py stops`).

    Nothing is recomputed when the factorization grows, so stopping at a relative error costs nothing extra. Traces of
    leaves and the weighted trace are plain means over Omega, with half as many samples as products.

    Memory: (5/8 dim x max_products) numbers of the parameters' type, compared with one block of vectors for
    `hutchinson`.

    Args:
        max_products: the budget of products with Omega and Q together, at least 4; rounded down to a multiple of twice
            the block.
        relative_error: stop when standard_error <= relative_error * |mean|; None uses the whole budget.
        block: number of vectors between two checks of the error.
        batched: whether the products of a block are computed at once; see `over_block`.
        leading: whether to return the vector of largest |v'Av| in Q, which is one step of subspace iteration at no
            extra cost. It is zero if the other end of the spectrum is nearly as large, or if the trace is computed
            exactly from unit vectors.

    Returns:
        `estimate(product, key, params, weights=None)` as for `hutchinson`; `product` must be symmetric.

    Raises:
        UserError: a budget below 4, a block below 1, a relative error that is not positive.

    >>> H = jnp.diag(jnp.array([5.0, -3.0, 0.5, 0.25]))
    >>> float(xtrace()(lambda v: H @ v, jax.random.key(0), jnp.zeros(4)).mean)
    2.75
    """
    block = min(check_count("block", block), check_count("max_products", max_products, at_least=4) // 2)
    num_blocks = max_products // (2 * block)
    if relative_error is not None:
        check_positive("relative_error", relative_error)

    def estimate(product: Product, key: jax.Array, params: Any, weights: Any = None) -> TraceEstimate:
        multiply, unflatten, dim = flat_product(product, params)
        if dim <= max_products:
            exact = _exact(multiply, unflatten, dim, (block, batched), params, weights, relative_error)
            return exact._replace(leading=jax.tree.map(jnp.zeros_like, params)) if leading else exact

        def signs(index: jax.Array) -> jax.Array:
            probes = tree_signs(jax.random.fold_in(key, index), params, block)
            return jnp.concatenate([leaf.reshape(block, -1) for leaf in jax.tree.leaves(probes)], axis=1)

        def add_range(state: _State, products: jax.Array) -> _State:
            probes, images = (jax.vmap(unflatten)(vectors) for vectors in (state.pending, products))
            return _add_range(state, products, probe_samples(probes, images, weights))

        def step(state: _State) -> _State:
            products = over_block(multiply, state.pending, batched)
            return lax.cond(
                state.is_basis,
                lambda: _add_basis_products(state, products, signs, relative_error),
                lambda: add_range(state, products),
            )

        start = _start(signs(jnp.zeros((), jnp.int32)), num_blocks, empty_samples(params, num_blocks * block, weights))
        state = lax.while_loop(lambda s: (s.is_basis | (s.num_done < num_blocks)) & ~s.is_done, step, start)
        num_samples = state.num_done * block
        found = make_estimate(
            state.mean, state.error, state.samples, num_samples, 2 * num_samples, relative_error, params, weights
        )
        return found._replace(leading=unflatten(_leading(state))) if leading else found

    return estimate


def _leading(state: _State) -> jax.Array:
    """Return the unit vector of Q's span with the largest |v'Av|, (dim,); zero where that of the other sign is near."""
    values, vectors = symmetric_eigen(jnp.where(jnp.isfinite(state.h), state.h, 0))  # ascending
    ends = jnp.abs(values[jnp.array([0, -1])])
    vector = jnp.where(ends[0] > ends[1], vectors[:, 0], vectors[:, -1]) @ state.q
    is_clear = ends.min() < CLEAR * ends.max()
    return jnp.where(is_clear, vector, jnp.zeros_like(vector))


def _start(pending: jax.Array, num_blocks: int, samples: jax.Array) -> _State:
    block, dim = pending.shape
    rank, dtype = num_blocks * block, pending.dtype
    square, no = jnp.zeros((rank, rank), dtype), jnp.zeros((), bool)
    return _State(
        num_done=jnp.zeros((), jnp.int32),
        is_basis=no,
        pending=pending,
        omega=jnp.zeros((num_blocks, block, dim), jnp.int8),
        q=jnp.zeros((rank, dim), dtype),
        r=square,
        h=square,
        w=square,
        samples=samples,
        mean=jnp.zeros((), dtype),
        error=jnp.zeros((), dtype),
        is_done=no,
    )


def _add_range(state: _State, products: jax.Array, samples: jax.Array) -> _State:
    """Extend Q and R by the products with a block of Omega; then Q's new columns are to be multiplied."""
    at = state.num_done * products.shape[0]

    def orthogonalized(vectors: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        coefficients = state.q @ vectors.T
        columns, triangle = orthogonal_triangular((vectors - coefficients.T @ state.q).T)
        return coefficients, triangle, columns

    # Gram-Schmidt twice, each time with a QR within the block: orthogonal to rounding even where products are
    # parallel, and where they vanish the QR completes with unit vectors, so that Q always is a basis.
    outer = jnp.zeros((state.q.shape[0], products.shape[0]), products.dtype)
    coefficients, inner, columns = orthogonalized(products)
    outer = outer + coefficients
    coefficients, triangle, columns = orthogonalized(columns.T)
    outer = outer + coefficients @ inner
    inner, new = triangle @ inner, columns.T
    r = lax.dynamic_update_slice_in_dim(outer, inner, at, 0)
    return state._replace(
        num_done=state.num_done + 1,
        is_basis=~state.is_basis,
        pending=new,
        omega=lax.dynamic_update_index_in_dim(state.omega, state.pending.astype(jnp.int8), state.num_done, 0),
        q=lax.dynamic_update_slice_in_dim(state.q, new, at, 0),
        r=lax.dynamic_update_slice_in_dim(state.r, r, at, 1),
        samples=lax.dynamic_update_slice_in_dim(state.samples, samples, at, 0),
    )


def _add_basis_products(state: _State, products: jax.Array, signs: Callable, relative_error: float | None) -> _State:
    """Extend H and W by the products with Q's newest columns and estimate; then the next Omega is to be multiplied."""
    rank, block = state.q.shape[0], products.shape[0]
    at = (state.num_done - 1) * block
    newest = state.pending
    columns = state.q @ products.T
    h = lax.dynamic_update_slice_in_dim(state.h, columns, at, 1)
    h = lax.dynamic_update_slice_in_dim(h, columns.T, at, 0)
    omega = lax.dynamic_index_in_dim(state.omega, state.num_done - 1, 0, keepdims=False)
    w = lax.dynamic_update_slice_in_dim(state.w, state.q @ omega.astype(newest.dtype).T, at, 1)
    rows = lax.map(lambda o: newest @ o.astype(newest.dtype).T, state.omega)
    w = lax.dynamic_update_slice_in_dim(w, rows.transpose(1, 0, 2).reshape(block, rank), at, 0)
    mean, error = leave_one_out(state.r, h, w, state.num_done * block)
    return state._replace(
        is_basis=~state.is_basis,
        pending=signs(state.num_done),
        h=h,
        w=w,
        mean=mean,
        error=error,
        is_done=is_done(mean, error, state.num_done * block, relative_error),
    )


def leave_one_out(
    r: Float[Array, "rank rank"], h: Float[Array, "rank rank"], w: Float[Array, "rank rank"], count: Int[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return mean and standard error of the leave-one-out estimates of the trace.

    Args:
        r: upper triangular, A Omega = Q R; only the first `count` rows and columns of all are in use.
        h: Q' A Q.
        w: Q' Omega.
        count: of columns in use.

    With s_i the unit vector in which Q without column i lacks, x_i = w_i - s_i s_i'w_i and r_i = Q' A omega_i:
    trace_i = tr H - s_i' H s_i + w_i' r_i - 2 x_i' r_i + x_i' H x_i.

    A column of A Omega that lies in the span of those before it says that Q spans the range of A: tr H is the trace.
    """
    rank = r.shape[0]
    used = jnp.arange(rank, dtype=jnp.int32) < count
    number = count.astype(r.dtype)
    diagonal = jnp.diagonal(r)
    scale = jnp.sqrt((r * r).sum(0).max())
    is_dependent = used & (jnp.abs(diagonal) <= 10 * jnp.finfo(r.dtype).eps * scale)
    # A one on the diagonal where there is nothing keeps the solution defined; masked out below.
    filled = r + jnp.diag(jnp.where(is_dependent | ~used, jnp.ones_like(diagonal), 0))
    s = triangular_inverse(filled).T
    s = s / jnp.sqrt((s * s).sum(0))[None]
    x = w - s * (s * w).sum(0)[None]
    whole = jnp.trace(h)
    each = whole - (s * (h @ s)).sum(0) + (w * r).sum(0) - 2 * (x * r).sum(0) + (x * (h @ x)).sum(0)
    mean = jnp.where(used, each, 0).sum() / number
    error = jnp.sqrt(jnp.where(used, (each - mean) ** 2, 0).sum() / (number * (number - 1)))
    exhausted = is_dependent.any()
    return jnp.where(exhausted, whole, mean), jnp.where(exhausted, jnp.zeros_like(error), error)


def _exact(
    multiply: Callable,
    unflatten: Callable,
    dim: int,
    blocks: tuple[int, bool],
    params: Any,
    weights: Any,
    relative_error: float | None,
) -> TraceEstimate:
    """Return the trace from the products with all unit vectors, block by block."""
    block, batched = blocks
    num_blocks = -(-dim // block)

    def diagonal(first: jax.Array) -> jax.Array:
        rows = first + jnp.arange(block, dtype=jnp.int32)
        vectors = (rows[:, None] == jnp.arange(dim, dtype=jnp.int32)[None]).astype(jax.tree.leaves(params)[0].dtype)
        return (vectors * over_block(multiply, vectors, batched)).sum(1)

    entries = lax.map(diagonal, block * jnp.arange(num_blocks, dtype=jnp.int32)).reshape(-1)[:dim]
    ones, entries = (jax.tree.map(lambda leaf: leaf[None], unflatten(v)) for v in (jnp.ones_like(entries), entries))
    sample = probe_samples(ones, entries, weights)
    mean = sample[0, 0]
    error = jnp.where(jnp.isfinite(mean), jnp.zeros_like(mean), jnp.nan)
    # Twice the same: what does not vary has no error.
    twice, two = jnp.concatenate([sample, sample]), jnp.int32(2)
    return make_estimate(mean, error, twice, two, jnp.int32(dim), relative_error, params, weights)
