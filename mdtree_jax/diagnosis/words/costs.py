"""The cost of a diagnosis in words, compared with one retraining and a grid search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mdtree_jax.diagnosis.words.formats import NOT_KNOWN, capital, duration, number, operations

_KINDS = ("diagnosis", "retraining", "grid_search")


def rows(cost: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """Return (what, time, operations) of the diagnosis, its compilation, one retraining and a grid search.

    None if nothing is known; without the compilation where its time is not known.
    """
    cost = cost or {}
    if all(cost.get(f"{kind}_{unit}") is None for kind in _KINDS for unit in ("seconds", "flops")):
        return []
    trainings = cost.get("grid_search_trainings")
    search = f"grid search, {trainings} training runs" if trainings else "grid search"
    kinds = zip(("this diagnosis", "one retraining", search), _KINDS, strict=True)
    found = [(n, duration(cost.get(f"{k}_seconds")), operations(cost.get(f"{k}_flops"))) for n, k in kinds]
    if cost.get("compile_seconds") is not None:
        found.insert(1, ("compiling its programs, once", duration(cost["compile_seconds"]), ""))
    return found


def amount(time: str, work: str) -> str:
    """Return time and operations of one of `rows` together.

    >>> amount("42 s", "3.2 TFLOP"), amount("31 s", ""), amount("not known", "not known")
    ('42 s, 3.2 TFLOP', '31 s', 'not known')
    """
    return time if time == work or not work else f"{time}, {work}"


def bars(cost: Mapping[str, Any] | None) -> list[float | None]:
    """Return the time (or, without times, the operations) of each of `rows` as a share of the longest.

    None where it is not known; all None unless the diagnosis and another one can be compared.
    """
    cost = cost or {}
    compiled = cost.get("compile_seconds")
    for unit in ("seconds", "flops"):
        values = [cost.get(f"{kind}_{unit}") for kind in _KINDS]
        if compiled is not None:
            values.insert(1, compiled if unit == "seconds" else None)
        known = [v for v in values if v is not None]
        if values[0] is not None and values[-1] is not None and max(known) > 0:
            return [None if v is None else v / max(known) for v in values]
    return [None] * (3 if compiled is None else 4)


def sentence(cost: Mapping[str, Any] | None) -> str:
    """Return how the cost of the diagnosis compares with one retraining, in one sentence."""
    cost = cost or {}
    for unit in ("seconds", "flops"):
        own, again = cost.get(f"diagnosis_{unit}"), cost.get(f"retraining_{unit}")
        if own is not None and again is not None and own > 0 and again > 0:
            if own >= again:
                return f"The diagnosis cost {number(own / again)} times as much as one retraining."
            return f"One retraining costs {number(again / own)} times as much as the diagnosis."
    if cost.get("retraining_seconds") is None and cost.get("retraining_flops") is None:
        return f"The cost of one retraining is {NOT_KNOWN}, so the diagnosis cannot be compared with it."
    return f"The cost of the measurements is {NOT_KNOWN}: they were made elsewhere."


def note(cost: Mapping[str, Any] | None) -> str:
    """Return how the cost was estimated, as a sentence; '' if there is nothing to say."""
    said = str((cost or {}).get("note") or "")
    return f"{capital(said).rstrip('.')}." if said else ""
