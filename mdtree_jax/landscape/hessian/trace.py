"""Stochastic estimates of the trace of a symmetric matrix given by its products with vectors. JAX.

`hutchinson(options) -> estimate(product, key, params, weights=None) -> TraceEstimate`; `xtrace` has the same interface.
The trace need not be positive: the Hessian of a network early in training can have a negative trace, which is returned
with its sign.

| case | mean | standard_error | is_finite | stops |
|---|---|---|---|---|
| zero matrix | 0 | 0 | true | immediately, if a relative error is requested |
| diagonal matrix | exact | 0 | true | immediately, if a relative error is requested |
| a product with NaN or infinity | NaN or infinite | NaN | false | after the block in which it appears |
| trace near zero | as estimated | as estimated | true | at the budget: the relative error stays large |
| one sample | as estimated | NaN: undefined for one sample | true | never reaches a relative error |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mdtree_jax.landscape.arguments import check_params
from mdtree_jax.landscape.hessian.products import Product, over_block
from mdtree_jax.landscape.options import check_count, check_positive
from mdtree_jax.landscape.pytrees import sum_of, tree_signs

#: Fewest samples whose standard error is reliable enough to stop.
MIN_SAMPLES = 8

TraceKernel = Callable[..., "TraceEstimate"]


class TraceEstimate(NamedTuple):
    """An estimated trace, in units of the loss per squared unit of the parameters.

    Attributes:
        mean: the estimate, with its sign.
        standard_error: of the mean.
        leaf_traces: pytree of scalars like the parameters, each the trace of the leaf's diagonal block, always the
            plain mean over the ±1 probes.
        leaf_standard_errors: of the leaf traces.
        weighted_mean: sum over i of w_i H_ii from the same probes; None without weights.
        weighted_standard_error: of the weighted mean; None without weights.
        num_products: number of products with vectors used.
        is_finite: whether the estimate is finite.
        converged: whether it is finite and the requested relative error, if any, was reached within the budget.
        leading: for `xtrace(leading=True)`, a vector near the dominant eigenvector, a pytree like the parameters, as a
            start for `lanczos`; else None.
    """

    mean: Float[Array, ""]
    standard_error: Float[Array, ""]
    leaf_traces: Any
    leaf_standard_errors: Any
    weighted_mean: Float[Array, ""] | None
    weighted_standard_error: Float[Array, ""] | None
    num_products: Int[Array, ""]
    is_finite: Bool[Array, ""]
    converged: Bool[Array, ""]
    leading: Any = None


def hutchinson(
    max_probes: int = 100, relative_error: float | None = None, block: int = 8, batched: bool = True
) -> TraceKernel:
    """Return an estimator of the trace by random signs (Hutchinson, 1989): the mean of v'Hv over ±1 vectors v.

    Unbiased, with variance 2 (‖H‖² - sum H_ii²) / probes in the Frobenius norm. Memory: a block of vectors.

    Args:
        max_probes: the budget; rounded down to a multiple of `block`.
        relative_error: stop when standard_error <= relative_error * |mean|; None uses the whole budget.
        block: number of vectors between two checks of the error.
        batched: whether the products of a block are computed at once; see `over_block`.

    Returns:
        `estimate(product, key, params, weights=None)`: `product` maps a pytree like `params` to H times it; `weights`
        is a pytree like `params` of numbers w_i >= 0, or None. It raises `UserError` if there are no parameters or
        they are not floating-point numbers.

    Raises:
        UserError: a budget or block below 1, a relative error that is not positive.

    >>> H = jnp.array([[2.0, 1.0], [1.0, -3.0]])
    >>> result = hutchinson(max_probes=64)(lambda v: H @ v, jax.random.key(0), jnp.zeros(2))
    >>> bool(abs(result.mean - jnp.trace(H)) < 3 * result.standard_error), int(result.num_products)
    (True, 64)
    """
    block = min(check_count("block", block), check_count("max_probes", max_probes))
    num_blocks = max_probes // block
    if relative_error is not None:
        check_positive("relative_error", relative_error)

    def estimate(product: Product, key: jax.Array, params: Any, weights: Any = None) -> TraceEstimate:
        check_params(params)

        def step(state: tuple) -> tuple:
            index, samples, _ = state
            probes = tree_signs(jax.random.fold_in(key, index), params, block)
            products = over_block(product, probes, batched)
            samples = lax.dynamic_update_slice_in_dim(
                samples, probe_samples(probes, products, weights), index * block, 0
            )
            index = index + 1
            mean, error = mean_and_error(samples[:, 0], index * block)
            return index, samples, is_done(mean, error, index * block, relative_error)

        samples = empty_samples(params, num_blocks * block, weights)
        start = jnp.zeros((), jnp.int32), samples, jnp.zeros((), bool)
        index, samples, _ = lax.while_loop(lambda s: (s[0] < num_blocks) & ~s[2], step, start)
        mean, error = mean_and_error(samples[:, 0], index * block)
        return make_estimate(mean, error, samples, index * block, index * block, relative_error, params, weights)

    return estimate


def probe_samples(probes: Any, products: Any, weights: Any) -> jax.Array:
    """Return (block, 1 + leaves + 1 if weights): v'Hv, its part of every leaf, and the weighted sum of v (Hv)."""

    def per_probe(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(leaf.shape[0], -1).sum(1)

    elements = jax.tree.map(lambda v, h: v * h, probes, products)
    leaves = [per_probe(leaf) for leaf in jax.tree.leaves(elements)]
    columns = [sum_of(leaves), *leaves]
    if weights is not None:
        weighted = jax.tree.map(lambda e, w: e * w[None], elements, weights)
        columns.append(sum_of([per_probe(leaf) for leaf in jax.tree.leaves(weighted)]))
    return jnp.stack(columns, axis=1)


def empty_samples(params: Any, count: int, weights: Any) -> jax.Array:
    """Return the zeros that `probe_samples` are written into."""
    leaves = jax.tree.leaves(params)
    return jnp.zeros((count, 1 + len(leaves) + (weights is not None)), leaves[0].dtype)


def mean_and_error(samples: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and standard error of the first `count` of the samples (n,) or (n, m), along the first axis.

    The standard error of a single sample is NaN.
    """
    used = jnp.arange(samples.shape[0], dtype=jnp.int32) < count
    used = used.reshape(-1, *[1] * (samples.ndim - 1))
    number = count.astype(samples.dtype)
    mean = jnp.where(used, samples, 0).sum(0) / number
    squares = jnp.where(used, (samples - mean[None]) ** 2, 0).sum(0)
    error = jnp.sqrt(squares / (number * jnp.maximum(number - 1, 1)))
    return mean, jnp.where(number > 1, error, jnp.nan)


def is_done(mean: jax.Array, error: jax.Array, num_samples: jax.Array, relative_error: float | None) -> jax.Array:
    """Return whether to stop: the relative error is reached, or the estimate is not finite any more."""
    if relative_error is None:
        return ~jnp.isfinite(mean)
    return ~jnp.isfinite(mean) | ((num_samples >= MIN_SAMPLES) & (error <= relative_error * jnp.abs(mean)))


def make_estimate(
    mean: jax.Array,
    error: jax.Array,
    samples: jax.Array,
    num_samples: jax.Array,
    num_products: jax.Array,
    relative_error: float | None,
    params: Any,
    weights: Any,
) -> TraceEstimate:
    """Return the result from the mean, its standard error and the samples of all probes."""
    means, errors = mean_and_error(samples, num_samples)
    structure = jax.tree.structure(params)
    end = 1 + structure.num_leaves
    finite = jnp.isfinite(mean)
    reached = True if relative_error is None else error <= relative_error * jnp.abs(mean)
    return TraceEstimate(
        mean=mean,
        standard_error=jnp.where(finite, error, jnp.nan),
        leaf_traces=structure.unflatten(list(means[1:end])),
        leaf_standard_errors=structure.unflatten(list(errors[1:end])),
        weighted_mean=None if weights is None else means[end],
        weighted_standard_error=None if weights is None else errors[end],
        num_products=num_products,
        is_finite=finite,
        converged=finite & reached,
    )
