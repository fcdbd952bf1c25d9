"""What was measured of a part of a cohort before, looked up for the whole of it. On the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mdtree_jax.measuring.tables import empty_results
from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.registry.kernels import Kernel
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

    def left(self, stage: str, items: Sequence[Item], groups: Iterable[Sequence[int]] = ()) -> list[int]:
        """Return the places of the items that a stage is to be run for.

        Of `groups` of rows, within which all are compared, all items or none.
        """
        new = {item for item in items if not self.has(stage, item)}
        for rows in groups:
            if not new.isdisjoint(rows):
                new |= {*rows}
        return [place for place, item in enumerate(items) if item in new]

    def take(
        self,
        kernel: Kernel,
        items: Sequence[Item],
        left: list[int],
        like: Mapping[str, Any],
        layers: Sequence[str],
        results: dict[str, np.ndarray],
    ) -> list[int]:
        """Put what a kernel found into `results`, for all items but those `left`; return which are left then.

        Those are all if the tables lack a result. `like` are arrays of the shapes of the results of some items;
        `layers` names the parameter arrays.
        """
        places = sorted({*range(len(items))} - {*left})
        known, found = [items[place] for place in places], {}
        for name, array in {**like, "seconds": np.zeros(1)}.items():
            if name in LAYER_COLUMNS:
                column = self._tables["layers"][LAYER_COLUMNS[name]]
                keys = [(*self._place(row)[1], layer) for row in known for layer in layers]
                found[name] = column.reindex(keys).to_numpy(float).reshape(len(known), len(layers))
            elif array.ndim == 1:
                found[name] = self.column(
                    f"{kernel.name}_seconds" if name == "seconds" else kernel.prefix + name, known
                )
                if found[name] is None:
                    return list(range(len(items)))
            results.setdefault(name, empty_results(name, len(items), array))
        for name, values in found.items():
            results[name][places] = values
        return left

    def put_compared(self, stage: str, pairs: Sequence[tuple[int, int]], compared: Mapping[str, np.ndarray]) -> None:
        """Put what is known of pairs of networks that were compared before in its place in `compared`."""
        places = [place for place, pair in enumerate(pairs) if all(self.has(stage, row) for row in pair)]
        for name, values in compared.items() if places else ():
            earlier = self.column(name, [pairs[place] for place in places])
            if earlier is not None:
                values[places] = earlier

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
