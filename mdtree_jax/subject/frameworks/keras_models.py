"""Keras 3 on its JAX backend: `keras.Model`, by its stateless call. Networks are models or lists of weights. JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.subject.frameworks.base import (
    Adapted,
    fit_in_order,
    fit_names,
    fixed_key,
    outputs_of,
    reason,
    rows_of,
    shapes_text,
)
from mdtree_jax.subject.frameworks.build import make_init, seed_of


def adapt(model: Any, x: Any, build: Callable[..., Any] | None = None) -> Adapted:
    """Return a Keras model as pure functions; what its variables are called does not matter, only their order.

    Raises:
        UserError: another backend than JAX, inputs that the model does not accept.
    """
    import keras  # pyright: ignore[reportMissingImports]

    if keras.backend.backend() != "jax":
        raise UserError(
            f"Keras runs on {keras.backend.backend()} here, and its models must run on JAX: set KERAS_BACKEND=jax in "
            "the environment before Keras is imported"
        )
    few = rows_of(x, 2)
    _build(model, few)
    trainable, rest = list(model.trainable_variables), list(model.non_trainable_variables)
    names = _names(model, trainable), _names(model, rest)
    held = {id(v) for v in _seeds(model)}
    is_seed = [id(variable) in held for variable in rest]

    def run(variables: Any, x: Any, train: bool, key: Any) -> tuple[Any, dict[str, Any]]:
        params = [variables["params"][name] for name in names[0]]
        state = []
        for index, (name, seed, variable) in enumerate(zip(names[1], is_seed, rest, strict=True)):
            fresh = jax.random.key_data(jax.random.fold_in(key, index)).astype(variable.dtype)
            state.append(fresh.reshape(variable.shape) if seed else variables["state"][name])
        outputs, updated = model.stateless_call(params, state, x, training=train)
        kept = zip(names[1], is_seed, updated, strict=True)
        return outputs_of(outputs), {name: value for name, seed, value in kept if not seed}

    def apply(variables: Any, x: Any) -> Any:
        return run(variables, x, False, fixed_key(None))[0]

    def apply_train(variables: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        outputs, state = run(variables, x, True, fixed_key(key))
        return outputs, {"params": variables["params"], "state": state}

    def variables(network: Any) -> Any:
        return _variables(network, model, names, is_seed)

    return Adapted(apply, apply_train, variables, _init(model, build, variables), "keras", (*names[0], *names[1]))


def _build(model: Any, few: Any) -> None:
    """Have the model make its variables, if it has none yet."""
    try:
        if not model.built:
            model(jax.tree.map(jnp.asarray, few))
        jax.eval_shape(lambda x: model(x, training=False), jax.tree.map(jnp.asarray, few))
    except Exception as error:  # a user's code may raise anything
        raise UserError(f"the model does not accept inputs of shape {shapes_text(few)}: {reason(error)}") from error


def _names(model: Any, variables: list[Any]) -> list[str]:
    """Return a name for each variable: its path without the model's own name, numbered where it occurs again."""
    seen: dict[str, int] = {}
    names = []
    for variable in variables:
        name = variable.path.removeprefix(f"{model.name}/").replace(".", "/")
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}/{seen[name]}")
    return names


def _seeds(model: Any) -> list[Any]:
    """Return the states of the generators of random numbers."""
    import keras  # pyright: ignore[reportMissingImports]

    found = []
    for layer in model._flatten_layers():
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                found.append(value.state)
    return found


def _variables(network: Any, model: Any, names: tuple[list[str], list[str]], is_seed: list[bool]) -> Any:
    """Return a network's variables: of a model, of arrays in the model's order, or by name."""
    kinds = (model.trainable_variables, model.non_trainable_variables)
    named = {id(v): n for ns, vs in zip(names, kinds, strict=True) for n, v in zip(ns, vs, strict=True)}
    wanted = {named[id(v)]: np.asarray(v) for v in model.variables if id(v) in named}
    seeds = {name for name, seed in zip(names[1], is_seed, strict=True) if seed}
    if hasattr(network, "variables") and hasattr(network, "stateless_call"):
        network = [np.asarray(v) for v in network.variables]
    if isinstance(network, Mapping):
        given = {str(name).replace(".", "/"): value for name, value in network.items()}
        arrays = fit_names(given, wanted, optional=seeds)
    elif isinstance(network, (list, tuple)):
        network = list(network)
        if len(network) == len(wanted) - len(seeds):  # `get_weights` leaves the seeds out
            wanted = {name: array for name, array in wanted.items() if name not in seeds}
        arrays = fit_in_order(network, wanted)
    else:
        raise UserError(f"a network is a {type(network).__name__}; expected a Keras model or its get_weights()")
    state = {name: arrays[name] for name in names[1] if name not in seeds}
    return {"params": {name: arrays[name] for name in names[0]}, "state": state}


def _init(model: Any, build: Callable[..., Any] | None, variables: Callable[[Any], Any]) -> Any:
    """Return `init(key)`: by the builder, or by a clone of the model."""
    import keras  # pyright: ignore[reportMissingImports]

    if build is not None:
        return make_init(build, variables, keras.utils.set_random_seed)
    if not {kind.__name__ for kind in type(model).__mro__[:-1]} & {"Functional", "Sequential"}:
        return None  # a model of a class of its own cannot be cloned

    def init(key: Any) -> Any:
        keras.utils.set_random_seed(seed_of(key))
        return variables(keras.models.clone_model(model))

    return init
