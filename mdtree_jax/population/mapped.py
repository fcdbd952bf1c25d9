"""One function over many networks: split over the devices, one after the other on each, compiled once. JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from mdtree_jax.population.executor import compiler_options
from mdtree_jax.population.lanes import AXIS


def jit_over_members(function: Callable[[Any, Any], Any], mesh: Mesh, lanes: int = 1) -> Any:
    """Return the compiled `apply(items, shared) -> results` of `function(item, shared) -> result`.

    Args:
        function: pure, of one network's arrays and what all share.
        mesh: of one axis, over which the first axis of `items`, a multiple of its size, is split.
        lanes: how many items a device does at once, by `vmap`.
    """

    def per_device(items: Any, shared: Any) -> Any:
        return lax.map(lambda item: function(item, shared), items, batch_size=lanes if lanes > 1 else None)

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    mapped = jax.shard_map(per_device, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)
    has_idle_cores = mesh.size < len(jax.devices())
    return jax.jit(mapped, compiler_options=compiler_options(mesh.devices.flat[0].platform, has_idle_cores))
