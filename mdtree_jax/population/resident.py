"""The data set on the devices, put there once: cohorts and passes, training and measuring share it. JAX."""

from __future__ import annotations

import weakref
from typing import Any

import jax
import numpy as np

from mdtree_jax import lowering
from mdtree_jax.training.arrays import kind_in

#: Identity of an array on the host, and type -> the array while it lives, where it is, and it there.
_THERE: dict[tuple[int, str], tuple[weakref.ref, Any, jax.Array]] = {}


def on_devices(tree: Any, dtype: Any, sharding: Any) -> Any:
    """Return the arrays of a data set, in the types of `dtype`'s arithmetic, on the devices of `sharding`.

    On an accelerator an array stays there as long as it lives on the host, at one place: asked for again, it is not
    copied. On a CPU it is copied, so that memory is free again when the caller is done.
    """
    return jax.tree.map(lambda array: _on_devices(array, kind_in(array, dtype), sharding), tree)


def _on_devices(array: Any, kind: np.dtype, sharding: Any) -> jax.Array:
    if not lowering.here().keeps_data or not isinstance(array, np.ndarray):
        return jax.device_put(np.asarray(array, kind), sharding)
    key = id(array), str(kind)
    known = _THERE.get(key)
    if known is not None and known[0]() is array and known[1] == sharding and not known[2].is_deleted():
        return known[2]
    placed = jax.device_put(np.asarray(array, kind), sharding)
    _THERE[key] = weakref.ref(array, lambda _: _THERE.pop(key, None)), sharding, placed
    return placed
