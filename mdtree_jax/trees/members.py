"""The trees of the questions (`mdtree_jax.registry.questions`) as structures: shown, companions, for one checkpoint.

A threshold on a single metric transfers badly: sharpness and connectivity shift with label noise, schedule and data
set, each in its own way. In the robust fit, several trees therefore answer a question from different metrics, and vote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mdtree_jax.registry.questions import QUESTIONS, Question, Tree
from mdtree_jax.registry.views import MappingView
from mdtree_jax.trees.structure import Structure


def _structures(trees: tuple[Tree | None, ...], question: Question) -> tuple[Structure, ...]:
    return tuple(Structure.of(tree, question.classes) for tree in trees if tree is not None)


def _of(pick: Callable[[Question], tuple[Tree | None, ...]]) -> dict[str, tuple[Structure, ...]]:
    """Return task -> the picked trees as structures; a task without any is left out."""
    found = {question.name: _structures(pick(question), question) for question in QUESTIONS.values()}
    return {name: structures for name, structures in found.items() if structures}


def _first(pick: Callable[[Question], Tree | None]) -> dict[str, Structure]:
    return {name: structures[0] for name, structures in _of(lambda question: (pick(question),)).items()}


#: Structure -> the trees that are shown: one a question, and its variant that asks for similarity.
STRUCTURES: Mapping[str, Structure] = MappingView(
    lambda: {s.name: s for shown in _of(lambda q: (q.tree, q.similarity)).values() for s in shown}, QUESTIONS
)
#: Task -> the variant that asks for similarity, of the tasks that have one.
SIMILARITY: Mapping[str, Structure] = MappingView(lambda: _first(lambda q: q.similarity), QUESTIONS)
#: Task -> members of the robust fit; the first is the one that is shown.
MEMBERS: Mapping[str, tuple[Structure, ...]] = MappingView(lambda: _of(lambda q: q.trees), QUESTIONS)
#: The same where collections may be of another family than the models asked about, of the tasks that have such.
RELATIVE_MEMBERS: Mapping[str, tuple[Structure, ...]] = MappingView(lambda: _of(lambda q: q.relative), QUESTIONS)
#: Task -> the tree that needs no second network, of the tasks that have one.
ONE_CHECKPOINT: Mapping[str, Structure] = MappingView(lambda: _first(lambda q: q.one_checkpoint), QUESTIONS)


def choose_members(structure: Structure, has: Callable[[tuple[str, ...]], bool]) -> list[Structure]:
    """Return the members of the robust fit of a structure: its companions too if it is a task's shown one.

    A companion takes part if `has(features)` is true of its features; the structure itself always does.
    """
    companions = next((members[1:] for members in MEMBERS.values() if members[0] == structure), ())
    return [structure, *(tree for tree in companions if has(tree.features))]
