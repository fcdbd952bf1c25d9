"""The cost of a diagnosis, compared with one retraining and with a grid search over three knobs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.words.notes import sentence
from mdtree_jax.registry.knobs import KNOBS

#: Training setting -> its knob.
KNOB_OF_TRAINING = {"batch_size": "batch_size", "learning_rate": "learning_rate", "epochs": "train_epochs"}
#: Trainings of a search that tries three values of batch size, width and amount of data each.
GRID_SEARCH_TRAININGS = 27


@dataclass(frozen=True)
class Training:
    """Known training settings of the model; None if unknown.

    Attributes:
        batch_size: examples of a step.
        learning_rate: the peak of the schedule; probes are multiples of it.
        epochs: passes over the training set.
        optimizer: a name of the knob `optimizer`, or an optax gradient transformation made at `learning_rate`,
            constant; None counts as `sgd`.
        schedule: of the learning rate, a name of the knob `schedule`; None counts as `constant`.
        weight_decay: on every parameter; where `optimizer` is a transformation, the one that it holds.
        momentum: as of the knob `momentum`; of a transformation it is not used.
        steps: of the whole training; with `epochs` given, it is not needed.
        augment: whether images were cropped and mirrored at random.
        label_smoothing: share of the target's probability that was spread over all classes.
        opt_state: state of the optimizer at the end of training, as the transformation made it for the parameters; a
            list holds one for each network.

    Raises:
        UserError: a setting of another type or out of range.
    """

    batch_size: int | None = None
    learning_rate: float | None = None
    epochs: float | None = None
    optimizer: Any = None
    schedule: str | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    steps: int | None = None
    augment: bool | None = None
    label_smoothing: float | None = None
    opt_state: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        for name in ("batch_size", "learning_rate", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None:
                _check_number(name, value, "above 0")
                if value <= 0 or not value < math.inf:
                    raise UserError(f"training.{name}={value:g} is out of range; it must be finite and above 0")
                if value >= 2**53:
                    raise UserError(f"training.{name}={value:g} is out of range; it must be below 2^53")
        for name in ("weight_decay", "momentum", "label_smoothing"):
            value = getattr(self, name)
            if value is not None:
                _check_number(name, value, KNOBS[name].wanted)
                KNOBS[name].check(value)
        for name in ("optimizer", "schedule"):
            value = getattr(self, name)
            if isinstance(value, str):
                KNOBS[name].check(value)
            elif value is not None and (name == "schedule" or not _is_transform(value)):
                also = "" if name == "schedule" else ", or an optax gradient transformation"
                listed = ", ".join(KNOBS[name].choices)
                raise UserError(f"training.{name} is a {type(value).__name__}; it must be one of {listed}{also}")
        if not isinstance(self.augment, bool | None):
            raise UserError(f"training.augment={self.augment!r} is out of range; it must be true or false")

    @classmethod
    def of(cls, known: Training | Mapping | None) -> Training:
        """Return the given settings as `Training`; raises `UserError` for an unknown setting."""
        if isinstance(known, Training):
            return known
        if known is not None and not isinstance(known, Mapping):
            raise UserError(f"training={known!r} is not a mapping; give settings by name: {{'batch_size': 64}}")
        known = dict(known or {})
        for name in known:
            check_choice("training setting", name, [field.name for field in fields(cls)])
        return cls(**known)

    @property
    def known(self) -> dict[str, Any]:
        """The settings that are known, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def with_length(self, num_examples: int) -> Training:
        """Return the settings with epochs made from steps, or steps from epochs, of a training set of this size."""
        if self.batch_size is None or (self.epochs is None) == (self.steps is None):
            return self
        per_epoch = max(1, num_examples // round(self.batch_size))
        if self.epochs is None:
            assert self.steps is not None  # one of the two is known
            return replace(self, epochs=self.steps / per_epoch)
        return replace(self, steps=max(1, round(self.epochs * per_epoch)))


def _check_number(name: str, value: Any, wanted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"training.{name}={value!r} is not a number; it must be {wanted}")


def _is_transform(value: Any) -> bool:
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds and floating-point operations; None if unknown.

    Attributes:
        diagnosis_seconds, diagnosis_flops: of measuring and diagnosing, without compilation.
        compile_seconds: of compilation, needed once per architecture if the compilation cache is kept.
        retraining_seconds, retraining_flops: of one training run like the model's, the seconds estimated at the
            throughput of the diagnosis.
        grid_search_trainings, grid_search_seconds, grid_search_flops: of a grid search with that many training runs.
        basis: how the cost was estimated, or why it is unknown, one of `facts.COSTS`; or None.
    """

    diagnosis_seconds: float | None = None
    diagnosis_flops: float | None = None
    compile_seconds: float | None = None
    retraining_seconds: float | None = None
    retraining_flops: float | None = None
    grid_search_trainings: int = GRID_SEARCH_TRAININGS
    grid_search_seconds: float | None = None
    grid_search_flops: float | None = None
    basis: Fact | None = None

    @property
    def note(self) -> str:
        """How the cost was estimated, in words; '' if there is nothing to say."""
        return sentence(self.basis) if self.basis else ""

    def to_dict(self) -> dict:
        """Return the attributes as a dictionary of plain values, and the `note`."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "basis"}
        return data | {"note": self.note, "basis": self.basis and self.basis.to_dict()}


def make_cost(
    seconds: float | None,
    flops: float | None,
    compile_seconds: float | None = None,
    retraining_seconds: float | None = None,
    retraining_flops: float | None = None,
    basis: Fact | None = None,
) -> Cost:
    """Return the cost including that of a grid search, computed from that of one training run."""
    times = GRID_SEARCH_TRAININGS
    return Cost(
        seconds,
        flops,
        compile_seconds,
        retraining_seconds,
        retraining_flops,
        times,
        None if retraining_seconds is None else times * retraining_seconds,
        None if retraining_flops is None else times * retraining_flops,
        basis,
    )


def retraining(
    training: Training, num_samples: int, forward_flops: float, flops_per_second: float
) -> tuple[float | None, float | None, Fact]:
    """Return seconds, operations and the basis of one training: three forward passes of every image in every epoch."""
    if training.epochs is None:
        return None, None, fact("epochs_unknown")
    flops = 3.0 * forward_flops * num_samples * training.epochs
    return flops / flops_per_second, flops, fact("retraining_at_rate", epochs=training.epochs, images=num_samples)
