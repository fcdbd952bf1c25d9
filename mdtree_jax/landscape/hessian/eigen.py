"""Extreme eigenvalues and spectral density of a symmetric matrix given by its products with vectors. JAX.

| case | values | residuals | converged |
|---|---|---|---|
| zero matrix | 0 | 0 | true |
| fewer parameters than steps | the whole spectrum | about 0 | true |
| a product with NaN or infinity | NaN | NaN | false; stops after that product |
| an eigenvalue of multiplicity m > 1 | found once, and again only after the Krylov space is exhausted | | |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.landscape.arguments import check_alike
from mdtree_jax.landscape.hessian.factorizations import symmetric_eigen
from mdtree_jax.landscape.hessian.products import Product, flat_product
from mdtree_jax.landscape.options import check_count, check_positive
from mdtree_jax.landscape.safe import normalize, safe_norm

WHICH = ("magnitude", "largest")

EigenKernel = Callable[..., "EigenEstimate"]


class EigenEstimate(NamedTuple):
    """Leading eigenvalues, in units of the loss per squared unit of the parameters.

    Attributes:
        values: in the requested order, with their signs.
        residuals: ‖H v - value v‖ for the unit vectors found: H has an eigenvalue within this distance of the value.
        converged: whether the stopping criterion was met within the budget.
        num_products: number of products with vectors used.
        is_finite: whether all values are finite.
        vectors: k unit vectors, pytrees like the parameters; None unless requested.
    """

    values: Float[Array, " k"]
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]
    num_products: Int[Array, ""]
    is_finite: Bool[Array, ""]
    vectors: tuple[Any, ...] | None


def power_iteration(
    max_steps: int = 100, relative_tolerance: float = 1e-3, return_vectors: bool = False
) -> EigenKernel:
    """Return an estimator of the eigenvalue of largest magnitude by power iteration, as in the published pipeline.

    Stops when the relative change of the Rayleigh quotient is below `relative_tolerance`. The error can still be much
    larger; check the residual.

    Args:
        max_steps: the budget of products.
        relative_tolerance: of the change of the Rayleigh quotient.
        return_vectors: whether the eigenvector is returned.

    Returns:
        `estimate(product, key, params) -> EigenEstimate` with k = 1.

    Raises:
        UserError: a budget below 1, a tolerance that is not positive.
    """
    check_count("max_steps", max_steps)
    check_positive("relative_tolerance", relative_tolerance)

    def estimate(product: Product, key: jax.Array, params: Any) -> EigenEstimate:
        multiply, unflatten, dim = flat_product(product, params)
        dtype = jax.tree.leaves(params)[0].dtype

        def step(state: tuple) -> tuple:
            count, vector, _, value, _, _ = state
            image = multiply(vector)
            new = vector @ image
            residual = safe_norm(image - new * vector)
            is_still = (count > 0) & (jnp.abs(new - value) <= relative_tolerance * jnp.abs(value))
            return count + 1, normalize(image), vector, new, residual, is_still

        def goes_on(state: tuple) -> jax.Array:
            count, _, _, value, _, is_still = state
            return (count < max_steps) & ~is_still & jnp.isfinite(value)

        vector = normalize(jax.random.normal(key, (dim,), dtype))
        zero = jnp.zeros((), dtype)
        start = jnp.zeros((), jnp.int32), vector, vector, zero, zero, jnp.zeros((), bool)
        count, _, vector, value, residual, is_still = lax.while_loop(goes_on, step, start)
        vectors = vector[None] if return_vectors else None
        return _result(value[None], residual[None], is_still[None], count, vectors, unflatten)

    return estimate


class _Krylov(NamedTuple):
    """A Lanczos factorization A V = V T + residual; rows that are not there yet are zero."""

    step: Int[Array, ""]  # products so far
    basis: Float[Array, "steps+1 dim"]  # orthonormal rows
    alpha: Float[Array, " steps"]  # diagonal of T
    beta: Float[Array, " steps"]  # off-diagonal of T; the last is the norm of the residual


class _Ritz(NamedTuple):
    values: Float[Array, " k"]
    residuals: Float[Array, " k"]
    coordinates: Float[Array, "k steps"]  # of the vectors in the basis
    is_converged: Bool[Array, " k"]


def lanczos(
    k: int = 1,
    max_steps: int = 60,
    relative_tolerance: float = 1e-3,
    which: str = "magnitude",
    return_vectors: bool = False,
) -> EigenKernel:
    """Return an estimator of the k leading eigenvalues by Lanczos' method (1950) with full reorthogonalization.

    Stops when ‖H v - value v‖ <= relative_tolerance * |value| for all k. For `magnitude`, it also waits until the other
    end of the spectrum cannot be larger, as far as is known: if the extreme eigenvalues of both signs have nearly equal
    magnitude, a converged value can still be the second largest. The error of a value is at most its residual, and
    about residual² / gap to the rest of the spectrum. From one starting vector, a multiple eigenvalue is found only
    once.

    A start near the leading eigenvector saves steps; `xtrace(leading=True)` returns one at no extra cost. Do not start
    from another eigenvector: the method would converge to it.

    Memory: (dim x max_steps) numbers of the parameters' type.

    Args:
        k: number of eigenvalues.
        max_steps: the budget of products; at most the number of parameters is used.
        relative_tolerance: of the residual.
        which: `magnitude`, the largest |value|; or `largest`, the largest value with its sign.
        return_vectors: whether the eigenvectors are returned.

    Returns:
        `estimate(product, key, params, start=None) -> EigenEstimate`; `start` is a vector, a pytree like the
        parameters, of any length; None or zero means a random vector. It raises `UserError` if there are fewer than k
        parameters, or the start does not match their structure.

    Raises:
        UserError: k below 1 or above max_steps, a tolerance that is not positive, an unknown `which`.

    >>> H = jnp.diag(jnp.array([-5.0, 3.0, 0.5]))
    >>> result = lanczos(k=2)(lambda v: H @ v, jax.random.key(0), jnp.zeros(3))
    >>> [round(float(value), 3) for value in result.values]
    [-5.0, 3.0]
    """
    if check_count("k", k) > check_count("max_steps", max_steps):
        raise UserError(f"k {k} needs at least as many steps, but max_steps is {max_steps}")
    check_positive("relative_tolerance", relative_tolerance)
    check_choice("which", which, WHICH)

    def estimate(product: Product, key: jax.Array, params: Any, start: Any = None) -> EigenEstimate:
        multiply, unflatten, dim = flat_product(product, params)
        if k > dim:
            raise UserError(f"k {k} must be at most the number of parameters, {dim}")
        num_steps = min(max_steps, dim)

        def step(state: tuple[_Krylov, _Ritz]) -> tuple[_Krylov, _Ritz]:
            krylov = lanczos_step(multiply, key, state[0])
            return krylov, _ritz(krylov, k, which, relative_tolerance)

        def goes_on(state: tuple[_Krylov, _Ritz]) -> jax.Array:
            krylov, ritz = state
            is_finite = jnp.isfinite(krylov.alpha).all() & jnp.isfinite(krylov.beta).all()
            return (krylov.step < num_steps) & is_finite & ~ritz.is_converged.all()

        krylov = lanczos_start(key, dim, num_steps, jax.tree.leaves(params)[0].dtype)
        if start is not None:
            check_alike(start, params)
            given = normalize(ravel_pytree(start)[0])
            given = jnp.where((given == 0).all(), krylov.basis[0], given)
            krylov = krylov._replace(basis=krylov.basis.at[0].set(given))
        nothing = jnp.zeros(k, krylov.alpha.dtype)
        ritz = _Ritz(nothing, nothing, jnp.zeros((k, num_steps), nothing.dtype), jnp.zeros(k, bool))
        krylov, ritz = lax.while_loop(goes_on, step, (krylov, ritz))
        vectors = ritz.coordinates @ krylov.basis[:-1] if return_vectors else None
        return _result(ritz.values, ritz.residuals, ritz.is_converged, krylov.step, vectors, unflatten)

    return estimate


def _result(
    values: jax.Array,
    residuals: jax.Array,
    converged: jax.Array,
    count: jax.Array,
    vectors: jax.Array | None,
    unflatten: Callable,
) -> EigenEstimate:
    finite = jnp.isfinite(values)
    return EigenEstimate(
        values=values,
        residuals=jnp.where(finite, residuals, jnp.nan),
        converged=converged & finite,
        num_products=count,
        is_finite=finite.all(),
        vectors=None if vectors is None else tuple(unflatten(vector) for vector in vectors),
    )


def lanczos_start(key: jax.Array, dim: int, num_steps: int, dtype: Any) -> _Krylov:
    """Return the factorization of no steps from a random unit vector."""
    basis = jnp.zeros((num_steps + 1, dim), dtype)
    basis = basis.at[0].set(normalize(jax.random.normal(key, (dim,), dtype)))
    return _Krylov(jnp.zeros((), jnp.int32), basis, jnp.zeros(num_steps, dtype), jnp.zeros(num_steps, dtype))


def lanczos_step(multiply: Callable, key: jax.Array, krylov: _Krylov) -> _Krylov:
    """Return the factorization after one more product.

    If the space is invariant (nothing is left after orthogonalization), it goes on from a new random direction,
    decoupled from what is there.
    """
    step, basis, alpha, beta = krylov
    vector = lax.dynamic_index_in_dim(basis, step, 0, keepdims=False)
    rest, coefficients = _orthogonalized(multiply(vector), basis)
    norm = safe_norm(rest)
    alpha = lax.dynamic_update_index_in_dim(alpha, coefficients[step], step, 0)
    scale = jnp.maximum(jnp.abs(alpha).max(), beta.max())
    is_invariant = norm <= 10 * jnp.finfo(norm.dtype).eps * scale

    def restart() -> jax.Array:
        fresh = jax.random.normal(jax.random.fold_in(key, step), vector.shape, vector.dtype)
        return normalize(_orthogonalized(normalize(_orthogonalized(fresh, basis)[0]), basis)[0])

    following = lax.cond(is_invariant, restart, lambda: normalize(rest))
    return _Krylov(
        step=step + 1,
        basis=lax.dynamic_update_index_in_dim(basis, following, step + 1, 0),
        alpha=alpha,
        beta=lax.dynamic_update_index_in_dim(beta, jnp.where(is_invariant, jnp.zeros_like(norm), norm), step, 0),
    )


def _orthogonalized(vector: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the vector without its part in the basis, and that part's coordinates; Gram-Schmidt twice."""
    first = basis @ vector
    vector = vector - first @ basis
    second = basis @ vector
    return vector - second @ basis, first + second


