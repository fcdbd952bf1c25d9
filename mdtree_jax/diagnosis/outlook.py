"""What can be gained: the error budget, the moves in order of their gain, one answer per question. No JAX.

An outlook is made from what is known of one network, a row of columns as a sweep records them (`causes.evidence` names
those that count). The expected gains come from `causes.gain_model`, fitted on the networks of many families
(`diagnosis.gain_reference`), so that none of it compares the network with a family that it does not belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.causes.gain_answers import best_remedy, cause_chances, lead, weighed
from mdtree_jax.causes.gain_model import INTERVAL
from mdtree_jax.diagnosis.gain_reference import GainReference, gain_reference
from mdtree_jax.registry.causes import NONE
from mdtree_jax.registry.remedies import COMPARISONS, REMEDIES

#: Draws from which probabilities are counted.
_DRAWS = 1000


class Term(NamedTuple):
    """One term of the error budget, in points of error.

    Attributes:
        name: one of `TERMS`.
        points: signed.
        standard_error: over the examples; None where it is not known.
        joined: terms before it whose experiment was not run and that are part of this one.
    """

    name: str
    points: float
    standard_error: float | None
    joined: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None where the standard error is not known."""
        if self.standard_error is None:
            return None
        return self.points - 1.96 * self.standard_error, self.points + 1.96 * self.standard_error


#: Term of the error budget -> its meaning, and the network at whose error it ends, in order.
TERMS: Mapping[str, tuple[str, str]] = {
    "stale_statistics": ("BatchNorm statistics that do not belong to the weights", "refreshed"),
    "unfinished": ("training that was not finished", "same"),
    "optimizer_noise": ("noise of the optimizer", "cool"),
    "not_fitted": ("training examples that are not fitted", ""),
    "gap": ("gap between training and held-out examples", ""),
}


class Move(NamedTuple):
    """One move and what it is expected to gain.

    Attributes:
        remedy: a name of `registry.remedies`.
        gain: expected, points of test error; a race has no part in it.
        low, high: interval that holds 80 % of the gains of networks of unseen families.
        chance: probability that it gains a point or more.
        score: by which the moves are ordered: the gain, and the outcome of the race where it took part.
        raced: validation error (%) of its racer; None where it did not race.
    """

    remedy: str
    gain: float
    low: float
    high: float
    chance: float
    score: float
    raced: float | None = None

    @property
    def cause(self) -> str:
        """The cause that it addresses."""
        return REMEDIES[self.remedy].cause


class Answered(NamedTuple):
    """The answer to one question.

    Attributes:
        question: a name of `registry.remedies.COMPARISONS`.
        answer: the likelier of its answers.
        probability: of it.
        abstains: whether it is not sure enough, or neither gains anything.
    """

    question: str
    answer: str
    probability: float
    abstains: bool


