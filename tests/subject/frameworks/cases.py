"""Models of every framework, with what the framework itself computes for them: the truth for adapters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CLASSES = 3


class Case(NamedTuple):
    """A model of a framework.

    Attributes:
        framework, architecture: of the table.
        objective: `cross_entropy`, `regression` or `lm`.
        x: inputs.
        model: the model object that an adapter takes.
        network: one network of it, with statistics that have moved.
        other: another network.
        outputs: `outputs(network, x) -> array` in evaluation mode, by the framework.
        trained: `trained(network, x) -> network` after a batch in training mode without dropout; None without state.
        derivatives: `derivatives(network, x, y, loss, direction) -> (gradient, product)` by name, by the framework; the
            loss is `loss(outputs, y, library)`.
        build: returns a fresh model.
    """

    framework: str
    architecture: str
    objective: str
    x: Any
    model: Any
    network: Any
    other: Any
    outputs: Callable[[Any, Any], Any]
    trained: Callable[[Any, Any], Any] | None
    derivatives: Callable[..., Any]
    build: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.framework} {self.architecture} {self.objective}"


def vectors(rows: int = 24, features: int = 6) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, features)).astype(np.float32)


def images(rows: int = 12, size: int = 8, channels: int = 2, first: bool = False) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((rows, size, size, channels)).astype(np.float32)
    return np.moveaxis(x, -1, 1).copy() if first else x


def sequences(rows: int = 12, length: int = 7, features: int = 5) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((rows, length, features)).astype(np.float32)


def tokens(rows: int = 8, length: int = 10, vocabulary: int = 17) -> np.ndarray:
    return np.random.default_rng(3).integers(0, vocabulary, (rows, length)).astype(np.int32)


def targets(outputs: Any, objective: str) -> np.ndarray:
    """Return targets that fit outputs."""
    shape = np.shape(outputs)
    rng = np.random.default_rng(4)
    if objective == "regression":
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(0, shape[-1], shape[:-1]).astype(np.int32)


def jax_loss(outputs: Any, y: Any) -> Any:
    """Return the mean cross-entropy over all targets, or the mean squared residual of targets that are real."""
    if jnp.issubdtype(y.dtype, jnp.floating):
        return ((outputs - y) ** 2).mean()
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[..., None], -1).mean()


def jax_derivatives(
    split: Callable[[Any], tuple[Any, Any]], call: Callable[..., Any], named: Callable[[Any, Any], Any]
) -> Callable[..., Any]:
    """Return `derivatives` of a framework of JAX.

    Args:
        split: network -> (parameters, rest).
        call: `call(parameters, rest, x) -> outputs`.
        named: `named(parameters, rest) -> {name: array}`, the adapter's names of the parameters.
    """

    def derivatives(network: Any, x: Any, y: Any, direction: dict[str, Any]) -> Any:
        params, rest = split(network)

        def loss(params: Any) -> Any:
            return jax_loss(call(params, rest, x), y)

        names = named(params, rest)
        order = {id(leaf): name for name, leaf in names.items()}
        leaves, structure = jax.tree.flatten(params)
        tangent = structure.unflatten([jnp.asarray(direction[order[id(leaf)]]) for leaf in leaves])
        gradient, product = jax.jit(functools.partial(jax.jvp, jax.grad(loss)))((params,), (tangent,))
        back = dict(zip((order[id(leaf)] for leaf in leaves), range(len(leaves)), strict=True))
        grads, products = jax.tree.leaves(gradient), jax.tree.leaves(product)
        return {n: grads[i] for n, i in back.items()}, {n: products[i] for n, i in back.items()}

    return derivatives
