"""What the table of measurements holds: one record for each number that is known of a trained network. No JAX."""

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
        "an error barrier separates two such networks",
        "two such networks are connected by a path of low error",
    ),
    "apart": ("two such networks are close to each other", "two such networks are far apart"),
    "alike": ("two such networks have learned different functions", "two such networks agree"),
    "large": ("it is small", "it is large"),
}
#: Ends of columns that stand beside a measurement, and so of no measurement.
RESERVED = ("_se", "_standard_error", "_seconds", "_flops", "_residual", "_converged", "_products")
#: Columns of the tables of a run that name a row.
KEYS = ("configuration", "seed", "seed_a", "seed_b", "status", "cohort", "layer", "stop_epoch", "name", "model")


class Words(NamedTuple):
    """How people are told of a measurement.

    Attributes:
        label: what they call it.
        axis: label of an axis, its unit or scale in it; '' is `label` and unit.
        at_most, above: what a value on this side of a threshold means; '' is what the direction says.
    """

    label: str
    axis: str = ""
    at_most: str = ""
    above: str = ""


class Scale(NamedTuple):
    """How a measurement enters the joint model: `to_scale` evens its spread, `spread` is its typical standard deviation
    there.
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
        kernel: name of the kernel that computes it; None for a setting, for what training records, and for what follows
            from other columns. `register(…, kernel=function)` fills it in.
        needs: what it needs, of `kernels.NEEDS`; empty is what its kernel or its sources need.
        cost: of its own kernel, see `kernels.Kernel`.
        direction: what a larger value means, of `DIRECTIONS`.
        words: how people are told; None falls back on name, unit and direction.
        aliases: other name -> function that turns its values (a pandas Series) into this unit, None where they are
            the same.
        sources, formula: the columns that a derived measurement follows from, and how: `formula(*values) -> values`.
            It is never stored, but made where it is asked for.
        logarithm_of: the measurement whose mean over networks this is the natural logarithm of.
        of_size: whether that logarithm is of the absolute value.
        scale: in the joint model, which then asks it; None keeps it out.
        log_offset: thresholds of trees are spread evenly in ln(offset + |value|); None spreads them evenly.
        bounds: least and largest value.
        tolerance: how far rounding may take it beyond.
        is_shown: whether a diagnosis shows it where a table has it.

    Raises:
        UserError: a direction or need that does not exist, a name that would be taken for a column beside a
            measurement, bounds that hold nothing, or sources without a formula.
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
                f"'{self.name}' is no name of a measurement: it may not be one of {', '.join(KEYS)}, end in "
                f"{', '.join(RESERVED)}, nor begin with label_ or rfi_"
            )
        if not self.bounds[0] < self.bounds[1]:
            raise UserError(f"bounds={self.bounds} of '{self.name}' hold nothing; wanted (least, largest)")
        if bool(self.sources) != (self.formula is not None):
            raise UserError(f"'{self.name}' needs both sources and formula, or neither")
        if self.kernel is not None and (self.sources or self.logarithm_of):
            raise UserError(f"'{self.name}' follows from other columns and so has no kernel of its own")

    @property
    def is_derived(self) -> bool:
        """Whether it is no column, but made from some."""
        return bool(self.sources)

    @property
    def label(self) -> str:
        """What people call it."""
        return self.words.label if self.words else self.name.replace("_", " ")

    @property
    def axis(self) -> str:
        """The label of an axis or row: name and unit."""
        if self.words and self.words.axis:
            return self.words.axis
        return self.label + ("" if self.unit == "1" else f", {self.unit}")

    @property
    def sides(self) -> tuple[str, str]:
        """What a value at most a threshold means, and what one above it."""
        low, high = DIRECTIONS[self.direction]
        return ((self.words.at_most or low), (self.words.above or high)) if self.words else (low, high)


def unit_after_number(unit: str) -> str:
    """Return a unit as it stands behind a number, '' for a pure number.

    >>> unit_after_number("-%"), unit_after_number("nats"), unit_after_number("ln")
    (' %', ' nats', '')
    """
    return {"1": "", "ln": "", "class": "", "name": "", "": "", "-%": " %"}.get(unit, f" {unit}")
