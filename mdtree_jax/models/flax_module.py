"""Wrap a Flax Linen module, ours or a user's, in our interface, and check a user's module. JAX, Flax Linen.

A module is called as `module(x, train=...)` if it accepts `train`, otherwise as `module(x)`; it returns logits, or
logits and a dictionary of named activations.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError

from mdtree_jax.checks import UserError


class Model(NamedTuple):
    """A network as two pure functions; hashable, so that it can be a static argument.

    Attributes:
        init: `init(key) -> variables`, the pytree `{"params": ..., "batch_stats": ...}` of one network.
        apply: `apply(variables, x, train) -> (outputs, intermediates, batch_stats)` for inputs `x`, for images of shape
            (batch, height, width, channels). `outputs` is (batch, outputs), of a sequence (batch, time, outputs), and
            for classes holds logits; `intermediates` a dictionary of named
            activations with the batch as first axis, `batch_stats` the running averages after this batch if
            `train`, the ones given otherwise.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array, bool], tuple[jax.Array, dict[str, jax.Array], Any]]


def takes_train(module: nn.Module) -> bool:
    """Return whether a module's call has the argument `train`."""
    return "train" in inspect.signature(type(module).__call__).parameters


def call_options(module: nn.Module, train: bool) -> dict[str, Any]:
    """Return the arguments of a module's call beside the images."""
    return {"train": train} if takes_train(module) else {}


def split_output(output: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return logits and named activations of what a module returns, which may be the logits alone."""
    if not isinstance(output, tuple):
        return output, {}
    logits, *rest = output
    return logits, rest[0] if rest and isinstance(rest[0], dict) else {}


def module_model(module: nn.Module, image_shape: tuple[int, ...], dtype: Any, input_kind: str = "float") -> Model:
    """Return a Flax Linen module in our interface, for inputs of `image_shape` and arithmetic in `dtype`."""
    dtype = jnp.dtype(dtype)
    input_type = input_dtype(input_kind, dtype)

    def init(key: jax.Array) -> Any:
        variables = module.init(key, jnp.zeros((1, *image_shape), input_type), **call_options(module, False))
        return {"params": variables.get("params", {}), "batch_stats": variables.get("batch_stats", {})}

    def apply(variables: Any, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        stats, options = variables["batch_stats"], call_options(module, train)
        if not train:
            logits, intermediates = split_output(module.apply(variables, x, **options))
            return _cast(logits, dtype), intermediates, stats
        output, updated = module.apply(variables, x, **options, mutable=["batch_stats"])
        logits, intermediates = split_output(output)
        # Flax's own BatchNorm lets the type of its averages follow the images'.
        stats = jax.tree.map(lambda new, old: _cast(new, old.dtype), updated.get("batch_stats", {}), stats)
        return _cast(logits, dtype), intermediates, stats

    return Model(init, apply)


def _cast(array: Any, dtype: Any) -> jax.Array:
    return array if array.dtype == dtype else array.astype(dtype)


def input_dtype(input_kind: str, dtype: Any) -> Any:
    """Return the type of inputs of a kind, `float` or `int`, where the arithmetic is of `dtype`."""
    return jnp.dtype(dtype if input_kind == "float" else jnp.int32)


def check_module(
    module: nn.Module, image_shape: tuple[int, ...], dtype: Any, what: str, input_kind: str = "float"
) -> None:
    """Raise `UserError` for a module that keeps a state other than running averages, or averages it cannot update."""

    def init(x: jax.Array) -> Any:
        return module.init(jax.random.key(0), x, **call_options(module, False))

    inputs = jax.ShapeDtypeStruct((1, *image_shape), input_dtype(input_kind, dtype))
    variables = shapes_of(f"{what} does not accept {_inputs(image_shape)}", init, inputs)
    strange = [name for name in variables if name not in ("params", "batch_stats")]
    if strange:
        raise UserError(
            f"{what} keeps the state '{strange[0]}'; of a network's state only running averages, 'batch_stats', are "
            "trained and measured"
        )
    if variables.get("batch_stats") and not takes_train(module):
        raise UserError(
            f"{what} has running averages, but its call has no argument 'train' that says when to update them"
        )


def check_model(
    model: Model,
    image_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    dtype: str,
    what: str,
    input_kind: str = "float",
) -> None:
    """Raise `UserError` unless a user's network can be trained in a sweep, by its shapes alone.

    Args:
        model: the network.
        image_shape: of one input.
        output_shape: of the outputs that it should have for it.
        dtype: of the arithmetic.
        what: the network, for the message.
        input_kind: of the inputs, `float` or `int`.
    """
    variables = shapes_of(f"{what} cannot be initialized", model.init, jax.random.key(0))
    if not isinstance(variables, dict) or set(variables) != {"params", "batch_stats"}:
        raise UserError(f"{what} is initialized to something other than {{'params': …, 'batch_stats': …}}")
    params = jax.tree.leaves(variables["params"])
    if not sum(math.prod(leaf.shape) for leaf in params):
        raise UserError(f"{what} has no parameters, so there is nothing to train")
    if wrong := [leaf.dtype for leaf in params if leaf.dtype != jnp.dtype(dtype)]:
        raise UserError(f"{what} has parameters of {wrong[0]}; expected {dtype}, the dtype that its builder is given")
    inputs = jax.ShapeDtypeStruct((2, *image_shape), input_dtype(input_kind, dtype))
    for train in (False, True):
        failure = f"{what} fails in {'training' if train else 'evaluation'} mode on {_inputs(image_shape)}"
        found = shapes_of(failure, lambda v, x, train=train: model.apply(v, x, train), variables, inputs)
        if not isinstance(found, tuple) or len(found) != 3:
            raise UserError(f"{what} returns something other than (logits, intermediates, batch_stats)")
        shape = getattr(found[0], "shape", None)
        if shape != (2, *output_shape):
            wanted = f"(2, {', '.join(map(str, output_shape))})"
            raise UserError(f"{what} gives outputs of shape {shape} for 2 inputs; expected {wanted}")
    if jax.tree.map(jnp.shape, found[2]) != jax.tree.map(jnp.shape, variables["batch_stats"]):
        raise UserError(f"{what} changes the shapes of its running averages")


def _inputs(shape: tuple[int, ...]) -> str:
    return f"{'images' if len(shape) == 3 else 'inputs'} of shape {shape}"


def shapes_of(failure: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the shapes that a user's function gives for arguments; raises `UserError` that opens with `failure`."""
    try:
        return jax.eval_shape(function, *arguments)
    except UserError:
        raise
    except InvalidRngError as error:
        raise UserError(
            f"{failure}: it draws random numbers, as dropout does, and a network of a sweep is given none; build it "
            "without"
        ) from error
    except Exception as error:  # a user's code may raise anything
        raise UserError(f"{failure}: {' '.join(str(error).split())[:200]}") from error
