"""Plain functions: `apply(variables, x)`, a pair `(apply, apply_train)`, or our `Model`. JAX."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mdtree_jax.models import Model
from mdtree_jax.subject.frameworks.base import Adapted, outputs_of


def adapt(model: Any, x: Any) -> Adapted:
    """Return functions as they are; a network is the pytree that they take, so nothing can be said of its shapes."""
    del x
    if isinstance(model, Model):
        return _of_model(model)
    functions: tuple[Any, ...] = model if isinstance(model, tuple) else (model,)
    apply: Any
    apply, apply_train, init = (*functions, None, None)[:3]
    return Adapted(apply, apply_train and with_key(apply_train), lambda network: network, init, "functions")


def with_key(apply_train: Callable[..., Any]) -> Callable[..., Any]:
    """Return `apply_train(variables, x, key=None)` of a function that may take no key."""
    try:
        parameters = list(inspect.signature(apply_train).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    takes_key = len(parameters) > 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return apply_train if takes_key else lambda variables, x, key=None: apply_train(variables, x)


def _of_model(model: Model) -> Adapted:
    def apply(variables: Any, x: Any) -> Any:
        return outputs_of(model.apply({"batch_stats": {}, **variables}, x, False))

    def apply_train(variables: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        del key
        logits, _, stats = model.apply({"batch_stats": {}, **variables}, x, True)
        return logits, {**variables, "batch_stats": stats}

    return Adapted(apply, apply_train, lambda network: network, model.init, "functions")