def tridiagonal_eigen(
    krylov: _Krylov,
) -> tuple[Float[Array, " steps"], Float[Array, "steps steps"], Bool[Array, " steps"]]:
    """Return eigenvalues, eigenvectors as columns, and which of them are there.

    What the factorization lacks is filled with a diagonal above all eigenvalues, so it comes last and apart.
    """
    num_steps = krylov.alpha.shape[0]
    index = jnp.arange(num_steps, dtype=jnp.int32)
    alpha, beta = (jnp.where(jnp.isfinite(a), a, 0) for a in (krylov.alpha, krylov.beta))
    inner = jnp.where(index < krylov.step - 1, beta, 0)
    above = jnp.concatenate([jnp.zeros(1, inner.dtype), inner[:-1]])
    bound = (jnp.abs(alpha) + inner + above).max()
    alpha = jnp.where(index < krylov.step, alpha, 2 * bound + 1)
    matrix = jnp.diag(alpha) + jnp.diag(inner[:-1], 1) + jnp.diag(inner[:-1], -1)
    values, vectors = symmetric_eigen(matrix)
    return values, vectors, index < krylov.step


def _ritz(krylov: _Krylov, k: int, which: str, relative_tolerance: float) -> _Ritz:
    values, vectors, is_there = tridiagonal_eigen(krylov)
    size = jnp.abs(values) if which == "magnitude" else values
    order = jnp.argsort(jnp.where(is_there, size, -jnp.inf), descending=True)[:k]
    last = krylov.step - 1
    residuals = jnp.abs(lax.dynamic_index_in_dim(vectors, last, 0, keepdims=False)[order]) * krylov.beta[last]
    is_finite = jnp.isfinite(krylov.alpha).all() & jnp.isfinite(krylov.beta).all()
    chosen = jnp.where(is_finite & is_there[order], values[order], jnp.nan)
    is_converged = residuals <= relative_tolerance * jnp.abs(chosen)
    if which == "magnitude":
        is_converged &= ~_may_hide_larger(krylov, values, vectors, order, jnp.abs(chosen), relative_tolerance)
    return _Ritz(chosen, residuals, vectors.T[order], is_converged)


