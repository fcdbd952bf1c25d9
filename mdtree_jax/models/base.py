"""Build a network, `Model(init, apply)`, from the name of an architecture, and compute its cost. JAX.

A *builder* is bound to an architecture of `mdtree_jax.registry.architectures`, or is a user's own function given as
`package.module:function`. It is called with those of these settings that are among its arguments:

| setting | value |
|---|---|
| `width` | the knob, at least 1 |
| `num_classes`, `num_outputs` | the number of outputs: classes, the vocabulary, or targets |
| `image_shape`, `input_shape` | the shape of one input, for images (height, width, channels) |
| `dtype` | of parameters and arithmetic, as NumPy's dtype |
| a knob that acts on `build` | the knob, by its name |

It returns a `Model`, or an unbound Flax Linen module whose call is `module(x, train)` or `module(x)` and gives outputs
(batch, outputs), for the objective `lm` (batch, time, outputs), or `(outputs, {name: activations})`.
"""

from __future__ import annotations

import functools
import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.models.flax_module import Model, check_model, check_module, module_model
from mdtree_jax.models.matrix_product import product_flops
from mdtree_jax.registry.architectures import ARCHITECTURES, BUILT_IN, Architecture
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.register import register as register_entry
from mdtree_jax.registry.resolve import call_with, find_entry, is_own, resolve, takes


def builds(name: str) -> Callable:
    """Return a decorator that binds a builder to an architecture of the package."""

    def decorate(builder: Callable) -> Callable:
        ARCHITECTURES.bind(name, build=builder)
        return builder

    return decorate


def register(name: str) -> Callable:
    """Return a decorator that registers a builder under `name`; deprecated since 0.2, use `mdtree_jax.register`."""
    warnings.warn(
        "register of models.base goes in the next release; in a module of your own, named by plugins=[…], write "
        "register(Architecture(name), build=function), both imported from mdtree_jax",
        DeprecationWarning,
        stacklevel=2,
    )

    def decorate(builder: Callable) -> Callable:
        register_entry(Architecture(name), build=builder)
        return builder

    return decorate


def model_names() -> list[str]:
    """Return the names of all architectures."""
    return list(ARCHITECTURES)


def find_builder(name: str) -> Callable[..., Any]:
    """Return the builder of an architecture, or a user's own `package.module:function`.

    Raises:
        UserError: an unknown name, or a module or function that does not exist.
    """
    if is_own(name):
        return resolve(name, "model")
    entry = find_entry(ARCHITECTURES, name)
    builder = ARCHITECTURES.bound(entry.name, "build")
    if builder is None:
        raise UserError(f"the model '{name}' has no builder; register it as register(Architecture(…), build=function)")
    return builder


def check_widths(name: str, widths: Sequence[int]) -> None:
    """Raise `UserError` for an unknown architecture, or for several widths if its builder does not take `width`."""
    builder = find_builder(name)
    if len(widths) > 1 and not takes(builder, "width"):
        raise UserError(
            f"the builder of model '{name}' takes no 'width', so its networks would be the same at width="
            f"{list(widths)}; give one width"
        )


def build_model(
    name: str,
    width: int,
    num_classes: int,
    image_shape: tuple[int, ...],
    dtype: str = "float32",
    knobs: tuple[tuple[str, Any], ...] = (),
    *,
    input_kind: str = "float",
    output_shape: tuple[int, ...] | None = None,
) -> Model:
    """Return the named architecture at a width; the same object for the same arguments.

    Args:
        name: one of `model_names()`, or `package.module:function`.
        width: channels of the first layer (units of the hidden layers for `mlp`), at least 1.
        num_classes: number of outputs.
        image_shape: of one input, for images (height, width, channels).
        dtype: of parameters and running averages.
        knobs: further settings of the builder, with their values.
        input_kind: of the inputs, `float` or `int`.
        output_shape: of the outputs for one input; (num_classes,) if it is not given.

    Raises:
        UserError: an unknown name, a width below 1, a knob that the builder does not take; a user's builder that fails,
            or whose network does not match the settings.
    """
    builder = find_builder(name)
    if width < 1:
        raise UserError(f"width {width} of model '{name}' must be at least 1")
    for knob, _ in knobs:
        if not takes(builder, knob):
            raise UserError(f"the builder of model '{name}' takes no '{knob}', so that knob does nothing there")
    outputs = (num_classes,) if output_shape is None else tuple(output_shape)
    return _build(name, builder, width, num_classes, tuple(image_shape), dtype, knobs, input_kind, outputs)


