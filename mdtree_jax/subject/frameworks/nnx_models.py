"""Flax NNX: `flax.nnx.Module`, split into its graph and its arrays. JAX, Flax NNX.

A network is a module of the same class, its state, or a mapping of names to arrays (`nnx.to_pure_dict`). The graph is
merged with copies of its variables: they belong to the trace of one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdtree_jax.checks import UserError
from mdtree_jax.subject.frameworks.base import (
    Adapted,
    call_inputs,
    fit_names,
    fixed_key,
    leaf_name,
    named_leaves,
    outputs_of,
)
from mdtree_jax.subject.frameworks.build import make_init


class _Parts(NamedTuple):
    """A module's state as a flat list: its structure, a name and a role (params, state, key, count) for each leaf."""

    structure: Any
    names: list[str]
    roles: list[str]
    leaves: list[Any]


def adapt(module: Any, x: Any, build: Callable[..., Any] | None = None) -> Adapted:
    """Return an NNX module as pure functions; `eval()` and `train()` set its modes, on copies."""
    from flax import nnx

    graphs = {}
    for train in (False, True):
        copy = nnx.clone(module)
        copy.train() if train else copy.eval()
        graphs[train], state = nnx.split(copy)
    parts = _parts(state)
    call = type(module).__call__

    def run(variables: Any, x: Any, train: bool, key: Any) -> tuple[Any, Any]:
        merged = nnx.merge(graphs[train], _state(parts, variables, key), copy=True)
        args, named = call_inputs(x, call)
        outputs = outputs_of(merged(*args, **named))
        leaves = jax.tree.leaves(nnx.split(merged)[1])
        return outputs, leaves

    def apply(variables: Any, x: Any) -> Any:
        return run(variables, x, False, fixed_key(None))[0]

    def apply_train(variables: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        outputs, leaves = run(variables, x, True, fixed_key(key))
        return outputs, {"params": variables["params"], "state": _role(parts, leaves, "state")}

    def variables(network: Any) -> Any:
        given = _arrays(network, type(module))
        wanted = {role: _role(parts, parts.leaves, role) for role in ("params", "state")}
        random = {name for name, role in zip(parts.names, parts.roles, strict=True) if role in ("key", "count")}
        given = {name: leaf for name, leaf in given.items() if name not in random}
        arrays = fit_names(given, wanted["params"] | wanted["state"])
        return {role: {name: arrays[name] for name in names} for role, names in wanted.items()}

    names = tuple(n for n, role in zip(parts.names, parts.roles, strict=True) if role in ("params", "state"))
    return Adapted(apply, apply_train, variables, make_init(build, variables), "nnx", names)


def _parts(state: Any) -> _Parts:
    from flax import nnx

    def is_variable(node: Any) -> bool:
        return isinstance(node, nnx.Variable)

    kinds = {nnx.Param: "params", nnx.RngKey: "key", nnx.RngCount: "count"}
    named, structure = jax.tree.flatten_with_path(state)
    held = jax.tree.leaves(state, is_leaf=is_variable)
    roles = [next((role for kind, role in kinds.items() if isinstance(one, kind)), "state") for one in held]
    return _Parts(structure, [_name(path) for path, _ in named], roles, [leaf for _, leaf in named])


def _name(path: Any) -> str:
    return leaf_name(path).replace(".", "/").removesuffix("/value")


def _role(parts: _Parts, leaves: list[Any], role: str) -> dict[str, Any]:
    there = zip(parts.names, parts.roles, leaves, strict=True)
    return {name: leaf for name, one, leaf in there if one == role}


def _state(parts: _Parts, variables: Any, key: Any) -> Any:
    """Return the state that holds these variables; every stream of random numbers starts at a key of its own."""
    leaves = []
    for index, (name, role, leaf) in enumerate(zip(parts.names, parts.roles, parts.leaves, strict=True)):
        if role == "key":
            leaves.append(jax.random.fold_in(key, index))
        elif role == "count":
            leaves.append(leaf)
        else:
            leaves.append(jnp.asarray(variables[role][name]))  # variables are assigned to: NumPy would store in place
    return parts.structure.unflatten(leaves)


def _arrays(network: Any, kind: type) -> dict[str, Any]:
    from flax import nnx

    if isinstance(network, nnx.Module):
        network = nnx.split(network)[1]
    if isinstance(network, nnx.State):
        return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(network)}
    if isinstance(network, Mapping):
        return {name.removesuffix("/value"): leaf for name, leaf in named_leaves(network).items()}
    raise UserError(f"a network is a {type(network).__name__}; expected a {kind.__name__}, its state or a mapping")
