"""Equinox: `equinox.Module`, alone or as (module, state), called on one example or on a batch. JAX.

Its BatchNorm keeps running averages in two ways. In mode `batch` they are `hidden` / (1 - momentum^counter): here the
state is that quotient, and the counter so large that nothing is divided by. In mode `ema` training normalizes by the
averages themselves; here it normalizes by the batch, as every other framework, and the average is updated outside.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.subject.frameworks.base import (
    Adapted,
    fit_names,
    fixed_key,
    leaf_name,
    named_leaves,
    outputs_of,
    reason,
    rows_of,
    shapes_text,
)
from mdtree_jax.subject.frameworks.build import make_init

_LATE = 2**30


class _Cell(NamedTuple):
    """One `StateIndex` of a model: its name, its marker, its role in a BatchNorm, that layer's momentum."""

    name: str
    marker: Any
    role: str = "state"
    momentum: float = 0.0


def adapt(model: Any, x: Any, build: Callable[..., Any] | None = None) -> Adapted:
    """Return an Equinox module as pure functions; `inference_mode` sets its mode."""
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    module, state = _pair(model)
    cells = _cells(module)
    wanted = {"params": _params(module), "state": _averages(cells, state)}
    # Not traced: what is no parameter, flags and constants of the module included.
    rests = {
        train: eqx.partition(eqx.nn.inference_mode(module, value=not train), eqx.is_inexact_array)[1]
        for train in (False, True)
    }
    shell, names = eqx.filter(module, eqx.is_inexact_array), list(wanted["params"])
    structure = jax.tree.structure(shell)
    call = _caller(type(module), cells)

    def run(variables: Any, x: Any, train: bool, key: Any, by_example: bool = True) -> tuple[Any, Any]:
        params = structure.unflatten([variables["params"][name] for name in names])
        whole = None if state is None else _whole(cells, state, variables["state"], train)
        outputs, new = call(eqx.combine(params, rests[train]), x, whole, key, by_example)
        return outputs_of(outputs), {} if state is None else _updated(cells, variables["state"], new)

    by_example = _by_example(run, wanted, rows_of(x, 2))

    def apply(variables: Any, x: Any) -> Any:
        return run(variables, x, False, fixed_key(None), by_example)[0]

    def apply_train(variables: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        outputs, new = run(variables, x, True, fixed_key(key), by_example)
        return outputs, {"params": variables["params"], "state": new}

    def variables(network: Any) -> Any:
        if isinstance(network, Mapping):
            arrays = fit_names(named_leaves(network), wanted["params"] | wanted["state"])
            return {role: {name: arrays[name] for name in there} for role, there in wanted.items()}
        other, its_state = _pair(network)
        found = fit_names(_params(other), wanted["params"])
        return {"params": found, "state": fit_names(_averages(_cells(other), its_state), wanted["state"])}

    every = (*wanted["params"], *wanted["state"])
    return Adapted(apply, apply_train, variables, make_init(build, variables), "equinox", every)


def _pair(model: Any) -> tuple[Any, Any]:
    """Return module and state, None if it has none; raises `UserError` for a state that is not given."""
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[1], eqx.nn.State):
        return model if _indices(model[0]) else (model[0], None)
    if not isinstance(model, eqx.Module):
        raise UserError(f"a network is a {type(model).__name__}; expected an Equinox module, or (module, state)")
    if not _indices(model):
        return model, None
    try:
        return eqx.nn.delete_init_state(model), eqx.nn.State(model)
    except ValueError as error:
        raise UserError("the Equinox module keeps a state (BatchNorm); give the pair (module, state)") from error


def _indices(module: Any) -> list[tuple[Any, Any]]:
    """Return the path and object of every `StateIndex`, in order."""
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    def is_index(node: Any) -> bool:
        return isinstance(node, eqx.nn.StateIndex)

    found = jax.tree_util.tree_leaves_with_path(module, is_leaf=is_index)
    return [(path, node) for path, node in found if is_index(node)]


def _cells(module: Any) -> list[_Cell]:
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    def is_norm(node: Any) -> bool:
        return isinstance(node, eqx.nn.BatchNorm)

    norms = [node for node in jax.tree.leaves(module, is_leaf=is_norm) if is_norm(node)]
    roles = {}
    for norm in norms:
        there = {
            "first": norm.ema_first_time_index,
            "ema": norm.ema_state_index,
            "counter": norm.batch_counter,
            "hidden": norm.batch_state_index,
        }
        roles |= {index.marker: (role, norm.momentum) for role, index in there.items() if index is not None}
    return [_Cell(leaf_name(p), one.marker, *roles.get(one.marker, ())) for p, one in _indices(module)]