def _may_hide_larger(
    krylov: _Krylov,
    values: jax.Array,
    vectors: jax.Array,
    order: jax.Array,
    sizes: jax.Array,
    relative_tolerance: float,
) -> jax.Array:
    """Return whether an end of the spectrum that was not chosen may be larger than those that were, (k,).

    What is known of an end is its Ritz value and how far that is from settled, its residual: |value| + residual is how
    far it may reach, unless it is found as closely as the chosen ones and is smaller. No bound, as Ritz values can hide
    an eigenvalue whose vector they lack.
    """
    last = krylov.step - 1
    ends = jnp.stack([jnp.zeros_like(last), last])  # Ritz values ascend; what is not there yet comes after them
    residuals = jnp.abs(lax.dynamic_index_in_dim(vectors, last, 0, keepdims=False)[ends]) * krylov.beta[last]
    is_rival = (ends[:, None] != order.astype(ends.dtype)[None]).all(axis=1)
    limit = sizes[None]
    is_open = residuals[:, None] > relative_tolerance * limit
    return (is_rival[:, None] & is_open & (jnp.abs(values[ends])[:, None] + residuals[:, None] > limit)).any(axis=0)


class SpectralDensity(NamedTuple):
    """A spectrum as weighted points: the share of eigenvalues near a node is its weight.

    Attributes:
        nodes: eigenvalues; NaN for a matrix that is not finite.
        weights: >= 0; they sum to 1 over both axes.
    """

    nodes: Float[Array, "probes steps"]
    weights: Float[Array, "probes steps"]