@dataclass(frozen=True)
class Outlook:
    """What can be gained.

    Attributes:
        budget: terms that add up to the held-out error, in the order of `TERMS`.
        moves: in the order of their scores, the best first.
        answers: one per question.
        ranking: cause -> probability, the likeliest first; `none` among them.
        cause: that of the move to make, or `none`.
        spent: steps trained, in units of one training.
        probes: that were run.
        evidence: names of the features that were known.
    """

    budget: tuple[Term, ...]
    moves: tuple[Move, ...]
    answers: tuple[Answered, ...]
    ranking: Mapping[str, float]
    cause: str
    spent: float = 0.0
    probes: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    error: float = field(default=float("nan"))

    @property
    def move(self) -> Move | None:
        """The move to make; None if none is expected to gain a point."""
        return next((move for move in self.moves if move.cause == self.cause), None) if self.cause != NONE else None

    @property
    def probability(self) -> float:
        """Of the cause."""
        return float(self.ranking.get(self.cause, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON holds them."""
        return {
            "budget": [
                term._asdict() | {"joined": list(term.joined), "interval": term.interval} for term in self.budget
            ],
            "moves": [move._asdict() | {"cause": move.cause} for move in self.moves],
            "answers": {one.question: one._asdict() for one in self.answers},
            "ranking": dict(self.ranking),
            "cause": self.cause,
            "spent": self.spent,
            "probes": list(self.probes),
            "evidence": list(self.evidence),
        }


def error_budget(row: Mapping[str, float]) -> tuple[Term, ...]:
    """Return the error budget of a network from its columns.

    Args:
        row: `validation_error`, `train_error` (percent), and of the probes that were run `<probe>_validation_error`,
            `<probe>_train_error`, `<probe>_validation_error_change_se`.

    The terms add up to the error of the network. A term whose probe was not run is part of the next one.
    """
    terms, joined = [], []
    error, at = _value(row, "validation_error"), ""
    if error is None:
        return ()
    for name, (_, probe) in TERMS.items():
        if not probe:
            continue
        after = _value(row, f"{probe}_validation_error")
        if after is None:
            joined.append(name)
            continue
        spread = _value(row, f"{probe}_validation_error_change_se")
        terms.append(Term(name, error - after, spread, tuple(joined)))
        joined, error, at = [], after, f"{probe}_"
    fitted = _value(row, f"{at}train_error")
    if fitted is None:
        return (*terms, Term("gap", error, None, (*joined, "not_fitted")))
    return (*terms, Term("not_fitted", fitted, None, tuple(joined)), Term("gap", error - fitted, None))


def _value(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return None if value is None or not np.isfinite(value) else float(value)


def outlook_of(
    row: Mapping[str, Any],
    *,
    possible: Sequence[str] | None = None,
    raced: Mapping[str, float] | None = None,
    cost: float = 0.0,
    spent: float = 0.0,
    reference: GainReference | None = None,
) -> Outlook | None:
    """Return the outlook of one network, or of several of one configuration that a row describes together.

    Args:
        row: what is known, columns as in the table of networks of a sweep; `validation_error` (%) is needed.
        possible: remedies that can be made; None for all that the reference knows.
        raced: validation error (%) of the racer of each remedy that took part in a race.
        cost: what was allowed, in units of one training: it says how much a race counts.
        spent: steps trained, in units of one training.
        reference: the networks on which gains are fitted; None for the packaged ones.

    Returns:
        None where the held-out error is not known.
    """
    if _value(row, "validation_error") is None:
        return None
    reference = reference or gain_reference()
    model, policy = reference.model, reference.policy(cost)
    frame = pd.DataFrame([dict(row)])
    found, raced = model.predict(frame), dict(raced or {})
    draws = model.draw(frame, number=_DRAWS)
    may = np.array([name in raced or possible is None or name in possible for name in model.remedies])
    gain, low, high, chance = (np.where(may, array[0], np.nan) for array in found[1:])
    scores, draws = gain.copy(), np.where(may, draws, np.nan)
    if raced:
        shift = policy.weight * _leads(raced, model.remedies)
        is_raced = np.isfinite(shift)
        narrowed = gain + policy.narrowing * (draws - gain)
        draws = np.where(is_raced, narrowed + np.where(is_raced, shift, 0), draws)
        scores = scores + np.where(is_raced, shift, 0)
    shares = cause_chances(draws, model.remedies)
    ranking = dict(sorted(((cause, float(share[0])) for cause, share in shares.items()), key=lambda one: -one[1]))
    order = [place for place in np.argsort(-weighed(scores, model.remedies), kind="stable") if may[place]]
    best = int(best_remedy(scores, model.remedies))
    moves = tuple(
        Move(
            model.remedies[place],
            *(float(array[place]) for array in (gain, low, high, chance, scores)),
            raced=raced.get(model.remedies[place]),
        )
        for place in order
    )
    return Outlook(
        budget=error_budget(row),
        moves=moves,
        answers=tuple(_answers(scores, draws[0], reference)),
        ranking=ranking,
        cause=NONE if best < 0 else REMEDIES[model.remedies[best]].cause,
        spent=spent,
        evidence=reference.known(frame),
        error=float(row["validation_error"]),
    )


def _leads(raced: Mapping[str, float], remedies: Sequence[str]) -> np.ndarray:
    """Return by how many points each racer is better than their mean, (remedies,), NaN for those that are none."""
    errors = np.array([raced.get(name, np.nan) for name in remedies], float)
    return np.nanmean(errors) - errors


def _answers(scores: np.ndarray, draws: np.ndarray, reference: GainReference) -> list[Answered]:
    found = []
    for name, comparison in COMPARISONS.items():
        names = tuple(comparison.answers)
        leads = lead(draws, reference.model.remedies, comparison)
        leads = leads[np.isfinite(leads)]
        if not len(leads):
            continue
        second = float((leads > 0).mean())
        probability = max(second, 1 - second)
        found.append(Answered(name, names[int(second > 0.5)], probability, probability < reference.sure(name)))
    return found


def with_experiments(outlook: Outlook, probes: Sequence[str]) -> Outlook:
    """Return an outlook with the names of the probes that were run."""
    return replace(outlook, probes=tuple(probes))


#: Share of networks of unseen families whose gain an interval holds.
HELD = INTERVAL
