"""The grids that a run folder had, one extending the other, and the numbers of configurations in them.

So are grids of other folders, parts of this one, whose networks were joined to it (`joined_from` of the manifest).

A part or checkpoint says by the hash of its config in which grid its configurations are counted.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mdtree_jax.checks import UserError
from mdtree_jax.recipe.extension import Extension, extension
from mdtree_jax.store.manifest import check_same_config, config_hash

Members = Iterable[tuple[int, int]]


def extension_from(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> Extension | None:
    """Return how the config here extends that of a folder, None where they are the same.

    Raises:
        UserError: another recipe, every key named in which it differs, or a grid that leaves out values.
    """
    there, here = json.loads(json.dumps(there)), json.loads(json.dumps(here))  # tuples and lists compare equal
    if there == here:
        return None
    found = extension(folder, there, here)
    if found is None:
        check_same_config(folder, there, here)
    return found


class Grids:
    """The grids of the run folder at `path` by the hash of their config; `config` is what it is to have, or has.

    Attributes:
        here: hash of that, or of the one it has.
        stored: hash of the one it has.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], config: dict[str, Any] | None = None):
        earlier = [entry["config"] for entry in manifest.get("extended_from", [])]
        configs = [*earlier, manifest["config"], *([] if config is None else [config])]
        joined = {config_hash(one): one for one in manifest.get("joined_from", [])}
        self._configs = joined | {config_hash(one): one for one in configs}
        self._path, self._first = path, config_hash(configs[0])
        self.here, self.stored = config_hash(configs[-1]), config_hash(manifest["config"])

    def __contains__(self, there: str | None) -> bool:
        return there in self._configs

    @functools.cache  # noqa: B019 - of a few grids, for the time of a command
    def since(self, there: str | None) -> Extension | None:
        """Return how the grid here extends an earlier one, None if that is this one.

        What does not say of which grid it is was written before grids could be extended, so it is of the first.
        """
        there = there or self._first
        if there == self.here:
            return None
        if there not in self._configs:
            raise UserError(f"{self._path} was never a run of the config with hash {there}")
        return extension_from(self._path, self._configs[there], self._configs[self.here])

    def number_here(self, configuration: int, there: str | None) -> int:
        """Return the number in this grid of a configuration of an earlier one, -1 for none."""
        grown = self.since(there)
        return configuration if grown is None else grown.numbers.get(configuration, -1)

    def members_here(self, members: Members, there: str | None) -> list[tuple[int, int]]:
        """Return networks (configuration, seed) of an earlier grid as they are counted in this one."""
        return [(self.number_here(configuration, there), seed) for configuration, seed in members]
