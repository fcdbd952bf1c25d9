"""What was measured of a part of a cohort before, looked up for the whole of it. On the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.store.tables import Measured

#: Results of a stage with a value for each parameter array -> their column of the table of layers.
LAYER_COLUMNS = {"layer_traces": "hessian_trace", "layer_traces_se": "hessian_trace_se"}

Item = int | tuple[int, int]


class Known:
    """The tables of an earlier measurement, if any, by rows of the cohort; an item is a row or a pair of rows."""

    def __init__(self, measured: Measured | None, cohort: Cohort):
        self._keys = [(member.index, member.seed) for member in cohort.members]
        self._tables: dict[str, Any] = {}
        if measured is not None:
            ends = ["configuration", "seed"]
            self._tables = {
                "members": measured.members.set_index(ends),
                "pairs": measured.pairs.set_index(["configuration", "seed_a", "seed_b"]),
                "layers": measured.layers.set_index([*ends, "layer"]),
            }

    def has(self, stage: str, item: Item) -> bool:
        """Return whether a stage was run for an item: it took seconds."""
        table, key = self._place(item)
        column = f"{stage}_seconds"
        return column in table and key in table.index and bool(np.isfinite(table.at[key, column]))

    def values(
        self, stage: str, prefix: str, names: Mapping[str, Any], items: Sequence[Item], layers: Sequence[str]
    ) -> dict[str, np.ndarray] | None:
        """Return what a stage found for items that it was run for, None if the tables lack a column.

        Args:
            stage: of measuring.
            prefix: of its columns.
            names: of its results, with arrays of their shape (items, …).
            items: that it was run for.
            layers: names of the parameter arrays.
        """
        found = {}
        for name, array in names.items():
            if name in LAYER_COLUMNS:
                column = self._tables["layers"][LAYER_COLUMNS[name]]
                keys = [(*self._keys[row], layer) for row in items for layer in layers]
                found[name] = column.reindex(keys).to_numpy(float).reshape(len(items), len(layers))
            elif array.ndim == 1:
                values = self.column(f"{stage}_seconds" if name == "seconds" else prefix + name, items)
                if values is None:
                    return None
                found[name] = values
        return found

    def column(self, name: str, items: Sequence[Item]) -> np.ndarray | None:
        """Return a column for items of one kind, None if the table has no such column."""
        table = self._place(items[0])[0]
        if name not in table:
            return None
        return table[name].reindex([self._place(item)[1] for item in items]).to_numpy(float)

    def _place(self, item: Item) -> tuple[Any, tuple[int, ...]]:
        if isinstance(item, int):
            return self._tables.get("members", ()), self._keys[item]
        first, second = item
        return self._tables.get("pairs", ()), (*self._keys[first], self._keys[second][1])
