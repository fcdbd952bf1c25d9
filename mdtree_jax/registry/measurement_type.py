"""The type of an entry in the table of measurements: one entry per number measured on a trained network. No JAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.registry.kernels import check_needs

#: Direction of a measurement -> what a small value of it means, and what a large one.
DIRECTIONS = {
    "": ("it is low", "it is high"),
    "unfit": ("it fits its training data", "it does not fit its training data"),
    "worse": ("it does well on new data", "it does badly on new data"),
    "sharp": ("its minimum is flat", "its minimum is sharp"),
    "hot": ("it looks as if it was trained cold", "it looks as if it was trained hot"),
    "cold": ("it looks as if it was trained hot", "it looks as if it was trained cold"),
    "joined": (
        "a barrier of high error separates two such networks",
        "two such networks are joined by a path of low error",
    ),
    "apart": ("two such networks are close to each other", "two such networks are far apart"),
    "alike": ("two such networks have found different functions", "two such networks agree"),
    "large": ("it is small", "it is large"),
}
#: Suffixes of columns that accompany a measurement; the name of a measurement must not end in one.
RESERVED = ("_se", "_standard_error", "_seconds", "_flops", "_residual", "_converged", "_products")
#: Columns that identify a row in the tables of a run.
KEYS = ("configuration", "seed", "seed_a", "seed_b", "status", "cohort", "layer", "stop_epoch", "name", "model")


class Words(NamedTuple):
    """The words for a measurement.

    Attributes:
        label: display name.
        axis: axis label including unit or scale; defaults to `label` and unit.
        at_most, above: what a value on this side of a threshold means; defaults to the words of the direction.
    """

    label: str
    axis: str = ""
    at_most: str = ""
    above: str = ""


class Scale(NamedTuple):
    """How a measurement enters the joint model: `to_scale` transforms it, `spread` is its typical standard deviation
    after the transformation.
    """

    to_scale: Callable[[Any], Any]
    spread: float


@dataclass(frozen=True)
class Measurement:
    """One measurement.

    Attributes:
        name: identifier, the column of a collection; its standard error over seeds is `<name>_se`.
        unit: `%`, `-%` (percent, with a minus), `nats`, `ln`, `points`, `1`, …; columns in percent are also understood
            as fractions.
        meaning: one line for help and tables.
        kernel: name of the kernel that computes it; None for settings, values recorded during training, and derived
            measurements. `register(…, kernel=function)` sets it.
        needs: its requirements, from `kernels.NEEDS`; defaults to those of its kernel or sources.
        cost: of its own kernel, see `kernels.Kernel`.
        direction: what a larger value means, from `DIRECTIONS`.
        words: the words for it; None uses name, unit and direction.
        aliases: other name -> function that converts its values (a pandas Series) to this unit, None if the values are
            the same.
        sources, formula: the columns from which a derived measurement is computed, and how: `formula(*values) ->
            values`. It is never stored, but computed on demand.
        logarithm_of: this measurement is the natural logarithm of the mean of that one over networks.
        of_size: whether the logarithm is of the absolute value.
        scale: of the joint model, which then uses the measurement; None excludes it.
        log_offset: candidate thresholds of trees are evenly spaced in ln(offset + |value|); None spaces them evenly in
            the value itself.
        bounds: smallest and largest value.
        tolerance: how far rounding may exceed the bounds.
        is_shown: whether a diagnosis shows it if it is in the table.

    Raises:
        UserError: an unknown direction or need, a name that could be confused with another column, empty bounds, or
            sources without a formula.
    """

    name: str
    unit: str
    meaning: str
    kernel: str | None = None
    needs: tuple[str, ...] = ()
    cost: float = 3.0
    direction: str = ""
    words: Words | None = None
    aliases: Mapping[str, Callable[[Any], Any] | None] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    formula: Callable[..., Any] | None = None
    logarithm_of: str | None = None
    of_size: bool = False
    scale: Scale | None = None
    log_offset: float | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    tolerance: float = 0.0
    is_shown: bool = True

    def __post_init__(self) -> None:
        check_choice(f"direction of '{self.name}'", self.direction, DIRECTIONS)
        check_needs(self.name, self.needs)
        if self.name in KEYS or self.name.endswith(RESERVED) or self.name.startswith(("label_", "rfi_")):
            raise UserError(
                f"'{self.name}' is not a valid name for a measurement: it must not be one of {', '.join(KEYS)}, end in "
                f"{', '.join(RESERVED)}, nor begin with label_ or rfi_"
            )
        if not self.bounds[0] < self.bounds[1]:
            raise UserError(f"bounds={self.bounds} of '{self.name}' are empty; give (smallest, largest)")
        if bool(self.sources) != (self.formula is not None):
            raise UserError(f"'{self.name}' needs both sources and formula, or neither")
        if self.kernel is not None and (self.sources or self.logarithm_of):
            raise UserError(f"'{self.name}' is derived from other columns, so it cannot have a kernel")

    @property
    def is_derived(self) -> bool:
        """Whether it is computed from other columns instead of stored."""
        return bool(self.sources)

    @property
    def label(self) -> str:
        """The display name."""
        return self.words.label if self.words else self.name.replace("_", " ")

    @property
    def axis(self) -> str:
        """The label of an axis or row: name and unit."""
        if self.words and self.words.axis:
            return self.words.axis
        return self.label + ("" if self.unit == "1" else f", {self.unit}")

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest value in a table: an error relative to a variance can exceed 100 %."""
        low, high = self.bounds
        return (-math.inf if low == -100 else low), (math.inf if high == 100 and self.unit == "%" else high)

    @property
    def sides(self) -> tuple[str, str]:
        """What a value at or below a threshold means, and what a value above it means."""
        low, high = DIRECTIONS[self.direction]
        return ((self.words.at_most or low), (self.words.above or high)) if self.words else (low, high)


def unit_after_number(unit: str) -> str:
    """Return a unit as written after a number, '' for a dimensionless number.

    >>> unit_after_number("-%"), unit_after_number("nats"), unit_after_number("ln")
    (' %', ' nats', '')
    """
    return {"1": "", "ln": "", "class": "", "name": "", "": "", "-%": " %"}.get(unit, f" {unit}")
