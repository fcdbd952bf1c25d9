"""What the hidden units of any JAX function give out, read from its traced program. JAX.

The program is run again, operation by operation within the caller's trace, and what ReLU, tanh and sigmoid give out is
kept. Operations inside loops (`scan`, `while`) are not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

#: Primitive -> name of the activation function.
FUNCTIONS = {"max": "relu", "tanh": "tanh", "logistic": "sigmoid"}
#: Keys under which a primitive of calls holds the program that it calls.
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Activation(NamedTuple):
    """What one activation function of the program gives out, (n, ..., units)."""

    function: str
    is_gate: bool
    values: Any


class Units(NamedTuple):
    """The same in numbers.

    Attributes:
        function: relu, tanh or sigmoid.
        is_gate: whether a tanh or sigmoid is multiplied or added at once, as inside GELU, SiLU or an LSTM.
        dead: share of units that are 0 for all examples and at all places.
        saturated: share of all values within 1 % of the ends of the function's range.
        size: root mean square of the values that are not 0; NaN if all are.
        is_output: whether these are the network's outputs.
    """

    function: str
    is_gate: bool
    dead: float
    saturated: float
    size: float
    is_output: bool | float = False


#: Where a bounded unit is at the end of its range: within 1 % of the range's width.
_ENDS = {"tanh": (-0.98, 0.98), "sigmoid": (0.01, 0.99), "relu": (-np.inf, np.inf)}


def summary(unit: Activation, outputs: Any) -> tuple[Any, Any, Any, Any]:
    """Return dead, saturated, size and is_output of `Units`, traced; `outputs` are those of the network."""
    values, (low, high) = unit.values, _ENDS[unit.function]
    dead = jnp.mean(jnp.all(values == 0, axis=tuple(range(values.ndim - 1))))
    saturated = jnp.mean((values < low) | (values > high))
    size = jnp.sqrt(jnp.sum(jnp.square(values)) / jnp.sum(values != 0))
    same = jnp.allclose(values.ravel(), outputs.ravel(), atol=1e-6) if values.size == outputs.size else jnp.asarray(0)
    return dead, saturated, size, same


def with_units(function: Callable[..., Any]) -> Callable[..., tuple[Any, list[Activation]]]:
    """Return `function` with its units: `(*arguments) -> (outputs, units)`, the units in order of the program."""

    def run(*arguments: Any) -> tuple[Any, list[Activation]]:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        seen: dict[int, tuple[str, Any]] = {}
        gates: set[int] = set()
        outputs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), seen, gates)
        units = [Activation(name, key in gates and name != "relu", values) for key, (name, values) in seen.items()]
        return jax.tree.unflatten(jax.tree.structure(shape), outputs), units

    return run


def _evaluate(jaxpr: Any, consts: Any, arguments: list[Any], seen: dict, gates: set[int]) -> list[Any]:
    values: dict[Any, Any] = dict(zip(_parameters(jaxpr), [*consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        called = _called(equation)
        if called is not None and len(called.jaxpr.invars) == len(inputs):
            outputs = _evaluate(called.jaxpr, called.consts, inputs, seen, gates)
        else:
            found = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(equation.params))
            outputs = list(found) if equation.primitive.multiple_results else [found]
            _note(equation, inputs, outputs[0], seen, gates)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _parameters(jaxpr: Any) -> list[Any]:
    """Return the variables of constants and arguments; JAX 0.12 has them in one list."""
    together = getattr(jaxpr, "all_invars", None)
    return list(together) if together is not None else [*jaxpr.constvars, *jaxpr.invars]


def _called(equation: Any) -> Any:
    """Return the closed program that an equation calls once with its operands; None for any other operation."""
    if equation.primitive.name in ("scan", "while", "cond", "custom_vjp_call", "custom_root", "custom_linear_solve"):
        return None
    for key in _CALLED:
        called = equation.params.get(key)
        if called is not None and hasattr(called, "jaxpr"):
            return called
    return None


def _note(equation: Any, inputs: list[Any], output: Any, seen: dict, gates: set[int]) -> None:
    name = equation.primitive.name
    if name in ("mul", "add", "sub"):
        gates.update(id(operand) for operand in inputs if id(operand) in seen)
    is_relu = name != "max" or any(np.ndim(operand) == 0 and _is_zero(operand) for operand in inputs)
    if name in FUNCTIONS and is_relu and np.ndim(output) > 1:
        seen[id(output)] = (FUNCTIONS[name], output)


def _is_zero(operand: Any) -> bool:
    return not isinstance(operand, jax.Array) and float(operand) == 0.0  # tracers count as arrays
