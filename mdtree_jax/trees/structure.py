"""Diagnostic trees as data: a table of nodes, one engine for all of them.

A structure fixes the metric of each node and the class of each leaf; only the thresholds are fitted. `<=` goes left.
A new structure is a few lines of YAML::

    name: my_tree
    classes: [temperature_too_high, temperature_too_low]
    nodes:
      - {feature: train_error, initial: 0.5, low: 0, high: 1, left: temperature_too_low, right: 1}
      - {feature: cka, initial: 0.5, low: 0.2, high: 0.8, left: temperature_too_low, right: temperature_too_high}

where `left` and `right` are the number of a later node (the first is 0) or a class.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.collection.columns import canonical_name
from mdtree_jax.files import user_path
from mdtree_jax.registry.questions import published_classes
from mdtree_jax.registry.tree import Node, Tree, check_tree


@dataclass(frozen=True)
class Structure:
    """A tree without its thresholds: `nodes[0]` is the root, every other node has one parent before it.

    `leaves` lists (node, side) of every leaf from left to right, side 0 for left; a leaf's number is its index there.

    A feature may be any column; fitting the tree to a table without it raises an error that names it.

    Raises:
        UserError: a structure that is not a tree, an unknown class, bounds that do not contain the initial value.
    """

    name: str
    nodes: tuple[Node, ...]
    classes: tuple[str, ...]
    leaves: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "nodes", tuple(_in_our_names(node) for node in self.nodes))
        object.__setattr__(self, "classes", tuple(_our_class(name) for name in self.classes))
        check_tree(self.name, self.nodes, self.classes)
        object.__setattr__(self, "leaves", tuple(self._walk(0)))

    def _walk(self, node: int):
        for side, child in enumerate(self.children(node)):
            if isinstance(child, int):
                yield from self._walk(child)
            else:
                yield node, side

    def children(self, node: int) -> tuple[int | str, int | str]:
        """Return the left and right child of a node: a node's number or a class."""
        return self.nodes[node].left, self.nodes[node].right

    @property
    def features(self) -> tuple[str, ...]:
        """The features in the order of first use: the columns of an array passed to the tree."""
        return tuple(dict.fromkeys(node.feature for node in self.nodes))

    @property
    def node_columns(self) -> np.ndarray:
        """The index of each node's feature in `features`, shape (nodes,)."""
        place = {feature: i for i, feature in enumerate(self.features)}
        return np.array([place[node.feature] for node in self.nodes])

    @property
    def initial(self) -> np.ndarray:
        """Initial thresholds, shape (nodes,), each in its feature's unit."""
        return np.array([node.initial for node in self.nodes])

    @property
    def leaf_verdicts(self) -> np.ndarray:
        """The index of each leaf's class in `classes`, shape (leaves,)."""
        return np.array([self.classes.index(self.children(node)[side]) for node, side in self.leaves])

    @property
    def leaf_numbers(self) -> dict[tuple[int, int], int]:
        """Map (node, side) of a leaf to its number."""
        return {leaf: number for number, leaf in enumerate(self.leaves)}

    def to_dict(self) -> dict:
        """Return the structure as plain lists and dictionaries, for YAML and JSON."""
        return {"name": self.name, "classes": list(self.classes), "nodes": [node._asdict() for node in self.nodes]}

    @classmethod
    def of(cls, tree: Tree, classes: tuple[str, ...]) -> Structure:
        """Build the structure of a question's tree; raises `UserError` as the class does."""
        return cls(tree.name, tree.nodes, classes)

    @classmethod
    def from_dict(cls, data: Mapping) -> Structure:
        """Build a structure from the result of `to_dict` or the content of a YAML file; published names are accepted.

        Raises:
            UserError: a key is missing or unknown, or the structure is not a tree.
        """
        if not isinstance(data, Mapping):
            raise UserError(f"a tree structure must be a mapping with the keys name, classes, nodes; got {data!r:.60}")
        for key in ("classes", "nodes"):
            if key not in data:
                raise UserError(f"the tree structure lacks the key '{key}'; it has: {', '.join(map(str, data))}")
            if not isinstance(data[key], (list, tuple)):
                raise UserError(f"the key '{key}' of the tree structure holds {data[key]!r:.60}; it must be a list")
        for name in data["classes"]:
            if not isinstance(name, str):
                raise UserError(f"the tree structure has the class {name!r:.60}; a class must be a name")
        nodes = []
        for number, row in enumerate(data["nodes"]):
            if not isinstance(row, Mapping) or set(row) != set(Node._fields):
                raise UserError(
                    f"node {number} of the tree structure must have exactly {', '.join(Node._fields)}: {row}"
                )
            if not isinstance(row["feature"], str):
                raise UserError(
                    f"node {number} of the tree structure asks {row['feature']!r:.60}; it must be a column name"
                )
            nodes.append(Node(**row))
        return cls(str(data.get("name", "custom")), tuple(nodes), tuple(data["classes"]))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike) -> Structure:
        """Read a structure from a YAML file.

        Raises:
            UserError: the file is missing or holds no structure.
        """
        import yaml

        try:
            data = yaml.safe_load(user_path(path, "the tree structure").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"the tree structure '{path}' cannot be read: {why}") from error
        return cls.from_dict(data)


def _our_class(name: str) -> str:
    return published_classes().get(name, name)


def _in_our_names(node: Node) -> Node:
    """Return the node with published feature and class names turned into ours."""
    left, right = (_our_class(end) if isinstance(end, str) else end for end in (node.left, node.right))
    return node._replace(feature=canonical_name(node.feature), left=left, right=right)
