"""Evidence against a cause from the trees of its question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mdtree_jax.registry.questions import question_behind


class Opposition(NamedTuple):
    """The answer of a question that speaks against a cause, and the probability that the trees give it."""

    question: str
    answer: str
    probability: float


def opposition(cause: str, trees: Mapping[str, Mapping[str, float]]) -> Opposition | None:
    """Return the evidence against a cause from the trees of its question; None if there is none.

    Args:
        cause: a name.
        trees: task -> class -> probability, of the tree averages.
    """
    question = question_behind(cause)
    other = question and question.against(cause)
    if question is None or other is None or question.name not in trees:
        return None
    return Opposition(question.name, other.name, trees[question.name].get(other.name, 0.0))