def spectral_density(num_probes: int = 8, num_steps: int = 40, block: int = 8) -> Callable[..., SpectralDensity]:
    """Return an estimator of the density of all eigenvalues by stochastic Lanczos quadrature.

    Golub and Meurant (2010), Ghorbani, Krishnan and Xiao (2019): from each of `num_probes` random unit vectors,
    `num_steps` of Lanczos with full reorthogonalization; nodes are the eigenvalues of the tridiagonal matrix, weights
    the squares of the first entries of its eigenvectors. Moments up to order 2 num_steps - 1 are unbiased.

    Memory: (dim x num_steps x block) numbers.

    Args:
        num_probes: starting vectors.
        num_steps: products per starting vector; at most the number of parameters is used.
        block: number of starting vectors in one batched product.

    Returns:
        `estimate(product, key, params) -> SpectralDensity`, which unpacks into nodes and weights.

    Raises:
        UserError: a number below 1.

    >>> nodes, weights = spectral_density(4, 3)(lambda v: 2 * v, jax.random.key(0), jnp.zeros(5))
    >>> round(float((nodes * weights).sum()), 4), round(float(weights.sum()), 4)
    (2.0, 1.0)
    """
    check_count("num_probes", num_probes)
    check_count("num_steps", num_steps)
    block = min(check_count("block", block), num_probes)

    def estimate(product: Product, key: jax.Array, params: Any) -> SpectralDensity:
        multiply, _, dim = flat_product(product, params)
        steps = min(num_steps, dim)
        dtype = jax.tree.leaves(params)[0].dtype

        def probe(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            start = lanczos_start(key, dim, steps, dtype)
            krylov = lax.fori_loop(0, steps, lambda _, krylov: lanczos_step(multiply, key, krylov), start)
            values, vectors, _ = tridiagonal_eigen(krylov)
            is_finite = jnp.isfinite(krylov.alpha).all() & jnp.isfinite(krylov.beta).all()
            return jnp.where(is_finite, values, jnp.nan), vectors[0] ** 2 / num_probes

        return SpectralDensity(*lax.map(probe, jax.random.split(key, num_probes), batch_size=block))

    return estimate


def smooth_density(density: SpectralDensity, grid: Float[Array, " n"], width: float) -> Float[Array, " n"]:
    """Return the density on a grid of eigenvalues, with each node smoothed by a Gaussian; its integral is 1.

    Args:
        density: nodes and weights.
        grid: eigenvalues.
        width: standard deviation of the Gaussian, in the units of the eigenvalues.

    Raises:
        UserError: a width that is not positive.
    """
    check_positive("width", width)
    nodes, weights = (a.reshape(1, -1) for a in density)
    return (jax.scipy.stats.norm.pdf(grid[:, None], nodes, width) * weights).sum(1)
