"""What can be gained, in words: the error budget, the moves, one answer per question, findings, the witness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mdtree_jax.causes.evidence import EVIDENCE
from mdtree_jax.diagnosis.facts import Fact
from mdtree_jax.diagnosis.outlook import TERMS, Answered, Move, Outlook, Term
from mdtree_jax.diagnosis.words import notes, references
from mdtree_jax.diagnosis.words.causes import CANNOT_TELL, cause_sentence, certainty, short
from mdtree_jax.diagnosis.words.findings import advice_sentence, finding_sentence
from mdtree_jax.diagnosis.words.formats import NOT_KNOWN, capital, listed, number, percent, points
from mdtree_jax.registry.causes import CAUSES, NONE
from mdtree_jax.registry.probes import PROBES
from mdtree_jax.registry.remedies import COMPARISONS, REMEDIES

if TYPE_CHECKING:
    from mdtree_jax.diagnosis.result import Diagnosis

#: Term of the error budget -> its short name and colour.
_TERMS = {
    "stale_statistics": ("stale BatchNorm statistics", "#8c6bb1"),
    "unfinished": ("unfinished training", "#cc55ee"),
    "optimizer_noise": ("noise of the optimizer", "#d55e00"),
    "not_fitted": ("training examples not fitted", "#009e73"),
    "gap": ("gap between training and held-out examples", "#e69f00"),
}
#: Group of evidence -> in words.
_GROUPS = {
    "errors": "errors and losses",
    "history": "the training history",
    "norms": "norms of weights and gradient",
    "landscape": "the sharpness of the minimum",
    "pair": "a second network",
    "probes": "probes",
}


class TermRow(NamedTuple):
    """A term of the error budget: name, points, 95 % interval, what is joined to it ('' for nothing), colour."""

    name: str
    points: str
    interval: str
    joined: str
    colour: str


class MoveRow(NamedTuple):
    """A move: what is changed, expected gain with its interval, probability of a point or more, whether it is free."""

    name: str
    gain: str
    chance: str
    is_free: bool


class AnswerRow(NamedTuple):
    """A question, its answer in words with the probability, and whether it is none."""

    question: str
    answer: str
    abstains: bool


def has_faults(diagnosis: Diagnosis) -> bool:
    """Return whether the diagnosis answers with what a finding tells."""
    return diagnosis.action.kind == "repair"


def headline(diagnosis: Diagnosis) -> str:
    """Return the first sentence of a report: the faults that were found, or else what the error is made of."""
    if has_faults(diagnosis) or diagnosis.outlook is None:
        told = [cause for cause, _ in diagnosis.causes if _is_told(diagnosis, cause)]
        return capital("; ".join(cause_sentence(cause, diagnosis.knobs) for cause in told or [diagnosis.cause]))
    if diagnosis.outlook.error == 0:
        return "Held-out error 0 %: there is nothing to gain"
    budget = diagnosis.outlook.budget
    largest = max(budget, key=lambda term: term.points)
    part = "mostly" if largest.points >= 0.5 * diagnosis.outlook.error else "the largest part is"
    return f"Held-out error {number(diagnosis.outlook.error)} %: {part} {_TERMS[largest.name][0]}"


def findings(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Return (what was seen, what to change or '') of every finding that is told, the surest first."""
    told = sorted(
        (one for one in diagnosis.findings if one.is_told),
        key=lambda one: (one.cause is None, not one.entry.decides, -one.strength),
    )
    return [(f"{capital(finding_sentence(one))}.", _ended(advice_sentence(one))) for one in told]


def terms(outlook: Outlook) -> list[Term]:
    """Return the terms of the error budget, without one that is exactly nothing: statistics that there are none of."""
    return [term for term in outlook.budget if term.points != 0 or term.standard_error != 0]


def budget_rows(outlook: Outlook) -> list[TermRow]:
    """Return the terms of the error budget in words."""
    return [term_row(term) for term in terms(outlook)]


def term_row(term: Term) -> TermRow:
    """Return a term of an error budget in words."""
    name, colour = _TERMS[term.name]
    interval = NOT_KNOWN if term.interval is None else f"{points(term.interval[0])} to {points(term.interval[1])}"
    joined = f"with {listed([_TERMS[one][0] for one in term.joined])}" if term.joined else ""
    return TermRow(name, points(term.points), interval, joined, colour)


def budget_note(outlook: Outlook) -> str:
    """Return what the terms are, and why some of them are joined or without an interval."""
    said = f"Points of held-out error; the terms add up to {number(outlook.error)} %."
    joined = list(dict.fromkeys(name for term in outlook.budget for name in term.joined))
    if joined:
        apart = listed([_TERMS[name][0] for name in joined])
        probes = [f"‘{TERMS[name][1]}’" for name in joined if TERMS[name][1]]
        said += f" Not told apart: {apart}"
        said += (
            f", because the {'probe' if len(probes) == 1 else 'probes'} {listed(probes)} did not run."
            if probes
            else "."
        )
    if any(term.interval is None for term in outlook.budget):
        said += " Where there is no interval, the standard error of the errors is not known."
    if any(term.points < 0 for term in outlook.budget):
        said += " A negative term is error that the next step adds."
    return said


def move_rows(outlook: Outlook) -> list[MoveRow]:
    """Return the moves, the best first."""
    return [
        MoveRow(
            change(move.remedy),
            f"{points(move.gain)} ({points(move.low)} to {points(move.high)})",
            percent(move.chance),
            REMEDIES[move.remedy].is_free,
        )
        for move in outlook.moves
    ]


