"""The one program that looks at a network: outputs, gradient, hidden units, and what its outputs can be at all. JAX.

Nothing here depends on a framework: the units of hidden layers are read from the traced program, and what the last
activation can give out is seen by changing the parameters at random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.subject.preflight.units import Units, summary, with_units

#: Examples on which the gradient and hidden units are looked at, which take more memory than outputs.
DEEP_EXAMPLES = 128
#: Draws of random parameters, and examples of each.
DRAWS, DRAWN_EXAMPLES = 8, 64
#: The random parameters' deviation over that of the given ones: wide enough to reach both ends of a bounded activation.
DRAWN_SCALE = 4.0

#: `(variables, x, y)` -> outputs, gradient, units, outputs of random parameters; None for what cannot be had.
Look = Callable[[Any, Any, Any], tuple[np.ndarray, Any, tuple[Units, ...] | None, np.ndarray | None]]


def split(variables: Any) -> tuple[Any, Any, Callable[[Any, Any], Any]]:
    """Return parameters, state (running averages; {} if there is none) and the function that joins them again."""
    if isinstance(variables, Mapping) and "params" in variables:
        state = {name: leaf for name, leaf in variables.items() if name != "params"}
        return variables["params"], state, lambda params, state: {"params": params, **state}
    return variables, {}, lambda params, state: params


def make_look(apply: Callable[[Any, Any], Any], loss: Callable[[Any, Any], Any] | None) -> Look:
    """Return the function that looks at networks; those of the same shapes share one compiled program."""
    interpreted = with_units(apply)
    kinds: list[tuple[str, bool]] = []

    @jax.jit
    def program(variables: Any, x: Any, y: Any, key: jax.Array) -> Any:
        params, state, join = split(variables)
        deep, deep_y = jax.tree.map(lambda a: a[:: -(-len(a) // DEEP_EXAMPLES)], (x, y))
        few = jax.tree.map(lambda a: a[:DRAWN_EXAMPLES], x)
        try:
            seen, units = interpreted(variables, deep)
        except Exception:  # a program that holds what the interpreter does not know: its units are not seen
            seen, units = None, None
        kinds[:] = [(unit.function, unit.is_gate) for unit in units or ()]
        gradient = None
        if (each := loss) is not None:
            gradient = jax.grad(lambda p: jnp.mean(each(apply(join(p, state), deep), deep_y)))(params)
        possible = jax.lax.map(lambda k: apply(join(_random_like(params, k), state), few), jax.random.split(key, DRAWS))
        values = None if units is None else tuple(summary(unit, seen) for unit in units)
        return apply(variables, x), gradient, values, possible

    def look(variables: Any, x: Any, y: Any) -> Any:
        arrays = jax.tree.map(jnp.asarray, (x, y))
        outputs, gradient, values, possible = jax.device_get(program(variables, *arrays, jax.random.key(0)))
        units = None
        if values is not None:
            units = tuple(Units(*kind, *map(float, value)) for kind, value in zip(kinds, values, strict=True))
        finite = possible[np.isfinite(possible).reshape(len(possible), -1).all(1)]
        return np.asarray(outputs), gradient, units, finite if len(finite) else None

    return look


def _random_like(params: Any, key: jax.Array) -> Any:
    """Return normal parameters at least as large as the given ones, and as usual initializations."""
    leaves, tree = jax.tree.flatten(params)
    drawn = []
    for leaf, own in zip(leaves, jax.random.split(key, len(leaves)), strict=True):
        fan_in = max(leaf.size // max(leaf.shape[-1], 1), 1) if leaf.ndim > 1 else 1
        deviation = jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(leaf))), fan_in**-0.5)
        drawn.append(DRAWN_SCALE * deviation * jax.random.normal(own, leaf.shape, leaf.dtype))
    return jax.tree.unflatten(tree, drawn)
