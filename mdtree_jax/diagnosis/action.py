"""What to change, as data; `mdtree_jax.diagnosis.advice` decides it, `words.actions` says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mdtree_jax.diagnosis.words import actions as words


class Gain(NamedTuple):
    """Signed gain in points of test accuracy: mean over `models` reference models, and an interval that is meant to
    hold the gain of nine in ten models like them.

    All three are cut at the model's test error where that is known; `cut` says that the mean was.
    """

    mean: float
    low: float
    high: float
    models: int
    cut: bool = False


class Step(NamedTuple):
    """A step of a knob that models of the reference made.

    `name` is one of `gains.steps_of`, `factor` the typical factor of the knob's value, at least 1 (None where a factor
    means nothing: from off to on), `gain` what models like this one gained by it, `pays` whether that was at least the
    least gain worth naming.
    """

    name: str
    factor: float | None
    gain: Gain
    pays: bool


class Setting(NamedTuple):
    """A setting of the model's own training before and after.

    `limit` says what kept `after` from going further: `training_set` (a batch cannot be larger), `range` (the knob's
    own), or empty.
    """

    knob: str
    before: float
    after: float
    limit: str = ""


class Edge(NamedTuple):
    """How many of the `models` like this one have the reference's largest value of a knob, by knob; 0 left out."""

    models: int
    largest: Mapping[str, int]


@dataclass(frozen=True)
class Action:
    """What to change.

    Attributes:
        kind: `step` (turn a knob by a step), `direction` (turn it, how far is not known), `leave` (nothing helps),
            `measure` (nothing is known yet), `stabilize` (every network diverged).
        knob: of `mdtree_jax.registry.knobs`; None where no knob is to be turned.
        direction: `up` or `down`; None as the knob.
        best: the step that gained models like this one most; None where the reference has none.
        grounds: of a `direction`, why there is no step: `unlike_any` (no model of the reference is like this one),
            `no_step` (those that are cannot make one), `settings_unknown`, `withheld` (the measurements are in doubt).
        reference: name of the collection that was compared with.
        knobs: those that were compared, for `leave`.
        edge: of `leave`, how many models like this one have the largest values that the reference knows; or None.
        setting: new value of the knob, where the model's own is known; or None.
        kept: settings that stay as they are, by knob.
        alternative: another knob that could be turned instead; or None.
        is_tentative: the diagnosis abstains, and this is what would help if its first guess is right.
    """

    kind: str
    knob: str | None = None
    direction: str | None = None
    best: Step | None = None
    grounds: str = ""
    reference: str = ""
    knobs: tuple[str, ...] = ()
    edge: Edge | None = None
    setting: Setting | None = None
    kept: Mapping[str, float] = field(default_factory=dict)
    alternative: Setting | None = None
    is_tentative: bool = False

    @property
    def how_far(self) -> str | None:
        """The name of the step, `direction_only`, or None where no knob is to be turned."""
        if self.kind == "direction":
            return "direction_only"
        return self.best.name if self.kind == "step" and self.best else None

    @property
    def factor(self) -> float | None:
        """The factor of the step, at least 1; None where the action is no step, or the step has no factor."""
        return self.best.factor if self.kind == "step" and self.best else None

    @property
    def sentence(self) -> str:
        """The action in words."""
        return words.sentence(self)

    @property
    def rules(self) -> tuple[str, ...]:
        """General experience beside the action: no evidence of the reference."""
        return words.rules(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the action as plain values, words included."""
        best = self.best and self.best._asdict() | {"gain": self.best.gain._asdict()}
        return {
            "kind": self.kind,
            "knob": self.knob,
            "direction": self.direction,
            "how_far": self.how_far,
            "factor": self.factor,
            "sentence": self.sentence,
            "rules": list(self.rules),
            "is_tentative": self.is_tentative,
            "grounds": self.grounds,
            "best": best,
            "setting": self.setting and self.setting._asdict(),
            "kept": dict(self.kept),
            "alternative": self.alternative and self.alternative._asdict(),
            "knobs": list(self.knobs),
            "edge": self.edge and {"models": self.edge.models, "largest": dict(self.edge.largest)},
        }
