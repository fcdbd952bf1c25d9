"""From the axes of a grid to its configurations, and from those to cohorts of equal static shape. No JAX."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields

from mdtree_jax.checks import UserError
from mdtree_jax.recipe.cohort import Cohort, Member

AXES = ("width", "batch_size", "data_fraction", "learning_rate", "weight_decay", "train_epochs")
STATIC_AXES = ("width", "batch_size", "train_epochs")


@dataclass(frozen=True)
class Grid:
    """The axes of a grid; every combination of their values is a configuration, trained with each seed.

    `width`, `batch_size` and `train_epochs` are whole numbers ≥ 1, `data_fraction` is in (0, 1], `learning_rate` > 0,
    `weight_decay` ≥ 0; the seeds are `seed`, …, `seed + num_seeds − 1`. Raises `UserError` for an empty axis, a value
    given twice or out of range.
    """

    width: tuple[int, ...]
    batch_size: tuple[int, ...]
    data_fraction: tuple[float, ...] = (1.0,)
    learning_rate: tuple[float, ...] = (0.05,)
    weight_decay: tuple[float, ...] = (5e-4,)
    train_epochs: tuple[int, ...] = (50,)
    num_seeds: int = 1
    seed: int = 0

    def __post_init__(self):
        for field in fields(self):
            if field.name in AXES:
                _check_axis(field.name, getattr(self, field.name))
        if self.num_seeds < 1:
            raise UserError(f"num_seeds={self.num_seeds} is too few; wanted at least 1")
        if not 0 <= self.seed < 2**31 - self.num_seeds:
            raise UserError(f"seed={self.seed} is out of range; wanted 0 to 2^31 - 1")

    @property
    def seeds(self) -> range:
        """The seeds each configuration is trained with."""
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def num_configurations(self) -> int:
        """The product of the axes' lengths."""
        return math.prod(len(getattr(self, axis)) for axis in AXES)


@dataclass(frozen=True)
class Configuration:
    """One point of a grid; `index` counts them with the last axis fastest, in the order of `AXES`."""

    index: int
    width: int
    batch_size: int
    data_fraction: float
    learning_rate: float
    weight_decay: float
    train_epochs: int
    num_samples: int


def configurations(grid: Grid, num_train: int) -> tuple[Configuration, ...]:
    """Return every configuration of `grid` on a training set of `num_train` images.

    A subset is the first round(data_fraction · num_train) images. Raises `UserError` if a batch is larger than a
    subset: the last short batch of an epoch is dropped, so such a configuration would never take a step.

    >>> [c.num_samples for c in configurations(Grid((2,), (16,), data_fraction=(0.1, 1.0)), 3200)]
    [320, 3200]
    """
    smallest_fraction, largest_batch = min(grid.data_fraction), max(grid.batch_size)
    smallest = round(smallest_fraction * num_train)
    if largest_batch > smallest:
        raise UserError(
            f"batch_size={largest_batch} is larger than the subset of data_fraction={smallest_fraction:g}, which has "
            f"{smallest} of {num_train} images; wanted at most {smallest}"
        )
    points = itertools.product(*(getattr(grid, axis) for axis in AXES))
    named = (dict(zip(AXES, point, strict=True)) for point in points)
    return tuple(
        Configuration(index=index, num_samples=round(values["data_fraction"] * num_train), **values)
        for index, values in enumerate(named)
    )


def make_cohorts(grid: Grid, num_train: int) -> tuple[Cohort, ...]:
    """Return the cohorts of `grid`: configurations of equal width, batch size and epochs, with all their seeds.

    Cohorts come in the order of the grid, members by configuration and then by seed.

    >>> [c.key for c in make_cohorts(Grid((2, 4), (16,), data_fraction=(0.5, 1.0), num_seeds=3), 100)]
    ['w2-b16-e50', 'w4-b16-e50']
    """
    groups: dict[tuple[int, ...], list[Member]] = {}
    for c in configurations(grid, num_train):
        group = groups.setdefault(tuple(getattr(c, axis) for axis in STATIC_AXES), [])
        group.extend(
            Member(c.index, seed, c.num_samples, c.data_fraction, c.learning_rate, c.weight_decay)
            for seed in grid.seeds
        )
    return tuple(Cohort(*shape, members=tuple(members)) for shape, members in groups.items())


def _check_axis(name: str, values: tuple) -> None:
    """Raise `UserError` unless `values` is not empty, free of duplicates and within the axis's range."""
    if not values:
        raise UserError(f"the axis {name} of the grid is empty; wanted at least one value")
    if len(set(values)) < len(values):
        raise UserError(f"the axis {name}={list(values)} holds a value twice")
    for value in values:
        if name == "data_fraction":
            good, wanted = 0.0 < value <= 1.0, "in (0, 1]"
        elif name == "learning_rate":
            good, wanted = 0.0 < value < math.inf, "above 0"
        elif name == "weight_decay":
            good, wanted = 0.0 <= value < math.inf, "0 or above"
        else:
            good, wanted = value >= 1, "at least 1"
        if not good:
            raise UserError(f"{name}={value:g} is out of range; wanted {wanted}")