def _params(module: Any) -> dict[str, Any]:
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    return named_leaves(eqx.filter(_without_initial_state(module), eqx.is_inexact_array))


def _without_initial_state(module: Any) -> Any:
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    return eqx.nn.delete_init_state(module)


def _averages(cells: list[_Cell], state: Any) -> dict[str, Any]:
    """Return the state by name, averages in the place of hidden sums; counters and flags left out."""
    if state is None:
        return {}
    held, counters = state._state, {}
    for cell in cells:
        if cell.role == "counter":
            counters[cell.name.rpartition("/")[0]] = held[cell.marker]
    found = {}
    for cell in cells:
        if cell.role in ("counter", "first"):
            continue
        value = held[cell.marker]
        if cell.role == "hidden":
            count = counters[cell.name.rpartition("/")[0]]
            scale = jnp.where(count == 0, 1, 1 - cell.momentum ** count.astype(jnp.float32))
            value = jax.tree.map(lambda leaf, scale=scale: leaf / scale.astype(leaf.dtype), value)
        found |= {f"{cell.name}/{name}".rstrip("/"): leaf for name, leaf in named_leaves(value).items()}
    return found


def _whole(cells: list[_Cell], state: Any, named: Mapping[str, Any], train: bool) -> Any:
    """Return Equinox's state with these averages."""
    values = []
    for cell in cells:
        value = state._state[cell.marker]
        if cell.role == "counter":
            values.append(jnp.full(value.shape, _LATE, value.dtype))
        elif cell.role == "first":
            values.append(jnp.full(value.shape, train, value.dtype))
        else:
            names = [f"{cell.name}/{name}".rstrip("/") for name in named_leaves(value)]
            values.append(jax.tree.structure(value).unflatten([named[name] for name in names]))
    keys = [cell.marker for cell in cells]
    return type(state).tree_unflatten(keys, values)


def _updated(cells: list[_Cell], old: Mapping[str, Any], state: Any) -> dict[str, Any]:
    """Return the averages after a batch."""
    found = {}
    for cell in cells:
        if cell.role in ("counter", "first"):
            continue
        for name, new in named_leaves(state._state[cell.marker]).items():
            name = f"{cell.name}/{name}".rstrip("/")
            found[name] = cell.momentum * old[name] + (1 - cell.momentum) * new if cell.role == "ema" else new
    return found


def _caller(kind: type, cells: list[_Cell]) -> Callable[..., tuple[Any, Any]]:
    """Return `call(module, x, state, key, by_example) -> (outputs, state)`."""
    parameters = inspect.signature(kind.__call__).parameters
    takes_key = "key" in parameters

    def call(module: Any, x: Any, state: Any, key: Any, by_example: bool) -> tuple[Any, Any]:
        def one(x: Any, key: Any) -> tuple[Any, Any]:
            inputs = x if isinstance(x, tuple) else (x,)
            options = {"key": key} if takes_key else {}
            if state is None:
                return module(*inputs, **options), None
            return module(*inputs, state, **options)

        if not by_example:
            return one(x, key)
        keys = jax.random.split(key, jax.tree.leaves(x)[0].shape[0])
        name = next(iter(_axis_names(module)), "batch") if cells else "batch"
        return jax.vmap(one, axis_name=name, out_axes=(0, None))(x, keys)

    return call


def _axis_names(module: Any) -> list[Any]:
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    def is_norm(node: Any) -> bool:
        return isinstance(node, eqx.nn.BatchNorm)

    found = [node.axis_name for node in jax.tree.leaves(module, is_leaf=is_norm) if is_norm(node)]
    return [name[0] if isinstance(name, (tuple, list)) else name for name in found]


def _by_example(run: Callable[..., Any], wanted: Any, few: Any) -> bool:
    """Return whether the module takes one example, as Equinox's layers do, or a batch."""
    errors = []
    for by_example in (True, False):
        try:
            outputs = jax.eval_shape(
                lambda v, x, b=by_example: run(v, x, False, jax.random.key(0), b)[0],
                wanted,
                jax.tree.map(np.asarray, few),
            )
        except Exception as error:  # a user's code may raise anything
            errors.append(error)
            continue
        if outputs.shape[:1] == (2,):
            return by_example
    first = errors[0] if errors else ValueError("its outputs have no axis of examples")
    raise UserError(f"the model does not accept inputs of shape {shapes_text(few)}: {reason(first)}") from first