def change(remedy: str) -> str:
    """Return what a remedy changes, in a few words.

    >>> change("rate_down"), change("smoothing_on")
    ('learning rate ÷3', 'label smoothing 0.1')
    """
    return REMEDIES[remedy].meaning.replace(" x ", " ×").replace(" / ", " ÷")


def moves_note(diagnosis: Diagnosis, outlook: Outlook) -> str:
    """Return what the gains of the moves are, and on what they rest."""
    groups = [group for group in _GROUPS if any(EVIDENCE[name].group == group for name in outlook.evidence)]
    known = listed([_GROUPS[group] for group in groups])
    said = "Points of test error that training anew with this change is expected to gain"
    said += f", from {known}" if known else ""
    said += (
        f". Fitted on {outlook.networks} networks of {outlook.families} families; the interval is "
        f"{references.gain_note(diagnosis)}. Of changes that gain about as much, one that costs nothing comes first."
    )
    return f"{said} Those networks had no such fault: mend it first." if CAUSES[diagnosis.cause].is_fault else said


def expected(diagnosis: Diagnosis) -> str:
    """Return what the advised change is expected to gain, '' where no gain is known."""
    gain = diagnosis.expected_gain
    if gain is None:
        return ""
    interval = f"80 % interval {points(gain.low)} to {points(gain.high)}"
    return f"Expected gain: {points(gain.mean)} points of test error ({interval})."


def race(outlook: Outlook) -> str:
    """Return the order in which the racers of a race came in, '' if there was none.

    The errors of short runs are not told: they are not gains of a full training.
    """
    racers: list[Move] = [move for move in outlook.moves if move.raced is not None]
    if not racers:
        return ""
    order = sorted(racers, key=lambda move: move.raced if move.raced is not None else 0.0)
    named = listed([change(move.remedy) for move in order])
    return (
        f"In short runs from scratch they came in as: {named}. This order has moved them in the ranking; the gains "
        "above do not rest on it."
    )


def improved(diagnosis: Diagnosis) -> str:
    """Return that an experiment found a better network, '' if none did."""
    found = diagnosis.improved
    if found is None or not found.is_better:
        return ""
    before, after = found.test_error
    return (
        f"A better network is offered as the improved one: {PROBES[found.by].words}. Its error, on data that had no "
        f"part in the choice, is {number(after)} %; that of the given one {number(before)} %."
    )


def cause(diagnosis: Diagnosis) -> str:
    """Return the cause with its probability, or why there is none and the first guess, as sentences."""
    if diagnosis.abstention is not None:
        return f"I {CANNOT_TELL}: {diagnosis.reason}."
    shown = percent(diagnosis.probability)
    if diagnosis.probability >= 0.5:
        return f"{capital(diagnosis.sentence)}. {capital(certainty(diagnosis.probability))}: probability {shown}."
    return f"{capital(diagnosis.sentence)}. The change that comes first is against it; probability {shown}."


def other_causes(diagnosis: Diagnosis) -> str:
    """Return the causes that hold beside the first one, '' if none does."""
    others = [f"{CAUSES[name].short} ({percent(share)})" for name, share in diagnosis.causes[1:] if name != NONE]
    return f"Beside it: {listed(others)}." if others else ""


def answer_rows(outlook: Outlook) -> list[AnswerRow]:
    """Return one line per question."""
    return [AnswerRow(COMPARISONS[one.question].sentence, _answer(one), one.abstains) for one in outlook.answers]


def answered(diagnosis: Diagnosis) -> str:
    """Return the answers of the questions that are answered, in a few words; '' if none is."""
    if diagnosis.outlook is None:
        return ""
    return "; ".join(
        f"{_said(one)}, {percent(one.probability)}" for one in diagnosis.outlook.answers if not one.abstains
    )


def spent(diagnosis: Diagnosis) -> str:
    """Return what probes and racers have trained, '' where nothing is known of them."""
    outlook = diagnosis.outlook
    if outlook is None:
        return ""
    if outlook.spent == 0:
        return "No step was trained for it."
    raced = [move for move in outlook.moves if move.raced is not None]
    what = (
        [f"the {'probe' if len(outlook.probes) == 1 else 'probes'} {_probes(outlook.probes)}"] if outlook.probes else []
    )
    what += [f"a race of {len(raced)} changes"] if raced else []
    return capital(f"{listed(what or ['experiments'])} trained {number(outlook.spent)} of one training.")


def witness(diagnosis: Diagnosis) -> str:
    """Return what the loss landscape alone says, '' if it says the answer or nothing."""
    found = diagnosis.landscape
    if found is None:
        return ""
    guess = f"“{short(found['cause'])}”, probability {percent(found['probability'])}"
    if not found["abstains"]:
        return f"Alone, it says: {guess}. The answer above does not rest on it."
    reason = notes.sentence(_fact(found["abstention"]))
    first = f" First guess: {guess}." if found["is_known"] and found["abstention"]["kind"] != "unlikely" else ""
    return f"Alone, it {CANNOT_TELL}: {reason}.{first}"


def _fact(values: Mapping) -> Fact:
    return Fact(values["kind"], {name: value for name, value in values.items() if name != "kind"})


def _is_told(diagnosis: Diagnosis, cause: str) -> bool:
    return any(one.cause == cause and one.is_told and one.entry.decides for one in diagnosis.findings)


def _answer(one: Answered) -> str:
    said = f"{_said(one)}, {percent(one.probability)}"
    return f"{CANNOT_TELL} (rather: {said})" if one.abstains else said


def _said(one: Answered) -> str:
    return COMPARISONS[one.question].words[one.answer]


def _probes(names: Sequence[str]) -> str:
    return listed([f"‘{name}’" for name in names if name in PROBES])


def _ended(text: str) -> str:
    return f"{capital(text)}." if text else ""
