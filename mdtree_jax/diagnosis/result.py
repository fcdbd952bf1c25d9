"""What a diagnosis is: its answer, evidence, action and expected gain, as data."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis import page
from mdtree_jax.diagnosis.cost import Cost
from mdtree_jax.diagnosis.reference import Reference, as_reference
from mdtree_jax.diagnosis.words.answer import answer_text
from mdtree_jax.trees.decision_path import EvidenceStep


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


@dataclass(frozen=True)
class Action:
    """What to change.

    `knob` is an axis of the collection (None: nothing), `direction` `up` or `down`, `how_far` a name of `steps_of` or
    `direction_only` where the collection says nothing about the step or the model's settings are not known, `factor`
    the typical factor of that step.
    `rules` are what is not read off the collection: general experience, to be told as such. `is_tentative` says that
    the diagnosis abstains, and this is what would help if its first guess is right.
    """

    knob: str | None
    direction: str | None
    how_far: str | None
    factor: float | None
    sentence: str
    rules: tuple[str, ...]
    is_tentative: bool


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of one model.

    Attributes, and the keys of `to_dict` (plain JSON values; numbers are floats, absent ones null):

    ===============  ====================================================================================
    answer           str, `cause`, or null where the diagnosis abstains (of `to_dict` only)
    cause            str, the likeliest of those that the reference tells (`registry.causes`)
    sentence         str, the cause in words
    probability      of `cause`, in [0, 1]
    ranking          {cause: probability}, all of them, the likeliest first; they sum to 1
    abstains         bool: "I can't tell"; `cause` is then a first guess only
    reason           str, why it abstains; empty if it does not
    evidence         list of steps of the tree of the question behind the cause: {question, feature, unit,
                     value, standard_error, threshold, interval: [low, high], side: at_most | above,
                     distance_in_standard_errors, is_close, sentence}
    evidence_leads_to  the class of that question at which the path ends; empty without evidence
    action           {knob: one of `knobs` | null, direction: up | down | null,
                     how_far: one | x2 | x4 | … | direction_only | null, factor, sentence,
                     rules: [sentence], is_tentative}; what stands in rules is no evidence of the collection
    expected_gain    {mean, low, high, models, cut} in points of test accuracy, signed, of the action; or null
    gains            {step: {mean, low, high, models, cut}}, of all steps that were compared
    questions        {task: {class: probability}} of the published questions that could be asked: the mean of
                     what the trees and the joint model say
    trees            the same of the trees alone
    position         {metric: share of the reference models at or below the value, in [0, 1]}
    notes            [sentence]: what was missing, and what was done without it
    reference        str, the name of the reference's collection
    accuracy         {test, all, surest_80_percent, calibration_error, models, one_checkpoint, by_cause, gains}: what
                     answers with this reference were worth (`track_record.measured_accuracy`); empty if not measured
    test_error       of the model, percent, if it was given: no part of the answer, but no gain can be larger; or null
    metrics          {metric: value, metric_se: standard error}, what was looked at, in our units
    cost             of the diagnosis, of one retraining and of a grid search: keys as of `cost.Cost`; or null
    knobs            [str], what the reference collection varies, and so what the causes are about
    ===============  ====================================================================================
    """

    cause: str
    sentence: str
    probability: float
    ranking: dict[str, float]
    abstains: bool
    reason: str
    evidence: list[EvidenceStep]
    action: Action
    expected_gain: Gain | None
    evidence_leads_to: str = ""
    gains: dict[str, Gain] = field(default_factory=dict)
    questions: dict[str, dict[str, float]] = field(default_factory=dict)
    trees: dict[str, dict[str, float]] = field(default_factory=dict)
    position: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reference: str = ""
    accuracy: dict[str, Any] = field(default_factory=dict)
    test_error: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    cost: Cost | None = None
    knobs: tuple[str, ...] = ()

    def report(
        self, path: str | os.PathLike, *, name: str = "", reference: Reference | str | os.PathLike | None = None
    ) -> Path:
        """Write the report to one self-contained HTML file and return its path.

        Args:
            path: of the file, overwritten.
            name: of the model, as its heading.
            reference: the one that the diagnosis was made with, as `diagnose_metrics` takes it.

        Raises:
            UserError: the file cannot be written, or the diagnosis was made with another reference.
        """
        reference = as_reference(reference)
        self.check_reference(reference, name)
        options = {"name": name, "metrics": self.metrics, "cost": self.cost and self.cost.to_dict()}
        return page.writer()(path, self, reference, **options)

    def check_reference(self, reference: Reference, name: str = "") -> None:
        """Raise `UserError` unless the diagnosis, of a model of that name, was made with that reference."""
        if reference.name != self.reference:
            whose = f" of '{name}'" if name else ""
            raise UserError(
                f"the diagnosis{whose} was made with reference '{self.reference}', and the report would show "
                f"'{reference.name}': give the same one as reference="
            )

    def __str__(self) -> str:
        """Return the diagnosis in words, as the terminal shows it."""
        return answer_text(self)

    def to_dict(self) -> dict:
        """Return the diagnosis as plain values, keys as in the table of the class."""
        data = {"answer": None if self.abstains else self.cause} | asdict(self)
        data["cost"] = self.cost.to_dict() if self.cost else None
        data["expected_gain"] = self.expected_gain._asdict() if self.expected_gain else None
        data["gains"] = {step: gain._asdict() for step, gain in self.gains.items()}
        data["action"]["rules"], data["knobs"] = list(self.action.rules), list(self.knobs)
        for step in data["evidence"]:
            step["interval"] = None if step["interval"] is None else list(step["interval"])
        return data
