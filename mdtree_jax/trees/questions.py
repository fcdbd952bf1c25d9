"""The trees of the questions (`mdtree_jax.registry.questions`) as structures: shown, companions, for one checkpoint.

A threshold on one measure carries badly: sharpness and connectivity shift with label noise, schedule and data set, each
in its own way. So the robust fit lets several trees answer a question, each on other measures; they vote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TypeVar

from mdtree_jax.registry.questions import QUESTIONS, Question, Tree
from mdtree_jax.trees.structure import Structure

Value = TypeVar("Value")


class _OfQuestions(Mapping[str, Value]):
    """What follows from each question, found by a name; questions that are registered later appear in it."""

    def __init__(self, items: Callable[[Question], Mapping[str, Value]]):
        self._items = items

    def _all(self) -> dict[str, Value]:
        return {name: value for question in QUESTIONS.values() for name, value in self._items(question).items()}

    def __getitem__(self, name: str) -> Value:
        own = self._items(QUESTIONS[name]) if name in QUESTIONS else {}
        return own[name] if name in own else self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


@lru_cache(maxsize=256)
def _structure(tree: Tree, classes: tuple[str, ...]) -> Structure:
    return Structure.of(tree, classes)


def _structures(trees: tuple[Tree | None, ...], question: Question) -> tuple[Structure, ...]:
    return tuple(_structure(tree, question.classes) for tree in trees if tree is not None)


def _by_structure(question: Question) -> dict[str, Structure]:
    return {found.name: found for found in _structures((question.tree, question.similarity), question)}


#: Structure -> the trees that are shown: one a question, and its variant that asks for similarity.
STRUCTURES: Mapping[str, Structure] = _OfQuestions(_by_structure)
#: Task -> the variant that asks for similarity, of the tasks that have one.
SIMILARITY: Mapping[str, Structure] = _OfQuestions(lambda q: {q.name: s for s in _structures((q.similarity,), q)})
#: Task -> members of the robust fit; the first is the one that is shown.
MEMBERS: Mapping[str, tuple[Structure, ...]] = _OfQuestions(lambda q: {q.name: _structures(q.trees, q)})
#: The same where collections may be of another family than the models asked about, of the tasks that have such.
RELATIVE_MEMBERS: Mapping[str, tuple[Structure, ...]] = _OfQuestions(
    lambda q: {q.name: _structures(q.relative, q)} if q.relative else {}
)
#: Task -> the tree that needs no second network, of the tasks that have one.
ONE_CHECKPOINT: Mapping[str, Structure] = _OfQuestions(
    lambda q: {q.name: s for s in _structures((q.one_checkpoint,), q)}
)


def choose_members(structure: Structure, has: Callable[[str], bool]) -> list[Structure]:
    """Return the members of the robust fit of a structure: its companions too if it is a task's shown one.

    A companion takes part if `has(feature)` is true for all its features; the structure itself always does.
    """
    companions = next((members[1:] for members in MEMBERS.values() if members[0] == structure), ())
    return [structure, *(tree for tree in companions if all(has(feature) for feature in tree.features))]
