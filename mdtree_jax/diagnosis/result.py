"""The result of a diagnosis, as data: its answer, evidence, action and expected gain."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis import page
from mdtree_jax.diagnosis.action import Action, Gain
from mdtree_jax.diagnosis.by_class import ClassError
from mdtree_jax.diagnosis.cost import Cost
from mdtree_jax.diagnosis.facts import Fact
from mdtree_jax.diagnosis.failing import failures
from mdtree_jax.diagnosis.findings import Finding
from mdtree_jax.diagnosis.improved import Improved
from mdtree_jax.diagnosis.outlook import Outlook
from mdtree_jax.diagnosis.reference import Reference, as_reference
from mdtree_jax.diagnosis.words import actions, evidence, notes
from mdtree_jax.diagnosis.words import causes as words_of_causes
from mdtree_jax.diagnosis.words.answer import answer_text
from mdtree_jax.diagnosis.words.card import html_card
from mdtree_jax.trees.decision_path import EvidenceStep


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of one model.

    With an `outlook`, or a fault that a finding tells, `cause`, `probability`, `ranking`, `abstention`, `action` and
    `expected_gain` come from them (`combine.with_outlook`), else from the loss landscape. `evidence`, `questions`,
    `trees`, `position`, `gains` and `accuracy` are always those of the landscape.

    Attributes, and the keys of `to_dict` (plain JSON values; numbers are floats, missing ones null):

    ===============  ====================================================================================
    answer           str, `cause`, or null if the diagnosis abstains (`to_dict` only)
    cause            str, the most likely of the causes that the reference can identify (`registry.causes`)
    sentence         str, the cause in words (a property)
    probability      of `cause`, in [0, 1]
    ranking          {cause: probability} of all causes, the most likely first; they sum to 1
    abstains         bool: "I can't tell"; `cause` is then only a first guess (a property)
    reason           str, why it abstains, in words; empty if it does not (a property)
    abstention       the same as data: {kind, ...}, a kind of `facts.REASONS` and its values; or null
    evidence         list of steps of the tree of the question behind the cause: {question, feature, unit,
                     value, standard_error, threshold, interval: [low, high], side: at_most | above,
                     distance_in_standard_errors, is_close, sentence}
    evidence_leads_to  the class of that question at which the path ends; empty without evidence
    action           {kind, knob: one of `knobs` | null, direction: up | down | null, how_far: one | x2 | x4 | … |
                     direction_only | null, factor, sentence, rules: [sentence], is_tentative, grounds, best,
                     setting, kept, alternative, knobs, edge}, see `action.Action`; `rules` are not evidence from the
                     collection
    expected_gain    {mean, low, high, models, cut} in points of test accuracy, signed, of the action; or null
    gains            {step: {mean, low, high, models, cut}} of all steps that were compared
    questions        {task: {class: probability}} of the questions that could be answered: the mean of the
                     trees and the joint model
    trees            the same, from the trees alone
    position         {metric: share of the reference models at or below the value, in [0, 1]}
    notes            [sentence]: what was missing, and how that was handled (a property)
    remarks          the same as data: [{kind, ...}], kinds of `facts.NOTES` and their values
    reference        str, the name of the reference's collection
    accuracy         {test, all, surest_80_percent, calibration_error, models, one_checkpoint, by_cause, gains}: the
                     accuracy of this reference (`reference_fit.measured_accuracy`); empty if not measured
    test_error       of the model, percent, or null; it does not affect the answer, but limits the gain
    knobs            [knob], the knobs that the reference collection varies, which determine the causes
    metrics          {metric: value, metric_se: standard error}, the metrics used, in our units
    cost             of the diagnosis, of one retraining and of a grid search, keys as in `cost.Cost`; or null
    budget           [{name, points, standard_error, interval: [low, high] | null, joined: [name]}], the error budget:
                     terms that add up to the held-out error, in points (`outlook.TERMS`); empty without an outlook
    moves            [{remedy, gain, low, high, chance, score, raced, cause}], what can be changed, the best first
                     (`outlook.Move`)
    answers          {question: {question, answer, probability, abstains}}, one per question, each with its own
                     abstention (`outlook.Answered`)
    findings         [{kind, strength, cause, ...}], what the preflight saw (`findings.Finding`), told or not
    causes           [[cause, probability]], the causes that hold at once, the one to mend first at the front; the
                     `cause` is the first of them. Empty if only the landscape answers
    landscape        {cause, probability, ranking, abstains, abstention, is_known}: what the landscape alone says,
                     where findings or expected gains decide; else null
    improved         {by, network, validation_error: [before, after], test_error, change, standard_error} of the better
                     network that a probe found, see `improved.Improved`; or null
    by_class         [{label, examples, error, standard_error}], the held-out error of every class of a classifier, in
                     percent (`by_class.ClassError`); empty where it was not measured
    spent            steps that probes and racers trained, in units of one training
    probes           [probe], those that were run
    ===============  ====================================================================================
    """

    cause: str
    probability: float
    ranking: dict[str, float]
    abstention: Fact | None
    evidence: list[EvidenceStep]
    action: Action
    expected_gain: Gain | None
    evidence_leads_to: str = ""
    gains: dict[str, Gain] = field(default_factory=dict)
    questions: dict[str, dict[str, float]] = field(default_factory=dict)
    trees: dict[str, dict[str, float]] = field(default_factory=dict)
    position: dict[str, float] = field(default_factory=dict)
    remarks: tuple[Fact, ...] = ()
    reference: str = ""
    accuracy: dict[str, Any] = field(default_factory=dict)
    knobs: tuple[str, ...] = ()
    test_error: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    cost: Cost | None = None
    outlook: Outlook | None = None
    findings: tuple[Finding, ...] = ()
    improved: Improved | None = None
    landscape: dict[str, Any] | None = None
    causes: tuple[tuple[str, float], ...] = ()
    by_class: tuple[ClassError, ...] = ()

    @property
    def sentence(self) -> str:
        """The cause in words."""
        return words_of_causes.cause_sentence(self.cause, self.knobs)

    @property
    def abstains(self) -> bool:
        """Whether the diagnosis can't tell."""
        return self.abstention is not None

    @property
    def reason(self) -> str:
        """Why it abstains, in words; empty if it does not."""
        return notes.sentence(self.abstention) if self.abstention else ""

    @property
    def notes(self) -> list[str]:
        """What was missing, and how that was handled, in words."""
        return [notes.sentence(remark) for remark in self.remarks]

    def failures(self, fail_on: Any) -> dict[str, float]:
        """Return the causes on which a check fails, with their probabilities; empty if it passes.

            assert not diagnosis.failures({"temperature_too_high": 0.6, "any": 0.9})

        Args:
            fail_on: causes, as for `fail_on=` of the command line (`failing.parse_fail_on`).

        Raises:
            UserError: an unknown cause, a probability outside [0, 1].
        """
        return failures(self, fail_on)

    def report(
        self, path: str | os.PathLike, *, name: str = "", reference: Reference | str | os.PathLike | None = None
    ) -> Path:
        """Write the report to one self-contained HTML file and return its path.

        Args:
            path: of the file, which is overwritten.
            name: of the model, used as the heading.
            reference: the reference of the diagnosis, as for `diagnose_metrics`.

        Raises:
            UserError: the file cannot be written, or the diagnosis was made with another reference.
        """
        reference = as_reference(reference)
        self.check_reference(reference, name)
        options = {"name": name, "metrics": self.metrics, "cost": self.cost and self.cost.to_dict()}
        return page.writer()(path, self, reference, **options)

    def check_reference(self, reference: Reference, name: str = "") -> None:
        """Raise `UserError` unless the diagnosis of the named model was made with that reference."""
        if reference.name != self.reference:
            whose = f" of '{name}'" if name else ""
            raise UserError(
                f"the diagnosis{whose} was made with reference '{self.reference}', but the report would show "
                f"'{reference.name}'; pass the same one as reference="
            )

    def __str__(self) -> str:
        """Return the diagnosis in words, as the terminal shows it."""
        return answer_text(self)

    def _repr_html_(self) -> str:
        """Return the diagnosis as a card of a few lines, for notebooks."""
        lines = [("", words_of_causes.sureness(self)), ("advice", actions.headline(self.action))]
        if self.expected_gain:
            lines.append(("expected gain", f"{actions.gain_text(self.expected_gain)} points of test error"))
        lines.append(("reference", self.reference))
        return html_card(words_of_causes.answer(self), lines)

    def to_dict(self) -> dict:
        """Return the diagnosis as plain values, with the keys in the table of the class."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "outlook"}
        said = {name: getattr(self, name) for name in ("sentence", "abstains", "reason", "notes")}
        data = {"answer": None if self.abstains else self.cause} | own | said
        data["abstention"] = self.abstention and self.abstention.to_dict()
        data["evidence"] = [_step_dict(step) for step in self.evidence]
        data["action"] = self.action.to_dict()
        data["expected_gain"] = self.expected_gain and self.expected_gain._asdict()
        data["gains"] = {step: gain._asdict() for step, gain in self.gains.items()}
        data["remarks"] = [remark.to_dict() for remark in self.remarks]
        data["knobs"] = list(self.knobs)
        data["cost"] = self.cost.to_dict() if self.cost else None
        data["findings"] = [finding.to_dict() for finding in self.findings]
        data["by_class"] = [one._asdict() for one in self.by_class]
        data["causes"] = [list(pair) for pair in self.causes]
        data["improved"] = self.improved.to_dict() if self.improved is not None and self.improved.is_better else None
        return data | _outlook_dict(self.outlook)


def _step_dict(step: EvidenceStep) -> dict:
    interval = None if step.interval is None else list(step.interval)
    return asdict(step) | {"interval": interval, "sentence": evidence.sentence(step)}


def _outlook_dict(outlook: Outlook | None) -> dict[str, Any]:
    if outlook is None:
        return {"budget": [], "moves": [], "answers": {}, "spent": 0.0, "probes": []}
    known = outlook.to_dict()
    return {name: known[name] for name in ("budget", "moves", "answers", "spent", "probes")}
