"""The advised change, as data; `mdtree_jax.diagnosis.advice` decides it, `words.actions` puts it in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mdtree_jax.diagnosis.findings import Finding
from mdtree_jax.diagnosis.words import actions as words
from mdtree_jax.registry.remedies import REMEDIES


class Gain(NamedTuple):
    """Signed gain in points of test accuracy: mean over `models` reference models, and an interval that is intended to
    contain the gain of nine in ten similar models.

    All three are capped at the model's test error if it is known; `cut` says whether the mean was. The gain of a remedy
    is an expectation fitted on `models` networks of many families, and its interval holds the gain of 80 % of the
    networks of families that are not among them.
    """

    mean: float
    low: float
    high: float
    models: int
    cut: bool = False


class Step(NamedTuple):
    """A step of a knob, as made between models of the reference.

    `name` is one of `gains.steps_of`; `factor` is the typical factor of the knob's value, at least 1 (None for a switch
    from off to on); `gain` is the gain of similar models; `pays` says whether it reaches the smallest gain worth
    reporting.
    """

    name: str
    factor: float | None
    gain: Gain
    pays: bool


class Setting(NamedTuple):
    """A setting of the model's own training before and after.

    `limit` says what limited `after`: `training_set` (a batch cannot be larger), `range` (that of the knob), or empty.
    """

    knob: str
    before: float
    after: float
    limit: str = ""


class Edge(NamedTuple):
    """How many of the `models` most similar models have the reference's largest value of a knob, by knob; 0 omitted."""

    models: int
    largest: Mapping[str, int]


@dataclass(frozen=True)
class Action:
    """What to change.

    Attributes:
        kind: `step` (change a knob by a step), `direction` (change it by an unknown amount), `leave` (nothing helps),
            `measure` (nothing is known yet), `stabilize` (every network diverged), `remedy` (a move of the outlook),
            `repair` (what a finding says).
        knob: a name of `mdtree_jax.registry.knobs`; None if no knob is to be changed.
        direction: `up` or `down`; None if `knob` is None.
        best: the step with the largest gain for similar models; None if the reference has none.
        grounds: for `direction`, why there is no step: `unlike_any` (no reference model is similar), `no_step` (the
            similar models cannot make one), `settings_unknown`, `withheld` (the measurements are in doubt); for
            `leave`, `outlook` where expected gains say so, '' where the reference collection does.
        reference: name of the reference collection.
        knobs: the knobs that were compared, for `leave`.
        edge: for `leave`, how many similar models have the largest values of the reference; or None.
        setting: new value of the knob, if the model's own value is known; or None.
        kept: settings that stay unchanged, by knob.
        alternative: another knob that could be changed instead; or None.
        is_tentative: the diagnosis abstains, and this would help if its first guess is right.
        remedy: for `remedy`, a name of `mdtree_jax.registry.remedies`.
        finding: for `repair`, the finding whose cause is to be mended.
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
    remedy: str = ""
    finding: Finding | None = None

    @property
    def how_far(self) -> str | None:
        """The name of the step or of the remedy, `direction_only`, or None if no knob is to be changed."""
        if self.kind == "direction":
            return "direction_only"
        if self.kind == "remedy":
            return self.remedy
        return self.best.name if self.kind == "step" and self.best else None

    @property
    def factor(self) -> float | None:
        """The factor of the step or remedy, at least 1; None if there is no step, or the step has no factor."""
        if self.kind == "remedy":
            factor = REMEDIES[self.remedy].factor
            return max(factor, 1 / factor) if factor else None
        return self.best.factor if self.kind == "step" and self.best else None

    @property
    def sentence(self) -> str:
        """The action in words."""
        return words.sentence(self)

    @property
    def rules(self) -> tuple[str, ...]:
        """General experience related to the action, not evidence from the reference."""
        return words.rules(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the action as plain values, including its sentences."""
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
            "remedy": self.remedy or None,
            "finding": self.finding and self.finding.to_dict(),
            "edge": self.edge and {"models": self.edge.models, "largest": dict(self.edge.largest)},
        }
