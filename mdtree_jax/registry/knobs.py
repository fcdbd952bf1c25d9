"""The knobs: settings that can be chosen before training and that a sweep can vary. No JAX.

An entry holds everything about a knob: unit, range, whether it is static or batched, which direction is hotter, which
cause each direction addresses, and the words for advice. The axes of a grid, the schema and help of a sweep, labels,
room for improvement, advice and prices follow from it. If a knob acts on the loss, the inputs or the gradients, a
function is bound to its name as `apply`; see `mdtree_jax.training.knobs`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.registry.probes import PROBES
from mdtree_jax.registry.register import BINDERS, Binder
from mdtree_jax.registry.table import Table

#: Where a knob acts, which determines the code that reads its value.
ACTS_ON = ("build", "data", "batch", "length", "optimizer", "loss", "inputs", "gradients")
#: Places where a bound function acts, so that new knobs can act there. They can also act on `build`, if the
#: architecture's builder has an argument of the knob's name.
BY_FUNCTION = ("loss", "inputs", "gradients")
#: Places that change shapes or the length of a loop, so that values cannot be batched.
_STATIC_ONLY = ("build", "batch", "length")
KINDS = (int, float, str, bool)


@dataclass(frozen=True)
class Words:
    """The words for a knob; `mdtree_jax.diagnosis.words` builds sentences from them.

    Attributes:
        noun: the name of the knob; it follows "the".
        down, up: adjectives for a smaller and a larger value.
        short: the noun in one word, for tables.
        do: direction (`up`, `down`) -> the advice as an imperative, if it is not "increase the" or "reduce the" `noun`;
            `{how}` is replaced by the size of the step.
        rules: direction -> sentences of general experience that accompany the advice.
        price: what a larger value costs, '' for nothing.
    """

    noun: str
    down: str = "smaller"
    up: str = "larger"
    short: str = ""
    do: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    price: str = ""


@dataclass(frozen=True)
class Knob:
    """One knob.

    Attributes:
        name: identifier; the column of a collection, and the key of a grid.
        unit: of its values.
        meaning: one line for help and tables.
        acts_on: one of `ACTS_ON`: the architecture's builder, the data, the batch, the length of training or the
            optimizer; or the loss, the inputs or the gradients, through a function that training binds to the name.
        is_static: True if a value changes shapes, loop lengths or the program, so that each value needs its own cohort;
            False if different values are batched along the population axis of one cohort.
        kind: int, float, str or bool.
        default: value in a grid that does not set it, at which a knob that acts through a function has no effect; None
            if a grid must set it.
        low, high: finite range of its values, both included unless `excludes_low`, `excludes_high`.
        choices: values of a `str` knob; empty for any.
        temperature: +1 if a larger value is hotter (more noise in the optimizer), -1 if it is colder, otherwise 0.
        up, down: the cause that a larger or a smaller value addresses; None if there is none, or if the knob has no
            order (`kind` is str).
        steps: factors of its steps in labels (the first) and advice; empty if factors do not apply.
        prefix: prefix of its values in a cohort's key, for static knobs only; the knob's name if empty.
        words: the words for advice.
    """

    name: str
    unit: str
    meaning: str
    acts_on: str
    is_static: bool
    words: Words
    kind: type = float
    default: Any = None
    low: float = float("-inf")
    high: float = float("inf")
    excludes_low: bool = False
    excludes_high: bool = False
    choices: tuple[str, ...] = ()
    temperature: int = 0
    up: str | None = None
    down: str | None = None
    steps: tuple[float, ...] = (2.0, 4.0)
    prefix: str = ""

    @property
    def has_order(self) -> bool:
        """Whether one value can be larger than another."""
        return self.kind is not str

    @property
    def short(self) -> str:
        """The stem of the knob's columns of room for improvement: `rfi_<short>_up`, `rfi_<short>_down`."""
        return {"batch_size": "batch", "data_fraction": "data"}.get(self.name, self.name)

    @property
    def probe(self) -> tuple[str, ...]:
        """The names of its probes; those of the learning rate stand for the batch size, which is the same axis."""
        return tuple(p.name for p in PROBES.values() if p.knob == self.name.replace("batch_size", "learning_rate"))

    def __post_init__(self) -> None:
        check_choice(f"place of the knob '{self.name}' to act on", self.acts_on, ACTS_ON)
        if self.kind not in KINDS:
            kinds = ", ".join(kind.__name__ for kind in KINDS)
            raise UserError(f"the knob '{self.name}' has kind={self.kind!r}; available: {kinds}")
        if not self.is_static and (self.kind is str or self.acts_on in _STATIC_ONLY):
            why = "takes names" if self.kind is str else f"acts on '{self.acts_on}'"
            raise UserError(f"the knob '{self.name}' {why}, so its values cannot be batched; give is_static=True")

    @property
    def wanted(self) -> str:
        """The range of its values in words.

        >>> KNOBS["data_fraction"].wanted, KNOBS["weight_decay"].wanted, KNOBS["width"].wanted
        ('in (0, 1]', '0 or above', 'at least 1')
        """
        has_low, has_high = math.isfinite(self.low), math.isfinite(self.high)
        if has_low and has_high:
            ends = "(" if self.excludes_low else "[", ")" if self.excludes_high else "]"
            return f"in {ends[0]}{self.low:g}, {self.high:g}{ends[1]}"
        if has_low:
            at_least = f"at least {self.low:g}" if self.kind is int else f"{self.low:g} or above"
            return f"above {self.low:g}" if self.excludes_low else at_least
        if has_high:
            return f"below {self.high:g}" if self.excludes_high else f"at most {self.high:g}"
        return "a finite number"

    def check(self, value: Any) -> None:
        """Raise `UserError` for a value that is out of range or none of the choices."""
        if self.kind is str:
            if self.choices:
                check_choice(self.name, value, self.choices)
            if not re.fullmatch(r"[\w.+-]+", value):  # it becomes a part of files' names
                raise UserError(f"{self.name}='{value}' is not a valid name; use letters, digits and . + - _")
            return
        is_high_enough = value > self.low if self.excludes_low else value >= self.low
        is_low_enough = value < self.high if self.excludes_high else value <= self.high
        if not (math.isfinite(value) and is_high_enough and is_low_enough):
            raise UserError(f"{self.name}={value:g} is out of range; it must be {self.wanted}")
        if self.kind is int and value >= 2**31:
            raise UserError(f"{self.name}={value:g} is out of range; it must be at most 2^31 - 1")


