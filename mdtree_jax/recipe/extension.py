"""Whether one grid extends another: the same recipe with more seeds, or more values of an axis. No JAX.

Configurations are counted by their place in the grid, so a larger grid counts them otherwise. What is the same network
in both is told by the values of its axes and its seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError
from mdtree_jax.recipe.axes import AXES
from mdtree_jax.registry.knobs import KNOBS

_SEEDS = {"num_seeds": 1, "seed": 0}


class Extension(NamedTuple):
    """How a grid extends a smaller one.

    Attributes:
        changes: setting -> its value in the smaller grid and in the larger one.
        numbers: number of a configuration in the smaller grid -> its number in the larger one.
        seeds: of the smaller grid.
    """

    changes: Mapping[str, tuple[Any, Any]]
    numbers: Mapping[int, int]
    seeds: range

    def of_smaller(self, members: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return which of the larger grid's networks (configuration, seed) are in the smaller one, in its order.

        >>> Extension({}, {0: 1, 1: 0}, range(2)).of_smaller([(0, 0), (0, 2), (1, 0), (2, 0)])
        [(1, 0), (0, 0)]
        """
        there = {here: number for number, here in self.numbers.items()}
        found = [(there[number], seed) for number, seed in members if number in there and seed in self.seeds]
        return [(self.numbers[number], seed) for number, seed in sorted(found)]

    def in_words(self) -> str:
        """Return what is larger.

        >>> Extension({"width": ((4, 8), (4, 8, 16)), "num_seeds": (3, 5)}, {}, range(3)).in_words()
        'width [4, 8] -> [4, 8, 16]; num_seeds 3 -> 5'
        """
        return "; ".join(f"{name} {_text(there)} -> {_text(here)}" for name, (there, here) in self.changes.items())


def extension(folder: Any, there: Mapping[str, Any], here: Mapping[str, Any]) -> Extension | None:
    """Return how the grid `here` extends that of `there`, both as resolved configs; None if it is of another recipe.

    An axis that has no value in common with what it was is another recipe too.

    Raises:
        UserError: a grid that leaves out values or seeds that `folder` has networks of.
    """
    changed = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if any(key not in KNOBS and key not in _SEEDS for key in changed):
        return None
    axes_there, axes_here = _axes(there, here), _axes(here, there)
    if any(not set(values) & set(axes_here[name]) for name, values in axes_there.items()):
        return None
    seeds, seeds_here = _seeds(there), _seeds(here)
    left_out = {name: [v for v in values if v not in axes_here[name]] for name, values in axes_there.items()}
    left_out["seed"] = [seed for seed in seeds if seed not in seeds_here]
    named = [f"{name}={', '.join(map(str, values))}" for name, values in left_out.items() if values]
    if named:
        raise UserError(
            f"{folder} has networks of {' and '.join(named)}, which this grid omits; a run can be extended, not "
            "cut; keep the values, or choose another out="
        )
    places = {point: number for number, point in enumerate(itertools.product(*axes_here.values()))}
    numbers = {number: places[point] for number, point in enumerate(itertools.product(*axes_there.values()))}
    every = {name: (values, axes_here[name]) for name, values in axes_there.items()}
    every |= {name: (there.get(name), here.get(name)) for name in _SEEDS}
    return Extension({name: both for name, both in every.items() if both[0] != both[1]}, numbers, seeds)


def _axes(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the values of the axes of both configs, in the order in which configurations are counted."""
    axes = {}
    for name in (*AXES, *(name for name in KNOBS if name not in AXES)):
        if name in config or name in other:
            values = config.get(name, KNOBS[name].default)
            axes[name] = tuple(values) if isinstance(values, (list, tuple)) else (values,)
    return axes


def _text(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _seeds(config: Mapping[str, Any]) -> range:
    number, first = (config.get(name, default) for name, default in _SEEDS.items())
    return range(first, first + number)
