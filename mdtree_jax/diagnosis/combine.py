"""One diagnosis from all that is known: faults of the network, expected gains, the landscape as a witness. No JAX.

Faults that findings tell come first, the surest first, and several can hold at once. Then comes the cause of the
outlook. What the trees of the landscape say is kept beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mdtree_jax.causes.evidence import EVIDENCE
from mdtree_jax.diagnosis.action import Action, Gain
from mdtree_jax.diagnosis.advice import remedy_action
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.findings import Finding
from mdtree_jax.diagnosis.outlook import Answered, Move, Outlook
from mdtree_jax.diagnosis.result import Diagnosis
from mdtree_jax.registry.causes import CAUSES, NONE
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.questions import QUESTIONS
from mdtree_jax.registry.remedies import COMPARISONS, REMEDIES

#: Probability below which the outlook's cause is a first guess. On families that were left out of the reference, causes
#: above it were right for some 60 %, those below for 40 %.
SURE_CAUSE = 1 / 3
#: Probability above which a finding that gains weigh better decides where they say nothing.
LIKELY = 0.5
#: Reasons to abstain that are about the measurements, not about the landscape: no expected gain removes them.
IN_DOUBT = ("diverged", "guessing")
#: Notes on how the landscape's model answers, which is of no account where it does not answer.
OF_LANDSCAPE = ("metrics_missing", "question_not_asked", "question_asked_of", "shares_of_reference")


def with_outlook(
    diagnosis: Diagnosis,
    outlook: Outlook | None,
    findings: Sequence[Finding] = (),
    improved: Any = None,
    *,
    training: Training | None = None,
    num_images: float | None = None,
    is_confirmed: bool = False,
) -> Diagnosis:
    """Return a diagnosis of the landscape combined with what findings and expected gains say.

    Args:
        diagnosis: what the landscape says; it becomes `landscape`, its evidence stays.
        outlook: error budget and moves; None where the held-out error is not known.
        findings: of the preflight, told or not.
        improved: the best network that an experiment found; None where none was run.
        training: known settings, for the new ones.
        num_images: size of the training set, if it is known; no batch is larger.
        is_confirmed: whether a history shows that networks and data belong together, so that a training error like that
            of guessing is the training's own.
    """
    findings = tuple(findings)
    outlook = outlook and _with_witness(outlook, diagnosis.trees)
    faults = _faults(findings, outlook)
    if not faults and _unsure(outlook):
        faults = _faults(findings, None)
    left = 1 - _of_the_model(faults)
    if outlook is not None and left < 1:
        outlook = replace(outlook, answers=())
    diagnosis = replace(diagnosis, outlook=outlook, findings=findings, improved=improved)
    if outlook is None and not faults:
        return diagnosis
    own, first = (diagnosis.ranking, diagnosis.cause) if outlook is None else (outlook.ranking, outlook.cause)
    ranking = _ranking(faults, own)
    cause = next(iter(faults), first)
    doubts = IN_DOUBT[:1] if is_confirmed else IN_DOUBT
    in_doubt = diagnosis.abstention if diagnosis.abstention and diagnosis.abstention.kind in doubts else None
    abstention = None if faults else in_doubt or _unsure(outlook)
    move = None if faults or outlook is None else outlook.move
    if faults:
        action = _repair(cause, findings, diagnosis.reference)
    else:
        action = _advised(outlook, move, abstention is not None, training, num_images)
    return replace(
        diagnosis,
        cause=cause,
        probability=ranking[cause],
        ranking=ranking,
        abstention=abstention,
        action=action,
        expected_gain=_gain(outlook, move),
        causes=_causes(faults, outlook, abstention, left),
        knobs=diagnosis.knobs if outlook is None else _knobs(outlook),
        landscape=_witness(diagnosis),
        remarks=tuple(remark for remark in diagnosis.remarks if remark.kind not in OF_LANDSCAPE),
    )


def _faults(findings: Sequence[Finding], outlook: Outlook | None) -> dict[str, float]:
    """Return cause -> probability by the findings that come first, their strength, the strongest first.

    Without an outlook nothing weighs better what a finding says of the errors, so that it decides if it is likely.
    """
    found: dict[str, float] = {}
    for finding in findings:
        probability = min(finding.strength, finding.entry.sure)
        is_first = finding.entry.decides or (outlook is None and probability > LIKELY)
        if finding.cause and finding.is_told and is_first:
            found[finding.cause] = max(probability, found.get(finding.cause, 0.0))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _ranking(faults: Mapping[str, float], rest: Mapping[str, float]) -> dict[str, float]:
    """Return cause -> probability that it is the first to be mended, the likeliest first; the sum is 1.

    Faults are independent of each other, and each comes before weaker ones and before every cause of the outlook.
    """
    left, ranking = 1.0, {}
    for cause, strength in faults.items():
        ranking[cause] = left * strength
        left *= 1 - strength
    for cause, probability in rest.items():
        ranking[cause] = ranking.get(cause, 0.0) + left * probability
    return dict(sorted(ranking.items(), key=lambda item: -item[1]))


def _unsure(outlook: Outlook | None) -> Fact | None:
    """Return why the outlook's cause is only a guess, None if it is not."""
    if outlook is None or outlook.probability >= SURE_CAUSE:
        return None
    return fact("no_clear_gain", cause=outlook.cause, probability=outlook.probability, least=SURE_CAUSE)


