"""The compiled training programs that threads share: one compiles ahead what another will run. JAX."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from mdtree_jax import lowering
from mdtree_jax.population.loop import AXIS


class Executables:
    """The last few compiled training programs, and which of them no cohort has used yet; for several threads."""

    def __init__(self, most: int = 4):
        self._most, self._lock = most, threading.Lock()
        self._found: dict[Any, Future] = {}
        self._unused: set[Any] = set()

    def get(self, jitted: Any, arguments: Any, *, ahead: bool = False) -> tuple[Any, bool]:
        """Return the program for arguments, or shapes, like these, and whether it is new to the cohorts.

        Who asks for one that another thread is compiling waits for it.
        """
        key = jitted, tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments))
        with self._lock:
            is_mine = key not in self._found
            future = Future() if is_mine else self._found.pop(key)
            self._found[key] = future  # the last used is the last to go
            if is_mine:
                self._unused.add(key)
                while len(self._found) > self._most:
                    self._found.pop(next(iter(self._found)))
            is_first_use = key in self._unused
            if not ahead:
                self._unused.discard(key)
        if is_mine:
            try:
                future.set_result(jitted.lower(*arguments).compile())
            except BaseException as error:
                with self._lock:
                    self._found.pop(key, None)
                future.set_exception(error)
                raise
        return future.result(), is_first_use


#: Those of this process.
executables = Executables()


def jit_over_members(function: Callable[[Any, Any], Any], mesh: Mesh, lanes: int = 1) -> Any:
    """Return the compiled `apply(items, shared) -> results` of `function(item, shared) -> result`.

    Args:
        function: pure, of one network's arrays and what all share.
        mesh: of one axis, over which the first axis of `items`, a multiple of its size, is split.
        lanes: how many items a device does at once, by `vmap`.
    """

    def per_device(items: Any, shared: Any) -> Any:
        with lowering.side_by_side(lanes):
            return lax.map(lambda item: function(item, shared), items, batch_size=lanes if lanes > 1 else None)

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    mapped = jax.shard_map(per_device, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)
    has_idle_cores = mesh.size < len(jax.local_devices())
    return jax.jit(mapped, compiler_options=lowering.compiler_options(mesh.devices.flat[0].platform, has_idle_cores))
