"""The knobs: settings that can be chosen before training and that a sweep can vary. No JAX.

An entry holds everything about a knob: unit, range, whether it is static or batched, which direction is hotter, which
cause each direction addresses, and the words for advice. The axes of a grid, the schema and help of a sweep, labels,
room for improvement and advice follow from it. If a knob acts on training, `mdtree_jax.training` binds a function to
its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table

#: Where a knob acts, which determines the code that reads its value.
ACTS_ON = ("build", "data", "batch", "length", "optimizer", "loss", "inputs", "gradients")


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
        default: value in a grid that does not set it; None if a grid must set it.
        low, high: range of its values, both included unless `excludes_low`.
        choices: values of a `str` knob.
        temperature: +1 if a larger value is hotter (more noise in the optimizer), -1 if it is colder, otherwise 0.
        up, down: the cause that a larger or a smaller value addresses; None if there is none, or if the knob has no
            order (`kind` is str).
        steps: factors of its steps in labels (the first) and advice; empty if factors do not apply.
        prefix: letter of its values in a cohort's key; '' for a batched knob.
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
            "applied to every parameter",
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
            high=0.999,
            up="too_little_regularization",
            down="too_much_regularization",
            words=Words("label smoothing"),
        ),
        Knob(
            "optimizer",
            "name",
            "sgd | adamw",
            "optimizer",
            is_static=True,
            kind=str,
            default="sgd",
            choices=("sgd", "adamw"),
            steps=(),
            prefix="o",
            words=Words("optimizer"),
        ),
        Knob(
            "schedule",
            "name",
            "schedule of the learning rate: constant | step | cosine",
            "optimizer",
            is_static=True,
            kind=str,
            default="constant",
            choices=("constant", "step", "cosine"),
            steps=(),
            prefix="s",
            words=Words("learning-rate schedule"),
        ),
        Knob(
            "augment",
            "1",
            "random crops and flips: 0 or 1",
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
    ],
)
BINDERS[Knob] = in_table(KNOBS)
