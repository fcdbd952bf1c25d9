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

from mdtree_jax.causes.evidence import evidence_frame
from mdtree_jax.causes.gain_answers import (
    Assessed,
    Sureness,
    answer_chance,
    assess,
    best_remedy,
    cause_chances,
    remedies_of,
    weighed,
)
from mdtree_jax.causes.gain_model import INTERVAL
from mdtree_jax.diagnosis.gain_reference import GainReference, Policy, gain_reference
from mdtree_jax.registry.causes import NONE
from mdtree_jax.registry.probes import PROBES
from mdtree_jax.registry.remedies import COMPARISONS, REMEDIES

#: Draws from which probabilities are counted, and rows of a table that are drawn at a time.
_DRAWS, _BLOCK = 1000, 256


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
        error: held-out error, percent.
        networks, families: of the reference of gains.
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
    networks: int = 0
    families: int = 0

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
                term._asdict() | {"joined": list(term.joined), "interval": term.interval and list(term.interval)}
                for term in self.budget
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
            `<probe>_train_error`, `<probe>_validation_error_change_se`. Standard errors of the errors themselves,
            `train_error_se` and `validation_error_se` (or with the prefix of a probe or `checkpoint_`), give the last
            two terms an interval.

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
    held_out_spread, fitted_spread = (_spread(row, at, side) for side in ("validation", "train"))
    if fitted is None:
        return (*terms, Term("gap", error, held_out_spread, (*joined, "not_fitted")))
    spread = None
    if held_out_spread is not None and fitted_spread is not None:
        spread = float(np.hypot(held_out_spread, fitted_spread))
    return (*terms, Term("not_fitted", fitted, fitted_spread, tuple(joined)), Term("gap", error - fitted, spread))


def _spread(row: Mapping[str, Any], at: str, side: str) -> float | None:
    """Return the standard error of an error; that of the network as it is where a probe has none of its own."""
    known = (_value(row, f"{prefix}{side}_error_se") for prefix in dict.fromkeys((at, "checkpoint_", "")))
    return next((value for value in known if value is not None), None)


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
    raced, policy, remedies = dict(raced or {}), reference.policy(cost), remedies_of(reference.model)
    frame = pd.DataFrame([dict(row)])
    racers = np.array([[raced.get(name, np.nan) for name in remedies]], float) if raced else None
    may = [None if possible is None else (*possible, *raced)]
    found = _assessed(frame, may, policy, reference, racers)
    (made,) = _outlooks(found, [row], frame, reference, policy, [raced], [spent])
    return made


def outlooks_of(
    table: pd.DataFrame,
    possible: Sequence[Sequence[str] | None] | None = None,
    reference: GainReference | None = None,
) -> list[Outlook | None]:
    """Return the outlook of every row of a table: as `outlook_of` of each without a race, in a fraction of the time.

    Probes count as run where their columns are there.

    Args:
        table: columns as of `outlook_of`.
        possible: remedies that can be made, of every row; None for all.
        reference: as of `outlook_of`.
    """
    reference = reference or gain_reference()
    if "validation_error" not in table:
        return [None] * len(table)
    known = np.flatnonzero(np.isfinite(table["validation_error"].to_numpy(float)))
    out: list[Outlook | None] = [None] * len(table)
    probes = tuple(name for name in PROBES if f"{name}_validation_error" in table)
    policy = reference.policy(0.0)._replace(probes=probes)
    for start in range(0, len(known), _BLOCK):
        rows = known[start : start + _BLOCK]
        part = table.iloc[rows].reset_index(drop=True)
        records = [{str(name): value for name, value in row.items()} for row in part.to_dict("records")]
        may = [None if possible is None else possible[place] for place in rows]
        found = _assessed(part, may, policy, reference)
        ran = [[name for name in probes if _value(row, f"{name}_validation_error") is not None] for row in records]
        spent = [sum(PROBES[name].share for name in names) for names in ran]
        made = _outlooks(found, records, part, reference, policy, [{}] * len(rows), spent)
        for place, one, names in zip(rows, made, ran, strict=True):
            out[place] = with_experiments(one, names)
    return out


def _assessed(
    frame: pd.DataFrame,
    possible: Sequence[Sequence[str] | None],
    policy: Policy,
    reference: GainReference,
    raced: np.ndarray | None = None,
) -> Assessed:
    remedies = remedies_of(reference.model)
    may = np.array([[names is None or name in names for name in remedies] for names in possible])
    features = reference.features(policy)
    weights = {"weight": policy.weight, "narrowing": policy.narrowing}
    model = reference.model_of(policy)
    return assess(model, frame, features=features, possible=may, raced=raced, **weights, number=_DRAWS)


def _outlooks(
    found: Assessed,
    rows: Sequence[Mapping[str, Any]],
    frame: pd.DataFrame,
    reference: GainReference,
    policy: Policy,
    raced: Sequence[Mapping[str, float]],
    spent: Sequence[float],
) -> list[Outlook]:
    """Return the outlooks of networks whose gains are assessed."""
    remedies, model = found.remedies, reference.model
    shares = cause_chances(found.draws, remedies)
    best = best_remedy(found.scores, remedies)
    orders = np.argsort(-weighed(found.scores, remedies), axis=1, kind="stable")
    numbers = np.stack([found.gain, found.low, found.high, found.chance, found.scores], axis=-1)
    features = evidence_frame(frame, reference.features(policy))
    there, names = np.isfinite(features.to_numpy(float)), np.array([str(name) for name in features])
    out = []
    for row, known in enumerate(rows):
        evidence = tuple(names[there[row]].tolist())
        ranking = sorted(((cause, float(share[row])) for cause, share in shares.items()), key=lambda one: -one[1])
        order = [place for place in orders[row] if np.isfinite(found.gain[row, place])]
        out.append(
            Outlook(
                budget=error_budget(known),
                moves=tuple(
                    _move(remedies[place], numbers[row, place].tolist(), raced[row].get(remedies[place]))
                    for place in order
                ),
                answers=tuple(_answers(found.draws[row], remedies, reference.sure(policy, evidence))),
                ranking=dict(ranking),
                cause=NONE if best[row] < 0 else REMEDIES[remedies[best[row]]].cause,
                spent=spent[row],
                evidence=evidence,
                error=float(known["validation_error"]),
                networks=len(model.table),
                families=model.table["family"].nunique(),
            )
        )
    return out


def _move(remedy: str, numbers: Sequence[float], raced: float | None) -> Move:
    gain, low, high, chance, score = numbers
    return Move(remedy, gain, low, high, chance, score, raced)


def _answers(draws: np.ndarray, remedies: Sequence[str], sure: Mapping[str, Sureness]) -> list[Answered]:
    found = []
    for name, comparison in COMPARISONS.items():
        second = float(sure[name].probability(answer_chance(draws[None], remedies, comparison))[0])
        if np.isfinite(second):
            probability, answer = max(second, 1 - second), tuple(comparison.answers)[int(second > 0.5)]
            found.append(Answered(name, answer, probability, probability < sure[name].level))
    return found


def with_experiments(outlook: Outlook, probes: Sequence[str]) -> Outlook:
    """Return an outlook with the names of the probes that were run."""
    return replace(outlook, probes=tuple(probes))


#: Share of networks of unseen families whose gain an interval holds.
HELD = INTERVAL
