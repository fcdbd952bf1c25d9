"""A diagnostic tree as data: a table of nodes. No JAX; `mdtree_jax.trees` fits its thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from mdtree_jax.checks import UserError, check_choice


class Node(NamedTuple):
    """One node of a tree: is `feature` <= its threshold?

    `initial` is the threshold's starting value, [`low`, `high`] its bounds, all in the feature's unit; `left` and
    `right` are the number of a later node (int) or a class (str).
    """

    feature: str
    initial: float
    low: float
    high: float
    left: int | str
    right: int | str


class Tree(NamedTuple):
    """A tree of a question as data: its name, and its nodes, the root first; `<=` goes left."""

    name: str
    nodes: tuple[Node, ...]


def check_tree(name: str, nodes: Sequence[Node], classes: Sequence[str]) -> None:
    """Raise `UserError` unless the nodes are a tree with leaves of these classes, each initial value in its bounds."""
    where = f"tree structure '{name}'"
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise UserError(f"{where}: classes={list(classes)}; a tree needs two or more different classes")
    if not nodes:
        raise UserError(f"{where} has no node; it needs at least one")
    parents = []
    for number, node in enumerate(nodes):
        place = f"{where}, node {number}"
        for key in ("initial", "low", "high"):
            value = getattr(node, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UserError(f"{place}: {key}={value!r}; it must be a finite number")
        if not node.low <= node.initial <= node.high or node.low == node.high:
            raise UserError(
                f"{place}: initial={node.initial:g} must lie in its bounds low={node.low:g} < high={node.high:g}"
            )
        for child in (node.left, node.right):
            if isinstance(child, int) and not isinstance(child, bool):
                if not number < child < len(nodes):
                    raise UserError(f"{place}: child {child} must be the number of a later node, of {len(nodes)}")
                parents.append(child)
            else:
                check_choice(f"verdict in {place}", str(child), classes)
    if sorted(parents) != list(range(1, len(nodes))):
        raise UserError(f"{where}: every node but the first must be the child of exactly one node")
