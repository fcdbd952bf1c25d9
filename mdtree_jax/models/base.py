"""The interface of a network, `Model(init, apply)`, and the registry of architectures. JAX.

An architecture is one file of this folder: a builder decorated with `register("name")`. The folder's `__init__.py`
imports it; nothing else has to know about a new one.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.models.matrix_product import product_flops

_BUILDERS: dict[str, Callable[..., Any]] = {}


class Model(NamedTuple):
    """A network as two pure functions; hashable, so that it can be a static argument.

    Attributes:
        init: `init(key) -> variables`, the pytree `{"params": ..., "batch_stats": ...}` of one network.
        apply: `apply(variables, x, train) -> (logits, intermediates, batch_stats)` for images `x` of shape
            (batch, height, width, channels). `logits` is (batch, classes), `intermediates` a dictionary of named
            activations with the batch as first axis, `batch_stats` the running averages after this batch if
            `train`, the ones given otherwise.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array, bool], tuple[jax.Array, dict[str, jax.Array], Any]]


def register(name: str) -> Callable:
    """Return a decorator that makes a builder known under `name`.

    A builder takes `width`, `num_classes` and `dtype` and returns an unbound Flax Linen module whose call
    is `module(x, train) -> (logits, intermediates)`.
    """

    def decorate(builder: Callable) -> Callable:
        _BUILDERS[name] = builder
        return builder

    return decorate


def model_names() -> list[str]:
    """Return the names of all architectures, sorted."""
    return sorted(_BUILDERS)


@functools.cache
def build_model(
    name: str,
    width: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    dtype: str = "float32",
    knobs: tuple[tuple[str, Any], ...] = (),
) -> Model:
    """Return the named architecture at a width.

    Args:
        name: one of `model_names()`.
        width: channels of the first layer (units of the hidden layers for `mlp`), at least 1.
        num_classes: number of logits.
        image_shape: (height, width, channels) of an image.
        dtype: of parameters and running averages.
        knobs: further arguments of the builder, with their values.

    Raises:
        UserError: an unknown name, a width below 1, a knob that the builder does not take.
    """
    builder = _BUILDERS[check_choice("model", name, model_names())]
    if width < 1:
        raise UserError(f"width {width} of model '{name}' must be at least 1")
    parameters = inspect.signature(builder).parameters
    for knob, _ in knobs:
        if knob not in parameters:
            raise UserError(f"the builder of model '{name}' takes no '{knob}', so that knob does nothing there")
    module = builder(width=width, num_classes=num_classes, dtype=jnp.dtype(dtype), **dict(knobs))

    def init(key: jax.Array) -> Any:
        variables = module.init(key, jnp.zeros((1, *image_shape), dtype), False)
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    def apply(variables: Any, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        if not train:
            logits, intermediates = module.apply(variables, x, False)
            return logits, intermediates, variables["batch_stats"]
        (logits, intermediates), updated = module.apply(variables, x, True, mutable=["batch_stats"])
        return logits, intermediates, updated.get("batch_stats", {})

    return Model(init, apply)


def count_parameters(model: Model) -> int:
    """Return the number of trainable parameters, without computing any of them."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def count_flops(model: Model, image_shape: tuple[int, int, int], dtype: str = "float32") -> int:
    """Return the floating-point operations of one image's forward pass: products and convolutions, 2 per multiply-add.

    Taken from the traced program, so it holds for any architecture. One training step costs about three times that
    per image. Normalization, activations and the optimizer are not counted.
    """
    return _product_flops(_trace(model, image_shape, 1, False, dtype))


def count_activations(model: Model, image_shape: tuple[int, int, int], batch_size: int, dtype: str = "float32") -> int:
    """Return the numbers that the forward pass of one batch in training mode computes: what a step may have to hold.

    An upper estimate: the compiler fuses some away.
    """
    jaxpr = _trace(model, image_shape, batch_size, True, dtype)
    return sum(math.prod(out.aval.shape) for equation in jaxpr.eqns for out in equation.outvars)


def _trace(model: Model, image_shape: tuple[int, int, int], batch_size: int, train: bool, dtype: str) -> Any:
    variables = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((batch_size, *image_shape), dtype)
    return jax.make_jaxpr(lambda v, x: model.apply(v, x, train)[0])(variables, x).jaxpr


def _product_flops(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted], dtype=int)
            total += 2 * int(depth) * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "matrix_product":
            total += product_flops(tuple(v.aval.shape for v in equation.invars), equation.params["summed"])
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(kernel) // features * math.prod(equation.outvars[0].aval.shape)
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += repeats * _product_flops(inner)
    return total
