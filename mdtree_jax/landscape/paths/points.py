"""Points between two networks: checks of a pair, interpolation, evaluation along a path. JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mdtree_jax.checks import UserError

#: The keys that `evaluate(params)` may return; errors in percent, losses in nats. The training side is required.
EVALUATED = ("train_error", "train_loss", "test_error", "test_loss")


def check_parameters(params: Any, what: str = "parameters") -> None:
    """Raise `UserError` unless `params` has leaves and all are arrays of real floating-point numbers."""
    leaves = jax.tree.leaves_with_path(params)
    if not leaves:
        raise UserError(f"{what} have no arrays; expected a pytree of floating-point arrays")
    for path, leaf in leaves:
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise UserError(f"{what} hold '{_name(path)}' of type {dtype}; expected floating-point numbers")


def check_pair(end0: Any, end1: Any) -> None:
    """Raise `UserError` unless both are pytrees of floating-point arrays with the same leaves, shapes and types."""
    check_parameters(end0, "the parameters of the first network")
    check_parameters(end1, "the parameters of the second network")
    first, second = (dict(jax.tree.leaves_with_path(end)) for end in (end0, end1))
    for path in [*first, *second]:
        for side, tree in (("first", first), ("second", second)):
            if path not in tree:
                shape = jnp.shape((first | second)[path])
                raise UserError(f"the {side} network has no leaf '{_name(path)}', the other one has, of shape {shape}")
        shapes, dtypes = ([read(tree[path]) for tree in (first, second)] for read in (jnp.shape, jnp.result_type))
        if shapes[0] != shapes[1]:
            raise UserError(f"leaf '{_name(path)}' has shape {shapes[0]} in one network and {shapes[1]} in the other")
        if dtypes[0] != dtypes[1]:
            raise UserError(f"leaf '{_name(path)}' is {dtypes[0]} in one network and {dtypes[1]} in the other")
    if jax.tree.structure(end0) != jax.tree.structure(end1):
        raise UserError("the two networks have the same leaves in containers of different types")


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def interpolate(end0: Any, end1: Any, t: jax.Array) -> Any:
    """Return (1 - t) end0 + t end1 on pytrees; exact at both ends, and everywhere if they are equal."""

    def mix(a: jax.Array, b: jax.Array) -> jax.Array:
        s = lax.convert_element_type(t, a.dtype)
        return jnp.where(s < 0.5, a + s * (b - a), b - (1 - s) * (b - a))

    return jax.tree.map(mix, end0, end1)


def add_scaled(params: Any, direction: Any, factor: jax.Array) -> Any:
    """Return params + factor * direction, in the type of each leaf."""
    return jax.tree.map(lambda w, d: w + lax.convert_element_type(factor, w.dtype) * d, params, direction)


def all_finite(tree: Any) -> jax.Array:
    """Return whether every number of a pytree is finite; scalar bool."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def evaluate_path(
    path: Callable[[jax.Array], Any], evaluate: Callable[[Any], dict[str, jax.Array]], t: jax.Array
) -> dict[str, jax.Array]:
    """Return errors and losses at every point of a path, one point at a time; a dictionary of (T,) arrays.

    An error is a count and thus finite even for a network with NaN; it is set to NaN wherever the loss is not finite.
    Values that `evaluate` does not return are NaN.

    Args:
        path: maps t, a scalar, to parameters.
        evaluate: maps parameters to a dictionary of scalars: `train_error` (percent), `train_loss` (nats), and either
            both `test_error` and `test_loss` or neither.
        t: (T,).

    Raises:
        UserError: a name is missing or unknown, or a value is not a single number.
    """

    def at(t: jax.Array) -> dict[str, jax.Array]:
        found = evaluate(path(t))
        if set(found) not in (set(EVALUATED), set(EVALUATED[:2])):
            raise UserError(
                f"evaluate(params) returned {', '.join(sorted(found)) or 'nothing'}; expected train_error and "
                "train_loss, and test_error and test_loss or neither"
            )
        shapes = {name: jnp.shape(value) for name, value in found.items() if jnp.shape(value) != ()}
        if shapes:
            raise UserError(f"evaluate(params) returned arrays: {shapes}; expected one number of each kind")
        found = {name: lax.convert_element_type(value, t.dtype) for name, value in found.items()}
        nan = jnp.full_like(t, jnp.nan)
        for side in ("train", "test"):
            loss = found.setdefault(f"{side}_loss", nan)
            found[f"{side}_error"] = jnp.where(jnp.isfinite(loss), found.get(f"{side}_error", nan), nan)
        return found

    return lax.map(at, t)
