"""Problems whose Hessian is known another way."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def symmetric(eigenvalues, seed=0):
    """Return a dense matrix with these eigenvalues and random eigenvectors."""
    eigenvalues = np.asarray(eigenvalues, float)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    return basis * eigenvalues @ basis.T


def split(dim):
    """Return zero parameters of that many numbers in two leaves, one of them a matrix if there are enough."""
    first = dim // 3
    return {"b": jnp.zeros(dim - 2 * (first // 2)), "a": jnp.zeros((2, first // 2))}


def matrix_product(matrix, params):
    """Return the product of a dense matrix with pytrees like the parameters."""
    unflatten = ravel_pytree(params)[1]
    return lambda vector: unflatten(jnp.asarray(matrix) @ ravel_pytree(vector)[0])


def dense(product, params):
    """Return the matrix of a product, column by column."""
    flat, unflatten = ravel_pytree(params)
    columns = [ravel_pytree(product(unflatten(row)))[0] for row in jnp.eye(flat.size)]
    return np.stack(columns, 1)


def regression(rows=7, features=4, seed=0):
    """Return loss, parameters and data of a linear regression with bias, and the Hessian of its mean square error."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(rows, features)), rng.normal(size=rows)
    params = {"weight": jnp.asarray(rng.normal(size=features)), "shift": jnp.asarray(rng.normal(size=1))}

    def loss(params, data):
        return ((data[0] @ params["weight"] + params["shift"] - data[1]) ** 2).mean()

    design = np.concatenate([np.ones((rows, 1)), x], 1)  # "shift" comes first: keys are sorted
    return loss, params, (jnp.asarray(x), jnp.asarray(y)), 2 / rows * design.T @ design


def tiny_network(rows=9, seed=0, scale=1.0):
    """Return outputs, loss, parameters and data of a network 3-4-3 with tanh and cross-entropy: 31 parameters."""
    rng = np.random.default_rng(seed)
    data = jnp.asarray(rng.normal(size=(rows, 3))), jnp.asarray(rng.integers(0, 3, rows))
    shapes = {"a": (3, 4), "b": (4,), "c": (4, 3), "d": (3,)}
    params = {name: jnp.asarray(scale * rng.normal(size=shape)) for name, shape in shapes.items()}

    def outputs(params, data):
        return jnp.tanh(data[0] @ params["a"] + params["b"][None]) @ params["c"] + params["d"][None]

    def output_loss(logits, data):
        hot = jax.nn.one_hot(data[1], 3, dtype=logits.dtype)
        return -(jax.nn.log_softmax(logits) * hot).sum(1).mean()

    def loss(params, data):
        return output_loss(outputs(params, data), data)

    return outputs, output_loss, loss, params, data


def dense_hessian(loss, params, *arguments):
    """Return jax.hessian on the flat parameters: reverse over reverse of the whole, not a product."""
    flat, unflatten = ravel_pytree(params)
    return np.asarray(jax.jacrev(jax.jacrev(lambda w: loss(unflatten(w), *arguments)))(flat))