@functools.cache
def _build(
    name: str,
    builder: Callable[..., Any],
    width: int,
    num_classes: int,
    image_shape: tuple[int, ...],
    dtype: str,
    knobs: tuple[tuple[str, Any], ...],
    input_kind: str,
    output_shape: tuple[int, ...],
) -> Model:
    settings = builder_settings(width, num_classes, image_shape, dtype) | dict(knobs)
    made = call_with(builder, settings, f"model={name}")
    if not isinstance(made, (nn.Module, Model)):
        raise UserError(
            f"model={name}: the function returns a {type(made).__name__}; expected a Flax Linen module, or a "
            "mdtree_jax.models.Model"
        )
    what = f"the model '{name}'"
    if name not in BUILT_IN and isinstance(made, nn.Module):
        check_module(made, image_shape, dtype, what, input_kind)
    model = module_model(made, image_shape, dtype, input_kind) if isinstance(made, nn.Module) else made
    if name not in BUILT_IN:
        check_model(model, image_shape, output_shape, dtype, what, input_kind)
    return model


def builder_settings(
    width: int | None, num_classes: int, image_shape: tuple[int, ...], dtype: str = "float32"
) -> dict[str, Any]:
    """Return the settings that a builder may name; without a width that is not known."""
    known = {} if width is None else {"width": width}
    known |= dict.fromkeys(("num_classes", "num_outputs"), num_classes)
    known |= dict.fromkeys(("image_shape", "input_shape"), tuple(image_shape))
    return known | {"dtype": jnp.dtype(dtype)}


def build_knobs(name: str, used: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the knobs beside the width that an architecture is built with: those used, and others its builder takes.

    Args:
        name: as of `build_model`.
        used: knob -> value, those that act elsewhere included; others have their default.
    """
    builder = find_builder(name)
    knobs = [knob for knob in KNOBS.values() if knob.acts_on == "build" and knob.name != "width"]
    taken = [knob for knob in knobs if knob.name in used or takes(builder, knob.name)]
    return tuple((knob.name, used.get(knob.name, knob.default)) for knob in taken)


def variables_hash(model: Model) -> str:
    """Return 16 hex digits of the names, shapes and types of a network's variables, computing none of them."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    leaves = [(jax.tree_util.keystr(p), a.shape, str(a.dtype)) for p, a in jax.tree_util.tree_leaves_with_path(shapes)]
    return hashlib.sha256(repr(leaves).encode()).hexdigest()[:16]


def count_parameters(model: Model) -> int:
    """Return the number of trainable parameters, without computing any of them."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def count_flops(model: Model, image_shape: Any, dtype: str = "float32") -> int:
    """Return the floating-point operations of one input's forward pass: products and convolutions, 2 per multiply-add.

    Taken from the traced program, so it holds for any architecture. One training step costs about three times that
    per input. Normalization, activations and the optimizer are not counted.

    Args:
        model: the network.
        image_shape: of one input, an array of `dtype`; or an abstract array, or a pytree of them, without the batch.
        dtype: of the arithmetic.
    """
    return _product_flops(_trace(model, image_shape, 1, False, dtype))


def count_activations(model: Model, image_shape: Any, batch_size: int, dtype: str = "float32") -> int:
    """Return the numbers that the forward pass of one batch in training mode computes: what a step may have to hold.

    An upper estimate: the compiler fuses some away. Arguments as of `count_flops`.
    """
    jaxpr = _trace(model, image_shape, batch_size, True, dtype)
    return sum(math.prod(out.aval.shape) for equation in jaxpr.eqns for out in equation.outvars)


def abstract_inputs(image_shape: Any, batch_size: int, dtype: str = "float32") -> Any:
    """Return abstract arrays of a batch of inputs; arguments as of `count_flops`."""
    if isinstance(image_shape, tuple) and all(isinstance(length, (int, np.integer)) for length in image_shape):
        image_shape = jax.ShapeDtypeStruct(image_shape, dtype)
    return jax.tree.map(lambda one: jax.ShapeDtypeStruct((batch_size, *one.shape), one.dtype), image_shape)


def _trace(model: Model, image_shape: Any, batch_size: int, train: bool, dtype: str) -> Any:
    variables = jax.eval_shape(model.init, jax.random.key(0))
    x = abstract_inputs(image_shape, batch_size, dtype)
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