RETUNE = "tune the learning rate again after changing the batch size"

KNOBS: Table[Knob] = Table(
    "knob",
    [
        Knob(
            "width",
            "channels",
            "channels of the first stage (`resnet8_fine`: of the last stage; `mlp`: units of a hidden layer)",
            "build",
            is_static=True,
            kind=int,
            low=1,
            up="model_too_small",
            prefix="w",
            words=Words(
                "network width",
                "narrower",
                "wider",
                "network",
                rules={"up": ("a deeper network, or another architecture, can have the same effect",)},
                price="a wider network costs more",
            ),
        ),
        Knob(
            "batch_size",
            "samples",
            "images per training step",
            "batch",
            is_static=True,
            kind=int,
            low=1,
            temperature=-1,
            up="temperature_too_high",
            down="temperature_too_low",
            prefix="b",
            words=Words(
                "batch size",
                "smaller",
                "larger",
                "batch",
                rules={
                    "down": (
                        "a larger learning rate also raises the temperature; more epochs alone do not",
                        RETUNE,
                    ),
                    "up": (
                        "a smaller or decaying learning rate also lowers the temperature, but may need more epochs",
                        RETUNE,
                    ),
                },
            ),
        ),
        Knob(
            "data_fraction",
            "1",
            "share of the training set that is used, in (0, 1]; the first images",
            "data",
            is_static=False,
            default=1.0,
            low=0.0,
            high=1.0,
            excludes_low=True,
            up="too_little_data",
            words=Words(
                "amount of training data",
                "less",
                "more",
                "data",
                rules={"up": ("data augmentation or pretraining can make up for part of the missing data",)},
                price="more data must be collected and takes longer to train on",
            ),
        ),
        Knob(
            "learning_rate",
            "1",
            "initial learning rate of the schedule",
            "optimizer",
            is_static=False,
            default=0.05,
            low=0.0,
            excludes_low=True,
            temperature=+1,
            up="temperature_too_low",
            down="temperature_too_high",
            words=Words(
                "learning rate",
                "smaller",
                "larger",
                "rate",
                rules={
                    "up": ("a smaller batch also raises the temperature",),
                    "down": (
                        "a larger batch or a decaying learning rate also lowers the temperature, but may need more "
                        "epochs",
                    ),
                },
            ),
        ),
        Knob(
            "weight_decay",
            "1",
            "weight decay, applied to every parameter",
            "optimizer",
            is_static=False,
            default=5e-4,
            low=0.0,
            up="too_little_regularization",
            down="too_much_regularization",
            steps=(10.0, 100.0),
            words=Words(
                "weight decay",
                short="decay",
                rules={
                    "up": ("data augmentation and label smoothing also regularize",),
                    "down": ("with less regularization, training may have to stop earlier",),
                },
            ),
        ),
        Knob(
            "train_epochs",
            "epochs",
            "passes over the training subset",
            "length",
            is_static=True,
            kind=int,
            default=50,
            low=1,
            up="trained_too_short",
            prefix="e",
            words=Words(
                "number of epochs",
                "fewer",
                "more",
                "epochs",
                rules={"up": ("a larger or decaying learning rate can reach the same accuracy in fewer epochs",)},
                price="longer training costs more",
            ),
        ),
        Knob(
            "label_smoothing",
            "1",
            "share of the target's probability that is spread over all classes, in [0, 1)",
            "loss",
            is_static=False,
            default=0.0,
            low=0.0,
            high=1.0,
            excludes_high=True,
            up="too_little_regularization",
            down="too_much_regularization",
            words=Words("label smoothing"),
        ),
        Knob(
            "optimizer",
            "name",
            "sgd | adam | adamw | lion | muon",
            "optimizer",
            is_static=True,
            kind=str,
            default="sgd",
            choices=("sgd", "adam", "adamw", "lion", "muon"),
            steps=(),
            prefix="o",
            words=Words("optimizer"),
        ),
        Knob(
            "schedule",
            "name",
            "schedule of the learning rate: constant | step | linear | cosine | warmup_cosine",
            "optimizer",
            is_static=True,
            kind=str,
            default="constant",
            choices=("constant", "step", "linear", "cosine", "warmup_cosine"),
            steps=(),
            prefix="s",
            words=Words("learning-rate schedule"),
        ),
        Knob(
            "augment",
            "1",
            "randomly crop and mirror images in every step",
            "inputs",
            is_static=True,
            kind=bool,
            default=False,
            up="too_little_regularization",
            down="too_much_regularization",
            steps=(),
            prefix="a",
            words=Words(
                "data augmentation",
                "off",
                "on",
                do={"up": "turn on data augmentation", "down": "turn off data augmentation"},
            ),
        ),
        Knob(
            "momentum",
            "1",
            "momentum of sgd and muon; beta1 of adam, adamw and lion",
            "optimizer",
            is_static=True,
            default=0.9,
            low=0.0,
            high=1.0,
            excludes_high=True,
            steps=(),
            prefix="m",
            words=Words("momentum"),
        ),
    ],
)