def _of_the_model(faults: Mapping[str, float]) -> float:
    """Return the probability of the surest fault of the model, its data or its loss, 0 for none.

    The networks on which gains are fitted had none, so that nothing is said of one that has.
    """
    return max((probability for cause, probability in faults.items() if CAUSES[cause].is_fault), default=0.0)


def _causes(
    faults: Mapping[str, float], outlook: Outlook | None, abstention: Fact | None, left: float
) -> tuple[tuple[str, float], ...]:
    """Return (cause, probability) of the causes that hold at once, the one to mend first at the front.

    `left` is the probability that expected gains say something of the network.
    """
    held = dict(faults)
    is_sure = outlook is not None and abstention is None and left * outlook.probability >= SURE_CAUSE
    if outlook is not None and is_sure and (outlook.cause != NONE or not faults):
        held.setdefault(outlook.cause, left * outlook.probability)
    return tuple(held.items())


def _repair(cause: str, findings: Sequence[Finding], reference: str) -> Action:
    """Return what the surest finding of a cause says to change."""
    told = [finding for finding in findings if finding.cause == cause and finding.is_told]
    return Action("repair", finding=max(told, key=lambda finding: finding.strength), reference=reference)


def _advised(
    outlook: Outlook | None,
    move: Move | None,
    is_tentative: bool,
    training: Training | None,
    num_images: float | None,
) -> Action:
    if move is None:
        knobs = () if outlook is None else _knobs(outlook)
        return Action("leave", grounds="outlook", knobs=knobs, is_tentative=is_tentative)
    return remedy_action(move.remedy, is_tentative=is_tentative, training=training, num_images=num_images)


def _knobs(outlook: Outlook) -> tuple[str, ...]:
    """Return the knobs of the moves that were compared, in the order of the moves."""
    names = dict.fromkeys(REMEDIES[move.remedy].knob for move in outlook.moves)
    return tuple(name for name in names if name in KNOBS)


def _gain(outlook: Outlook | None, move: Move | None) -> Gain | None:
    return None if outlook is None or move is None else Gain(move.gain, move.low, move.high, outlook.networks)


def _witness(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return what the landscape alone says, as plain values."""
    return {
        "cause": diagnosis.cause,
        "probability": diagnosis.probability,
        "ranking": dict(diagnosis.ranking),
        "abstains": diagnosis.abstains,
        "abstention": diagnosis.abstention and diagnosis.abstention.to_dict(),
        "is_known": bool(diagnosis.position or diagnosis.evidence) or not diagnosis.abstains,
    }


def _with_witness(outlook: Outlook, trees: Mapping[str, Mapping[str, float]]) -> Outlook:
    """Return an outlook whose answers are withheld where errors and landscape alone say so and the trees contradict.

    Expected gains from errors and landscape alone do not carry to every family, nor do the trees (sweeps/zoos.md,
    sweeps/gains.md): an answer needs both where neither history, norms nor probes are known.
    """
    groups = {EVIDENCE[name].group for name in outlook.evidence}
    if groups & {"history", "norms", "probes"}:
        return outlook
    answers = tuple(
        one._replace(abstains=one.abstains or _contradicts(one, trees.get(one.question, {}))) for one in outlook.answers
    )
    return replace(outlook, answers=answers)


def _contradicts(answered: Answered, chances: Mapping[str, float]) -> bool:
    """Say whether the trees of a question favour another answer than the one with the same causes."""
    if answered.question not in QUESTIONS or not chances:
        return False
    causes = COMPARISONS[answered.question].answers[answered.answer]
    same = [one.name for one in QUESTIONS[answered.question].answers if set(one.causes) == set(causes)]
    return any(chances.get(name, 0.0) < 0.5 for name in same)
