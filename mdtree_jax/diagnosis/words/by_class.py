"""The errors of the classes in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdtree_jax.diagnosis.words.formats import number

if TYPE_CHECKING:
    from mdtree_jax.diagnosis.result import Diagnosis

#: Most classes that are shown, those of the largest error.
MOST = 10


def rows(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    """Return (class, error, examples) of the classes with the largest errors, the largest first."""
    worst = sorted(diagnosis.by_class, key=lambda one: -one.error)[:MOST]
    return [(str(one.label), f"{_error(one.error, one.standard_error)} %", str(one.examples)) for one in worst]


def note(diagnosis: Diagnosis) -> str:
    """Return what the numbers are, and how many classes are not shown."""
    text = "Held-out error with its standard error over the examples of the class."
    left = len(diagnosis.by_class) - MOST
    return text + (f" {left} more {'class has' if left == 1 else 'classes have'} a smaller error." if left > 0 else "")


def _error(error: float, standard_error: float) -> str:
    return number(error, standard_error if standard_error == standard_error else None)
