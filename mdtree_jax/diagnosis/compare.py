"""Two diagnoses of a model, before and after a change: what moved, and was the predicted gain real?

Works on the content of `diagnosis.json`, so that the first diagnosis may be of last week. Models are paired by name;
one model before and one after belong together whatever they are called.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdtree_jax.checks import UserError

_NEEDED = ("cause", "metrics", "expected_gain", "test_error")


@dataclass(frozen=True)
class Moved:
    """A metric before and after; `errors` is the change in its combined standard errors, None if one is not known."""

    name: str
    before: float
    after: float
    errors: float | None


@dataclass(frozen=True)
class Comparison:
    """One model before and after a change.

    `gained` is the test error before minus that after, points, None if one is not known; `predicted` is the expected
    gain of the advice before as (mean, low, high), None without one; `held` says whether the gain lies in that
    interval.
    """

    name: str
    causes: tuple[str, str]
    abstained: tuple[bool, bool]
    gained: float | None
    predicted: tuple[float, float, float] | None
    moved: tuple[Moved, ...]

    @property
    def held(self) -> bool | None:
        """Whether the gain lies in the interval that was predicted; None if one of them is not known."""
        if self.gained is None or self.predicted is None:
            return None
        return self.predicted[1] <= self.gained <= self.predicted[2]


def read_diagnoses(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the diagnoses of a `diagnosis.json`, one dictionary per model.

    Raises:
        UserError: the file cannot be read, or does not hold diagnoses.
    """
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"compare={path} cannot be read as JSON: {str(error).splitlines()[0]}") from error
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) and set(_NEEDED) <= set(row) for row in rows):
        raise UserError(f"compare={path} holds no diagnosis; give the diagnosis.json that diagnose wrote")
    return rows


def compare(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """Return the comparisons of models that are in both lists, in the order of `after`.

    Raises:
        UserError: no name is in both.
    """
    if len(before) == len(after) == 1:
        pairs = [(before[0], after[0])]
    else:
        known = {str(row.get("name")): row for row in before}
        pairs = [(known[str(row.get("name"))], row) for row in after if str(row.get("name")) in known]
    if not pairs:
        names = ", ".join(str(row.get("name")) for row in before[:5])
        raise UserError(
            f"compare=: no model has the name of one diagnosed before ({names}); give name= or a name column"
        )
    return [_compared(*pair) for pair in pairs]


def _compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    errors, gain = (before["test_error"], after["test_error"]), before["expected_gain"]
    return Comparison(
        name=str(after.get("name") or before.get("name") or ""),
        causes=(before["cause"], after["cause"]),
        abstained=(bool(before.get("abstains")), bool(after.get("abstains"))),
        gained=None if None in errors else float(errors[0] - errors[1]),
        predicted=None if gain is None else (gain["mean"], gain["low"], gain["high"]),
        moved=tuple(_moves(before["metrics"], after["metrics"])),
    )


def _moves(before: Mapping[str, float], after: Mapping[str, float]):
    """Yield the metrics of both sides, those that moved by most standard errors first, unknown ones last."""
    found = []
    for name in (name for name in before if name in after and not name.endswith("_se")):
        parts = [side.get(f"{name}_se") for side in (before, after)]
        spread = None if None in parts else math.hypot(*parts)  # pyright: ignore[reportArgumentType]
        change = after[name] - before[name]
        found.append(Moved(name, before[name], after[name], change / spread if spread else None))
    yield from sorted(found, key=lambda one: -abs(one.errors) if one.errors is not None else 1.0)
