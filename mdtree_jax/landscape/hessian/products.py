"""Products of the Hessian and the generalised Gauss-Newton matrix of a mean loss with vectors. JAX.

A product is a linear map on pytrees like the parameters. It is meant for blocks of vectors: `over_block(product,
vectors, batched)` shares everything that does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from mdtree_jax.checks import UserError
from mdtree_jax.landscape.arguments import check_params, check_scalar, count_rows
from mdtree_jax.landscape.options import check_count

Product = Callable[[Any], Any]


class BlockProduct:
    """A product that knows a better way through a block of vectors than one after the other.

    `one(vector)` is the product, `block(vectors, batched)` the products with vectors stacked along the first axis.
    """

    def __init__(self, one: Product, block: Callable[[Any, bool], Any]):
        self._one, self.block = one, block

    def __call__(self, vector: Any) -> Any:
        """Return the product with one vector."""
        return self._one(vector)


def hvp(loss: Callable[..., jax.Array], params: Any, data: Any = None, *, batch_size: int | None = None) -> Product:
    """Return the map v -> H v, H the Hessian of the loss at `params`.

    Forward over reverse (Pearlmutter, 1994): H v is the derivative of the gradient along v. The gradient is linearized
    once, so that all products share its forward and backward pass. With more than one batch, it is linearized once per
    batch and call, shared by the vectors of a block.

    H is the Hessian of exactly the given loss: it includes weight decay only if the loss does, and BatchNorm must be in
    evaluation mode (`check_loss` checks this).

    Args:
        loss: `loss(params)`, or `loss(params, data)`, the mean over the rows of `data`; a scalar.
        params: pytree of float arrays.
        data: pytree of arrays with the same first axis n, or None.
        batch_size: rows at a time; None uses all at once. The last batch may be shorter and is weighted by its rows, so
            the result does not depend on the batch size. A divisor of n compiles only one shape.

    Raises:
        UserError: no parameters, integer or mixed types, a loss that is not scalar, no rows, first axes that differ, a
            batch size below 1 or without data.

    >>> product = hvp(lambda w: 3 * w["a"] ** 2 + w["a"] * w["b"], {"a": jnp.float32(1), "b": jnp.float32(2)})
    >>> {k: float(x) for k, x in product({"a": jnp.float32(1), "b": jnp.float32(0)}).items()}
    {'a': 6.0, 'b': 1.0}
    """
    check_params(params)
    if data is None:
        if batch_size is not None:
            raise UserError(f"batch_size {batch_size} needs data to cut into batches; none was given")
        check_scalar(jax.eval_shape(loss, params))
        return _linearized(loss, params)
    check_scalar(jax.eval_shape(loss, params, _first_rows(data, batch_size)))
    return _over_batches(lambda batch: _linearized(lambda p: loss(p, batch), params), params, data, batch_size)


def ggn(
    outputs: Callable[[Any, Any], Any],
    output_loss: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Any,
    *,
    batch_size: int | None = None,
) -> Product:
    """Return the map v -> J' H_out J v of the generalised Gauss-Newton matrix (Schraudolph, 2002).

    J is the Jacobian of the outputs with respect to the parameters, H_out the Hessian of the loss with respect to the
    outputs. Equal to the Hessian where the outputs are linear in the parameters or the loss is at its minimum in
    every output; positive semi-definite if the loss is convex in the outputs.

    Args:
        outputs: `outputs(params, data)`, for instance the logits (n, classes).
        output_loss: `output_loss(outputs, data)`, the mean over the rows; a scalar.
        params: pytree of float arrays.
        data: pytree of arrays with the same first axis n.
        batch_size: as in `hvp`.

    Raises:
        UserError: no parameters, integer or mixed types, an output loss that is not scalar, no rows, first axes that
            differ, a batch size below 1.
    """
    check_params(params)
    batch = _first_rows(data, batch_size)
    check_scalar(jax.eval_shape(lambda p, batch: output_loss(outputs(p, batch), batch), params, batch))

    def prepare(batch: Any) -> Product:
        out, jacobian = jax.linearize(lambda p: outputs(p, batch), params)
        transposed = jax.linear_transpose(jacobian, params)
        out_hessian = _linearized(lambda o: output_loss(o, batch), out)
        return lambda vector: transposed(out_hessian(jacobian(vector)))[0]

    return _over_batches(prepare, params, data, batch_size)


def over_block(product: Product, vectors: Any, batched: bool) -> Any:
    """Return the products with vectors stacked along the first axis: all at once, or one after the other.

    At once is one set of larger operations, for an accelerator; on a CPU the tangents of a block do not stay in the
    cache, and one after the other takes half the time and half the time to compile.
    """
    if isinstance(product, BlockProduct):
        return product.block(vectors, batched)
    return jax.vmap(product)(vectors) if batched else lax.map(product, vectors)


def flat_product(product: Product, params: Any) -> tuple[Product, Callable[[jax.Array], Any], int]:
    """Return the product on flat vectors, the map from a flat vector to a pytree like `params`, and the dimension.

    Raises:
        UserError: no parameters, integer or mixed types.
    """
    check_params(params)
    flat, unflatten = ravel_pytree(params)

    def flatten(tree: Any) -> jax.Array:
        return ravel_pytree(tree)[0]

    def one(vector: jax.Array) -> jax.Array:
        return flatten(product(unflatten(vector)))

    def block(vectors: jax.Array, batched: bool) -> jax.Array:
        return jax.vmap(flatten)(over_block(product, jax.vmap(unflatten)(vectors), batched))

    return (BlockProduct(one, block) if isinstance(product, BlockProduct) else one), unflatten, flat.size


def _first_rows(data: Any, batch_size: int | None) -> Any:
    """Return the first batch, checked."""
    size = count_rows(data)
    if batch_size is None or check_count("batch_size", batch_size) >= size:
        return data
    return jax.tree.map(lambda a: a[:batch_size], data)


def _linearized(function: Callable[[Any], jax.Array], at: Any) -> Product:
    return jax.linearize(jax.grad(function), at)[1]


def _over_batches(prepare: Callable[[Any], Product], params: Any, data: Any, batch_size: int | None) -> Product:
    """Return the mean of the batches' products, weighted by their rows."""
    size = count_rows(data)
    batch_size = size if batch_size is None else min(check_count("batch_size", batch_size), size)
    if batch_size == size:
        return prepare(data)
    count, rest = divmod(size, batch_size)
    batches = jax.tree.map(lambda a: a[: size - rest].reshape(count, batch_size, *a.shape[1:]), data)
    last = jax.tree.map(lambda a: a[size - rest :], data)

    def mean(multiply: Callable[[Product], Any], like: Any) -> Any:
        def add(total: Any, batch: Any) -> tuple[Any, None]:
            return jax.tree.map(lambda t, h: t + h * (batch_size / size), total, multiply(prepare(batch))), None

        total, _ = lax.scan(add, jax.tree.map(jnp.zeros_like, like), batches)
        if rest:
            total = jax.tree.map(lambda t, h: t + h * (rest / size), total, multiply(prepare(last)))
        return total

    # The batch is the outer loop: what a block shares of it is made once, and is never kept for two batches.
    return BlockProduct(
        lambda vector: mean(lambda product: product(vector), vector),
        lambda vectors, batched: mean(lambda product: over_block(product, vectors, batched), vectors),
    )