def register_knob(knob: Knob, apply: Callable[..., Any] | None = None) -> Knob:
    """Add a knob to the table and return it.

    Args:
        knob: acts on the loss, the inputs or the gradients through `apply`, or is an argument of the builder.
        apply: its function; `mdtree_jax.training.knobs` documents how it is called.

    Raises:
        UserError: a name that is taken, no default, or a knob without effect.
    """
    named = f"the knob '{knob.name}'"
    if knob.default is None:
        raise UserError(f"{named} has no default, which is needed for grids that do not set it")
    if knob.acts_on in BY_FUNCTION and apply is None:
        raise UserError(f"{named} acts on the {knob.acts_on} and needs a function, apply=")
    if knob.acts_on not in BY_FUNCTION and apply is not None:
        raise UserError(f"{named} acts on '{knob.acts_on}' and takes no apply=")
    if knob.acts_on not in (*BY_FUNCTION, "build"):
        raise UserError(
            f"{named} acts on '{knob.acts_on}', which is reserved for knobs of the package; new knobs can act on: "
            f"{', '.join(('build', *BY_FUNCTION))}"
        )
    knob.check(knob.default)
    knob = KNOBS.register(knob)
    if apply is not None:
        KNOBS.bind(knob.name, apply=apply)
    return knob


BINDERS[Knob] = Binder(register_knob, KNOBS.unregister, ("apply",))
