"""Flax Linen: `flax.linen.Module`. Networks are its variables, or those of a checkpoint. JAX, Flax Linen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from mdtree_jax.checks import UserError
from mdtree_jax.subject.frameworks.base import (
    Adapted,
    call_inputs,
    fit_tree,
    fixed_key,
    mode_options,
    named_leaves,
    outputs_of,
    rows_of,
    shapes_text,
    tried,
    with_params,
)

#: Streams of random numbers that a module may ask for in training mode.
_STREAMS = ("dropout", "noise", "random", "sample", "default")


def adapt(module: Any, x: Any) -> Adapted:
    """Return an unbound Linen module as pure functions; its mode is set by arguments such as `train`."""
    call = type(module).__call__
    few = rows_of(x, 2)

    def run(variables: Any, x: Any, train: bool, **options: Any) -> Any:
        args, named = call_inputs(x, call)
        return module.apply(variables, *args, **named, **mode_options(call, train), **options)

    def apply(variables: Any, x: Any) -> Any:
        return outputs_of(run(variables, x, False))

    def apply_train(variables: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        names = [name for name in variables if name != "params"]
        output, updated = run(variables, x, True, mutable=names, rngs=_streams(key))
        return outputs_of(output), {**variables, **updated}

    def init(key: jax.Array) -> Any:
        args, named = call_inputs(few, call)
        streams = {"params": key, **_streams(jax.random.fold_in(key, 1))}
        return dict(module.init(streams, *args, **named, **mode_options(call, False)))

    wanted = tried(f"the model does not accept inputs of shape {shapes_text(few)}", init, jax.random.key(0))

    def variables(network: Any) -> Any:
        if not isinstance(network, Mapping):
            raise UserError(
                f"a network of a Linen module is a {type(network).__name__}; expected its variables, {{'params': …}}"
            )
        return fit_tree(with_params(network), wanted)

    return Adapted(apply, apply_train, variables, init, "linen", tuple(named_leaves(wanted)))


def _streams(key: Any) -> dict[str, jax.Array]:
    """Return a key for every stream; that of dropout is the key itself."""
    key = fixed_key(key)
    return {name: jax.random.fold_in(key, i) if i else key for i, name in enumerate(_STREAMS)}
