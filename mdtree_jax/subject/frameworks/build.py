"""Fresh networks from a function that builds a model: called again, with another key. JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mdtree_jax.registry.resolve import takes

#: Arguments of a builder that say where its random numbers come from, by the value that they get.
_SOURCES: dict[str, Callable[[Any, int], Any]] = {
    "key": lambda key, seed: key,
    "rng": lambda key, seed: key,
    "seed": lambda key, seed: seed,
}


def seed_of(key: Any) -> int:
    """Return a seed that depends on all of a key, for frameworks that have seeds instead."""
    return int(np.asarray(jax.random.bits(key, dtype="uint32"))) & 0x7FFFFFFF


def make_init(
    build: Callable[..., Any] | None,
    variables: Callable[[Any], Any],
    reseed: Callable[[int], Any] | None = None,
) -> Callable[[Any], Any] | None:
    """Return `init(key) -> variables`, None where a builder has no argument that would make its networks differ.

    Args:
        build: returns a model; called with `key`, `rng`, `seed` or, for NNX, `rngs`, if it takes one of them.
        variables: of the adapter.
        reseed: sets the framework's global seed, for a builder that takes no argument.
    """
    if build is None:
        return None
    given = [name for name in (*_SOURCES, "rngs") if takes(build, name)]
    if not given and reseed is None:
        return None

    def init(key: Any) -> Any:
        seed = seed_of(key)
        if reseed is not None:
            reseed(seed)
        options = {name: _rngs(key) if name == "rngs" else _SOURCES[name](key, seed) for name in given[:1]}
        return variables(build(**options))

    return init


def _rngs(key: Any) -> Any:
    from flax import nnx

    return nnx.Rngs(key)
