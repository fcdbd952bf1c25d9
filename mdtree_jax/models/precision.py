"""A network whose products are computed at a precision that is asked for. JAX."""

from __future__ import annotations

import functools
from typing import Any

import jax

from mdtree_jax import lowering
from mdtree_jax.models.flax_module import Model


def at_precision(model: Model, precision: str) -> Model:
    """Return a network with products, and those of its derivatives, of a precision of `mdtree_jax.lowering`.

    The same object for the same arguments; the network itself where the platform has one precision only, as a CPU.
    """
    if len(lowering.here().precisions) == 1:
        return model
    return _at_precision(model, precision)


@functools.lru_cache(maxsize=64)
def _at_precision(model: Model, precision: str) -> Model:
    def apply(variables: Any, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        with lowering.precision(precision):
            return model.apply(variables, x, train)

    return Model(model.init, apply)
