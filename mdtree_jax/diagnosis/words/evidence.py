"""The evidence in words: the path through a tree, the questions, the metrics and the steps that were compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from mdtree_jax.causes.joint import SHOWN
from mdtree_jax.causes.opposition import opposition
from mdtree_jax.collection.columns import DERIVED, sources
from mdtree_jax.diagnosis.words.actions import gain_text
from mdtree_jax.diagnosis.words.causes import short
from mdtree_jax.diagnosis.words.formats import NOT_KNOWN, capital, number, percent
from mdtree_jax.diagnosis.words.metrics import axis
from mdtree_jax.diagnosis.words.notes import question
from mdtree_jax.registry.causes import NONE
from mdtree_jax.registry.measurement_type import DIRECTIONS, unit_after_number
from mdtree_jax.registry.measurements import MEASUREMENTS, label
from mdtree_jax.registry.questions import QUESTIONS, answer_words
from mdtree_jax.trees.decision_path import EvidenceStep, feature_error

if TYPE_CHECKING:
    from mdtree_jax.diagnosis.result import Diagnosis


class Asked(NamedTuple):
    """A question in words, (answer, probability) of both, and what to do about the likelier one, '' if nothing."""

    question: str
    answers: list[tuple[str, float]]
    action: str


def sentence(step: EvidenceStep) -> str:
    """Return a step of the evidence as a sentence."""
    unit = unit_after_number(step.unit)
    above = step.side == "above"
    side = "above" if above else "at or below"
    low, high = MEASUREMENTS[step.feature].sides if step.feature in MEASUREMENTS else DIRECTIONS[""]
    doubt = " (close to the threshold)" if step.is_close else ""
    shown = f"{label(step.feature)} {number(step.value, step.standard_error)}{unit}"
    return capital(f"{shown} is {side} {number(step.threshold)}{unit}: {high if above else low}{doubt}.")


def threshold_text(step: EvidenceStep) -> str:
    """Return the threshold of a step with its 90 % interval, and how far the value is from it."""
    shown = f"threshold {number(step.threshold)}"
    if step.interval:
        shown += f" (90 % interval {number(step.interval[0])} to {number(step.interval[1])})"
    if step.distance_in_standard_errors is not None:
        away = abs(step.distance_in_standard_errors)
        shown += f", {'more than 10' if away > 10 else f'{away:.2g}'} standard errors away"
    return shown


def question_of(diagnosis: Diagnosis) -> str:
    """Return the question that the evidence answers."""
    return question(diagnosis.evidence[0].question)


def note(diagnosis: Diagnosis) -> str:
    """Return where the path of the evidence leads, and what it does not say."""
    cause = diagnosis.cause if diagnosis.landscape is None else diagnosis.landscape["cause"]
    if cause == NONE:
        return "The tree must choose one of its two answers; this does not mean that either of them matters here."
    end, against = diagnosis.evidence_leads_to, opposition(cause, diagnosis.trees)
    if not end:
        return ""
    asked = diagnosis.evidence[0].question
    said = f"The path below leads to “{answer_words(asked, end)}”"
    chances = diagnosis.trees.get(asked, {})
    if chances and end != max(chances, key=chances.__getitem__):
        said += f"; the average over many such trees gives that answer only {percent(chances[end])}"
    if against is not None and against.probability > 0.5:
        opposite = f"“{answer_words(asked, against.answer)}”, {percent(against.probability)}"
        said += f". The average of the trees speaks against “{short(cause)}”: {opposite}"
    return f"{said}."


def questions(diagnosis: Diagnosis) -> list[Asked]:
    """Return the questions that could be asked, with the probability of each answer."""
    found = []
    for name, chances in diagnosis.questions.items():
        likelier = max(chances, key=chances.__getitem__)
        known = QUESTIONS[name].answers if name in QUESTIONS else ()
        action = next((answer.action for answer in known if answer.name == likelier), "")
        said = [(answer_words(name, answer), chance) for answer, chance in chances.items()]
        found.append(Asked(question(name), said, capital(f"{action}.") if action else ""))
    return found


def range_text(known: Mapping[float, float]) -> str:
    """Return where the reference's models lie, from their quantiles by level; '' without any."""
    if not {0.05, 0.5, 0.95} <= set(known):
        return ""
    low, middle, high = (number(known[level]) for level in (0.05, 0.5, 0.95))
    return f"reference models: median {middle}, 90 % between {low} and {high}"


def metric_rows(diagnosis: Diagnosis, metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Return (name, value with error, share of the reference's models at or below) of each metric.

    Those that the reference does not have, and a diagnosis shows nevertheless, come last.
    """
    rows, errors = [], {name.removesuffix("_se"): value for name, value in metrics.items() if name.endswith("_se")}
    for metric, share in diagnosis.position.items():
        known = sources(metric)
        if not all(name in metrics for name in known):
            value = NOT_KNOWN
        elif metric in DERIVED:
            value = float(DERIVED[metric][1](*(metrics[name] for name in known)))
            value = number(value, feature_error(metric, metrics, errors))
        else:
            value = number(metrics[metric], errors.get(metric))
        rows.append((axis(metric), value, percent(share)))
    others = [name for name in SHOWN if name in metrics and name not in diagnosis.position]
    rows += [(axis(name), number(metrics[name], errors.get(name)), NOT_KNOWN) for name in others]
    return rows


def step_rows(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    """Return (step, gain with interval, models) of all steps against the cause that were compared."""
    names = {step: f"×{step.removeprefix('x')}" for step in diagnosis.gains} | {"one": "to the next value of the grid"}
    return [(names[step], gain_text(gain), str(gain.models)) for step, gain in diagnosis.gains.items()]
