"""Convolutions of a user's model as slices and a matrix product, for training inside compiled loops on CPU. JAX.

XLA's own convolution is many times slower on CPU inside a loop, or batched over weights, than outside. The traced
program is run again, operation by operation within the caller's trace, with its convolutions replaced. Grouped and
transposed ones stay, and so do those inside loops and checkpoints of the model's own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mdtree_jax.models import Model
from mdtree_jax.subject.network import Subject

#: Most places of a kernel: its slices take as many times the memory of the inputs.
_MOST_PLACES = 49
#: Primitives that call a program once with their operands.
_CALLS = ("jit", "pjit")


def without_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function of pytrees of arrays with its convolutions replaced, up to rounding."""

    def run(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        if not _convolves(closed.jaxpr):
            return function(*arguments)
        outputs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return run


def quick_in_loops(subject: Subject) -> Subject:
    """Return a subject whose networks are quick inside loops on this machine, the same up to rounding."""
    if jax.default_backend() != "cpu":
        return subject
    model, train = subject.model, subject.apply_train
    modes = {
        mode: without_convolutions(lambda variables, x, mode=mode: model.apply(variables, x, mode)[::2])
        for mode in (False, True)
    }

    def apply(variables: Any, x: Any, is_training: bool) -> tuple[Any, dict, Any]:
        outputs, state = modes[bool(is_training)](variables, x)
        return outputs, {}, state

    in_training = train and without_convolutions(train)
    return subject._replace(model=Model(model.init, apply), apply_train=in_training)


def _convolves(jaxpr: Any) -> bool:
    inner = (eqn.params["jaxpr"].jaxpr for eqn in jaxpr.eqns if eqn.primitive.name in _CALLS)
    return any(map(_is_replaced, jaxpr.eqns)) or any(map(_convolves, inner))


def _is_replaced(equation: Any) -> bool:
    if equation.primitive.name != "conv_general_dilated":
        return False
    params = equation.params
    groups = params["feature_group_count"], params["batch_group_count"]
    _, _, *places = (equation.invars[1].aval.shape[axis] for axis in params["dimension_numbers"].rhs_spec)
    return groups == (1, 1) and set(params["lhs_dilation"]) <= {1} and math.prod(places) <= _MOST_PLACES


def _evaluate(jaxpr: Any, consts: Any, arguments: list[Any]) -> list[Any]:
    together = getattr(jaxpr, "all_invars", None)  # JAX 0.12 has constants and arguments in one list
    names = list(together) if together is not None else [*jaxpr.constvars, *jaxpr.invars]
    values: dict[Any, Any] = dict(zip(names, [*consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        inputs, called = [read(atom) for atom in equation.invars], equation.params.get("jaxpr")
        if _is_replaced(equation):
            left, right = inputs
            outputs = [_convolve(left, right, equation.params)]
        elif equation.primitive.name in _CALLS and _convolves(called.jaxpr):
            outputs = _evaluate(called.jaxpr, called.consts, inputs)
        else:
            found = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(equation.params))
            outputs = list(found) if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _convolve(x: jax.Array, kernel: jax.Array, params: dict[str, Any]) -> jax.Array:
    """Return `lax.conv_general_dilated` with these parameters, without groups and dilated inputs."""
    of_x, of_kernel, of_output = params["dimension_numbers"]
    x = jnp.moveaxis(x.transpose(of_x), 1, -1)  # (batch, *space, channels)
    kernel = kernel.transpose(of_kernel)  # (features, channels, *space)
    features, channels, *places = kernel.shape
    strides, dilation = params["window_strides"], params["rhs_dilation"]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*edge, 0) for edge in params["padding"]), (0, 0, 0)])
    reach = [d * (k - 1) for d, k in zip(dilation, places, strict=True)]
    sizes = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]
    slices = []
    for place in itertools.product(*map(range, places)):
        first = [i * d for i, d in zip(place, dilation, strict=True)]
        last = [f + (n - 1) * s + 1 for f, n, s in zip(first, sizes, strides, strict=True)]
        slices.append(lax.slice(x, (0, *first, 0), (len(x), *last, channels), (1, *strides, 1)))
    patches = jnp.concatenate(slices, -1).reshape(-1, math.prod(places) * channels)
    weights = jnp.moveaxis(kernel, (0, 1), (-1, -2)).reshape(-1, features)
    kind = params["preferred_element_type"]
    product = jnp.matmul(patches, weights, precision=params["precision"], preferred_element_type=kind)
    product = jnp.moveaxis(product.reshape(-1, *sizes, features), -1, 1)
    return product.transpose(np.argsort(of_output))
