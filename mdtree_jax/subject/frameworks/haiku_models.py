"""Haiku: what `haiku.transform` and `haiku.transform_with_state` return. JAX.

A network is `params`, or `(params, state)`. A moving average of Haiku is kept as `hidden`, `counter` and
`average` = hidden / (1 - decay^counter), of which evaluation reads only the last. Here the state is that `average`; in
training mode `hidden` is the average itself and the counter is so large that nothing is divided by: the update is then
new = decay * old + (1 - decay) * batch, as of other running averages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.subject.frameworks.base import (
    MODES,
    Adapted,
    fit_tree,
    fixed_key,
    named_leaves,
    outputs_of,
    reason,
    rows_of,
    shapes_text,
    with_params,
)

_AVERAGE = {"hidden", "counter", "average"}
_LATE = 2**30


def adapt(transformed: Any, x: Any) -> Adapted:
    """Return a transformed function as pure functions; mode arguments such as `is_training` are found by trying."""
    has_state = type(transformed).__name__ == "TransformedWithState"
    few = rows_of(x, 2)
    mode, init = _mode_of(transformed, few, has_state)
    wanted = jax.eval_shape(init, jax.random.key(0))
    call = _caller(transformed, wanted, has_state, few, mode)

    def apply(variables: Any, x: Any) -> Any:
        return outputs_of(call(variables, fixed_key(None), x, False)[0])

    def apply_train(variables: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        outputs, state = call(variables, fixed_key(key), x, True)
        return outputs_of(outputs), {"params": variables["params"], "state": state}

    def fresh(key: Any) -> Any:
        params, state = init(key)
        return {"params": params, "state": averages(state)}

    def variables(network: Any) -> Any:
        if not isinstance(network, Mapping):
            pair = tuple(network) if isinstance(network, (tuple, list)) else ()
            if len(pair) != 2:
                raise UserError(f"a network is a {type(network).__name__}; expected params, or (params, state)")
            network = {"params": pair[0], "state": pair[1]}
        return fit_tree(_flat_averages(named_leaves(with_params(network))), held)

    held = {"params": wanted[0], "state": averages(wanted[1])}
    return Adapted(apply, apply_train, variables, fresh, "haiku", tuple(named_leaves(held)))


def averages(state: Any) -> dict[str, Any]:
    """Return a state of which moving averages hold only their `average`."""
    return {
        name: {"average": held["average"]} if set(held) == _AVERAGE else dict(held)
        for name, held in dict(state or {}).items()
    }


def _flat_averages(named: dict[str, Any]) -> dict[str, Any]:
    """Return named arrays without `hidden` and `counter` of moving averages."""
    parts = {name.rpartition("/")[0] for name in named if name.endswith("/average")}
    return {
        name: array
        for name, array in named.items()
        if name.rpartition("/")[0] not in parts or name.rpartition("/")[2] not in ("hidden", "counter")
    }


def _whole(state: Any, wanted: Any) -> Any:
    """Return the state as Haiku has it, every moving average about to be updated as one that began long ago."""
    out = {}
    for name, held in wanted.items():
        if set(held) == _AVERAGE:
            average = state[name]["average"]
            counter = jnp.full(held["counter"].shape, _LATE, held["counter"].dtype)
            out[name] = {"hidden": average, "counter": counter, "average": average}
        else:
            out[name] = state[name]
    return out


def _caller(transformed: Any, wanted: Any, has_state: bool, few: Any, mode: str | None) -> Callable[..., Any]:
    """Return `call(variables, key, x, train) -> (outputs, state)`; a key is left out where the function takes none."""

    def call(variables: Any, key: Any, x: Any, train: bool, with_key: bool = True) -> tuple[Any, Any]:
        options = {} if mode is None else {mode: MODES[mode](train)}
        inputs = x if isinstance(x, tuple) else (x,)
        keys = (key,) if with_key else ()
        if not has_state:
            return transformed.apply(variables["params"], *keys, *inputs, **options), variables["state"]
        state = _whole(variables["state"], wanted[1])
        outputs, updated = transformed.apply(variables["params"], state, *keys, *inputs, **options)
        return outputs, averages(updated)

    variables = {"params": wanted[0], "state": averages(wanted[1])}
    first = None
    for with_key in (True, False):  # `haiku.without_apply_rng` takes none
        try:
            jax.eval_shape(
                lambda v, k, x, w=with_key: call(v, k, x, False, w), variables, jax.random.key(0), _abstract(few)
            )
        except Exception as error:  # a user's code may raise anything
            first = first or error
            continue
        return lambda variables, key, x, train: call(variables, key, x, train, with_key)
    raise UserError(f"the model does not accept inputs of shape {shapes_text(few)}: {reason(first)}") from first


def _abstract(x: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), jnp.asarray(a).dtype), x)


def _mode_of(transformed: Any, few: Any, has_state: bool) -> tuple[str | None, Callable[[Any], tuple[Any, Any]]]:
    """Return the argument that sets the mode, None where there is none, and `init(key) -> (params, state)`."""
    inputs = few if isinstance(few, tuple) else (few,)

    def init_with(options: Mapping[str, Any]) -> Callable[[Any], tuple[Any, Any]]:
        def init(key: Any) -> tuple[Any, Any]:
            made = transformed.init(key, *inputs, **options)
            return made if has_state else (made, {})

        return init

    first = None
    for mode in _modes():
        init = init_with({} if mode is None else {mode: MODES[mode](True)})
        try:
            jax.eval_shape(init, jax.random.key(0))
        except Exception as error:  # a user's code may raise anything
            if mode is None or "unexpected keyword" not in str(error):
                first = error
            continue
        return mode, init
    raise UserError(f"the model does not accept inputs of shape {shapes_text(few)}: {reason(first)}") from first


def _modes() -> Iterator[str | None]:
    """Yield the names to try; `is_training` is Haiku's own."""
    yield from ("is_training", *(name for name in MODES if name != "is_training"), None)
