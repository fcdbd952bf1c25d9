"""Turn the axes of a grid into configurations, and configurations into cohorts of equal static shape. No JAX.

Every knob (`mdtree_jax.registry.knobs`) can be an axis. The axes of a grid are those that every grid has, the fields of
`Cohort` and `Member`, and the further knobs that it uses: those with several values, or with a value other than the
default. Knobs that it does not use do not appear in programs, names and tables.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.recipe.cohort import Cohort, Member
from mdtree_jax.registry.knobs import KNOBS

#: Knobs that every grid has, in the order in which its configurations are counted.
AXES = ("width", "batch_size", "data_fraction", "learning_rate", "weight_decay", "train_epochs")

#: Networks of a grid; each has an entry in memory before the first is trained.
MOST_NETWORKS = 1_000_000


@dataclass(frozen=True, init=False)
class Grid:
    """The axes of a grid; every combination of their values is a configuration, trained with each seed.

    Attributes:
        axes: values of every knob, of `AXES` first, then of the others in the order of the table.
        num_seeds: networks of a configuration; their seeds are `seed`, …, `seed + num_seeds − 1`.
        seed: of the first.
    """

    axes: Mapping[str, tuple[Any, ...]]
    num_seeds: int
    seed: int

    def __init__(self, *values: Iterable[Any], num_seeds: int = 1, seed: int = 0, **axes: Iterable[Any]):
        """Take the axes by name or in the order of `AXES`; a knob that is not given has its default.

        Raises:
            UserError: an unknown knob, one without a default that is not given, an axis that is empty, a value given
                twice or out of range, more than `MOST_NETWORKS` networks.

        >>> Grid((2, 4), (16,), optimizer=("sgd", "adamw")).num_configurations
        4
        """
        given = {**dict(zip(AXES[: len(values)], values, strict=True)), **axes}
        for name in given:
            check_choice("knob", name, KNOBS)
        every = {}
        for name in (*AXES, *(name for name in KNOBS if name not in AXES)):
            if name not in given and KNOBS[name].default is None:
                raise UserError(f"the grid has no {name}; give at least one value")
            every[name] = tuple(given.get(name, (KNOBS[name].default,)))
            _check_axis(name, every[name])
        if num_seeds < 1:
            raise UserError(f"num_seeds={num_seeds} is too few; it must be at least 1")
        if (networks := num_seeds * math.prod(map(len, every.values()))) > MOST_NETWORKS:
            raise UserError(
                f"the grid has {networks} networks, {num_seeds} seeds of each configuration; expected at most "
                f"{MOST_NETWORKS} (fewer values on its axes, or a smaller num_seeds)"
            )
        if not 0 <= seed < 2**31 - num_seeds:
            raise UserError(f"seed={seed} is out of range; it must be 0 to 2^31 - 1")
        for name, value in (("axes", every), ("num_seeds", num_seeds), ("seed", seed)):
            object.__setattr__(self, name, value)

    @property
    def seeds(self) -> range:
        """The seeds each configuration is trained with."""
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def used(self) -> tuple[str, ...]:
        """The knobs that the grid uses."""
        return tuple(name for name, values in self.axes.items() if name in AXES or values != (KNOBS[name].default,))

    @property
    def num_configurations(self) -> int:
        """The product of the axes' lengths."""
        return math.prod(map(len, self.axes.values()))


@dataclass(frozen=True)
class Configuration:
    """One point of a grid: values of the knobs that the grid uses; `index` counts them with the last axis fastest."""

    index: int
    num_samples: int
    values: Mapping[str, Any]


def configurations(grid: Grid, num_train: int) -> tuple[Configuration, ...]:
    """Return every configuration of `grid` on a training set of `num_train` images.

    A subset is the first round(data_fraction · num_train) images. Raises `UserError` if a batch is larger than a
    subset: the last short batch of an epoch is dropped, so such a configuration would never take a step.

    >>> [c.num_samples for c in configurations(Grid((2,), (16,), data_fraction=(0.1, 1.0)), 3200)]
    [320, 3200]
    """
    smallest_fraction, largest_batch = min(grid.axes["data_fraction"]), max(grid.axes["batch_size"])
    smallest = round(smallest_fraction * num_train)
    if largest_batch > smallest:
        raise UserError(
            f"batch_size={largest_batch} is larger than the subset of data_fraction={smallest_fraction:g}, which has "
            f"{smallest} of {num_train} images; expected at most {smallest}"
        )
    points = itertools.product(*(grid.axes[name] for name in grid.used))
    named = (dict(zip(grid.used, point, strict=True)) for point in points)
    return tuple(
        Configuration(index, round(values["data_fraction"] * num_train), values) for index, values in enumerate(named)
    )


def make_cohorts(grid: Grid, num_train: int) -> tuple[Cohort, ...]:
    """Return the cohorts of `grid`: configurations of equal static knobs, with all their seeds.

    Cohorts come in the order of the grid, members by configuration and then by seed.

    >>> [c.key for c in make_cohorts(Grid((2, 4), (16,), data_fraction=(0.5, 1.0), num_seeds=3), 100)]
    ['w2-b16-e50', 'w4-b16-e50']
    >>> grid = Grid((2,), (16,), optimizer=("sgd", "adamw"), label_smoothing=(0.0, 0.1))
    >>> [(c.key, [dict(m.knobs) for m in c.members]) for c in make_cohorts(grid, 100)][1]
    ('w2-b16-e50-oadamw', [{'label_smoothing': 0.0}, {'label_smoothing': 0.1}])
    """
    static, batched = ([n for n in grid.used if KNOBS[n].is_static is which] for which in (True, False))
    groups: dict[tuple[Any, ...], list[Member]] = {}
    for c in configurations(grid, num_train):
        group = groups.setdefault(tuple(c.values[name] for name in static), [])
        values = _arguments(Member, batched, (c.values[name] for name in batched))
        group.extend(Member(index=c.index, seed=seed, num_samples=c.num_samples, **values) for seed in grid.seeds)
    return tuple(
        Cohort(**_arguments(Cohort, static, shape), members=tuple(members)) for shape, members in groups.items()
    )


def _arguments(kind: type, names: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    """Return values of knobs as arguments of `Cohort` or `Member`: fields, and `knobs` for the others."""
    given, fields = dict(zip(names, values, strict=True)), {field.name for field in dataclasses.fields(kind)}
    further = tuple((name, value) for name, value in given.items() if name not in fields)
    return {name: value for name, value in given.items() if name in fields} | {"knobs": further}


def _check_axis(name: str, values: tuple[Any, ...]) -> None:
    """Raise `UserError` unless `values` is not empty, free of duplicates and within the knob's range."""
    if not values:
        raise UserError(f"the axis {name} of the grid is empty; expected at least one value")
    if len(set(values)) < len(values):
        raise UserError(f"the axis {name}={list(values)} contains a duplicate value")
    for value in values:
        KNOBS[name].check(value)
