"""The engine of all diagnostic trees: routing rows to leaves, and fitting thresholds.

It works on arrays: X (rows, features of the structure in order) float64, y (rows,) the index of each row's class in the
structure's classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from mdtree_jax.trees.structure import Structure


def reach_nodes(structure: Structure, thresholds: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows reach each node, (nodes, rows) bool, and each row's leaf number, (rows,) int."""
    columns, numbers = structure.node_columns, structure.leaf_numbers
    reach = np.zeros((len(structure.nodes), len(X)), dtype=bool)
    reach[0] = True
    leaf = np.full(len(X), -1)
    for i in range(len(structure.nodes)):
        left = X[:, columns[i]] <= thresholds[i]
        for side, child in enumerate(structure.children(i)):
            goes = reach[i] & (left if side == 0 else ~left)
            if isinstance(child, int):
                reach[child] |= goes
            else:
                leaf[goes] = numbers[i, side]
    return reach, leaf


def predict_classes(structure: Structure, thresholds: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Return the place of each row's verdict among the structure's classes, (rows,) int."""
    return structure.leaf_verdicts[reach_nodes(structure, thresholds, X)[1]]


def accuracy(structure: Structure, thresholds: np.ndarray, X: np.ndarray, y: np.ndarray) -> float:
    """Return the share of rows diagnosed correctly, a fraction."""
    return float(np.mean(predict_classes(structure, thresholds, X) == y))


def fit_published(structure: Structure, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the thresholds of the published fit, (nodes,): one sweep of bounded scalar minimisations.

    Thresholds start at their initial values. For each in order, `scipy.optimize.minimize_scalar(method="bounded")`
    minimises minus the training accuracy with the others fixed; its result is taken even if it is worse. On exact ties,
    the search depends on the last bit, so the objective must be the float64 fraction -(number correct / n).

    Source: Zhou et al., "MD tree", ICML 2024; docs/explanation/trees.md.
    """
    thresholds = structure.initial.astype(float)
    for i, node in enumerate(structure.nodes):
        objective = _accuracy_along(structure, thresholds, i, X, y)
        found: Any = minimize_scalar(objective, bounds=(node.low, node.high), method="bounded")
        thresholds[i] = found.x
    return thresholds


def _accuracy_along(
    structure: Structure, thresholds: np.ndarray, node: int, X: np.ndarray, y: np.ndarray
) -> Callable[[float], float]:
    """Return minus the training accuracy as a function of one threshold, the others held.

    It is a step function: worked out once for all steps, so that an evaluation is a search in a sorted array.
    """
    reach, leaf = reach_nodes(structure, thresholds, X)
    rows = reach[node]
    values = X[rows, structure.node_columns[node]]
    order = np.argsort(values, kind="stable")
    values = values[order]
    right_if = []
    for end in (np.inf, -np.inf):  # everything left, everything right
        moved = thresholds.copy()
        moved[node] = end
        right_if.append((predict_classes(structure, moved, X[rows]) == y[rows])[order].astype(int))
    elsewhere = int(np.sum(structure.leaf_verdicts[leaf[~rows]] == y[~rows]))
    right = elsewhere + right_if[1].sum() + np.concatenate([[0], np.cumsum(right_if[0] - right_if[1])])
    steps = (-(right / len(y))).tolist()
    return lambda threshold: steps[values.searchsorted(threshold, side="right")]


def fit_exact(structure: Structure, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the thresholds that jointly maximize the training accuracy, (nodes,).

    Candidates of a node are both bounds and the midpoints, inside the bounds, between neighbouring values of the rows
    that reach it. The search is global: nodes of different branches are independent, and within a branch the number of
    correct rows is monotonic and changes by at most one per row, so that whole ranges of candidates can be pruned.

    Ties are broken from the root down: among the thresholds of a node that allow the optimum, the one farthest from any
    value that reaches the node (the widest margin), then the one nearest to its initial value, then the smaller one. A
    node that no row reaches keeps its initial value.
    """
    return _ExactSearch(structure, X, y).solve()


class _ExactSearch:
    """Dynamic programme over the tree with branch and bound over candidates; see `fit_exact`.

    A node's candidates are given as cuts: `cut` c sends the c rows with the smallest values left.
    """

    #: Elements of one (candidates x rows) block; larger problems are bounded and searched instead of enumerated.
    _BLOCK = 400_000
    _BATCH = 32

    def __init__(self, structure: Structure, X: np.ndarray, y: np.ndarray):
        self.structure = structure
        self.values = [X[:, column] for column in structure.node_columns]
        self.order = [np.argsort(values, kind="stable") for values in self.values]
        self.cuts = [self._cuts(node, order) for node, order in enumerate(self.order)]
        self.right = [np.asarray(verdict == y, dtype=np.int32) for verdict in structure.leaf_verdicts]
        self.numbers = structure.leaf_numbers

    def solve(self) -> np.ndarray:
        thresholds = self.structure.initial.astype(float)
        pending = [(0, np.ones(len(self.values[0]), dtype=bool))]
        while pending:
            node, rows = pending.pop()
            if rows.any():
                thresholds[node] = self._choose(node, rows)
            left = self.values[node] <= thresholds[node]
            for child, part in zip(self.structure.children(node), (rows & left, rows & ~left), strict=True):
                if isinstance(child, int):
                    pending.append((child, part))
        return thresholds

    def _choose(self, node: int, rows: np.ndarray) -> float:
        """Return the best threshold of a node for the rows that reach it, by the rule for ties."""
        cuts, scores = self._search(node, rows, keep_ties=True)
        values = np.sort(self.values[node][rows])
        row = self.structure.nodes[node]
        options = np.array([t for c in cuts[scores == scores.max()] for t in _thresholds(values, c, row.low, row.high)])
        below = np.searchsorted(values, options, side="right")
        padded = np.concatenate([[-np.inf], values, [np.inf]])
        margin = np.minimum(options - padded[below], padded[below + 1] - options)
        return float(options[np.lexsort((options, np.abs(options - row.initial), -margin))[0]])

    def _best(self, node: int | str, rows: np.ndarray, leaf: tuple[int, int]) -> np.ndarray:
        """Return the largest number right below `node` for each set of rows, `rows` (sets, n) bool -> (sets,)."""
        if not isinstance(node, int):
            return rows @ self.right[self.numbers[leaf]]
        left, right = self.structure.children(node)
        cuts = self.cuts[node]
        if not isinstance(left, int) and not isinstance(right, int):
            on_left, on_right = self.right[self.numbers[node, 0]], self.right[self.numbers[node, 1]]
            order = self.order[node]
            gains = np.zeros((len(rows), len(order) + 1), dtype=np.int32)
            np.cumsum(rows[:, order] * (on_left - on_right)[order], axis=1, out=gains[:, 1:])
            return rows @ on_right + gains[:, cuts].max(axis=1)
        if len(rows) * len(cuts) * rows.shape[1] > self._BLOCK:
            return np.array([self._search(node, one, keep_ties=False)[1].max() for one in rows])
        goes_left = self._goes_left(node, self.order[node], cuts)
        blocks = []
        for child, part, side in ((left, goes_left, 0), (right, ~goes_left, 1)):
            both = (rows[:, None, :] & part[None]).reshape(-1, rows.shape[1])
            blocks.append(self._best(child, both, (node, side)).reshape(len(rows), len(cuts)))
        return (blocks[0] + blocks[1]).max(axis=1)

    def _search(self, node: int, rows: np.ndarray, *, keep_ties: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return a node's cuts over the rows that reach it, and the number right of each (-1 where bounded away).

        With `keep_ties` every cut that reaches the optimum has its number; without, at least one.
        """
        order = self.order[node][rows[self.order[node]]]
        cuts = self._cuts(node, order)
        children = self.structure.children(node)
        sides = (_MonotoneCount(cuts), _MonotoneCount(len(order) - cuts))
        scores = np.full(len(cuts), -1)
        todo = np.unique(np.linspace(0, len(cuts) - 1, self._BATCH).astype(int))
        while len(todo):
            left = self._goes_left(node, order, cuts[todo])
            for side, part in enumerate((left & rows, ~left & rows)):
                sides[side].learn(todo, self._best(children[side], part, (node, side)))
            scores[todo] = sides[0].number[todo] + sides[1].number[todo]
            bound = sides[0].upper_bound() + sides[1].upper_bound()
            todo = np.flatnonzero((scores < 0) & (bound >= scores.max() + (not keep_ties)))
            if len(todo) > self._BATCH:
                todo = np.sort(todo[np.argsort(-bound[todo], kind="stable")[: self._BATCH]])
        return cuts, scores

    def _cuts(self, node: int, order: np.ndarray) -> np.ndarray:
        """Return the numbers of rows that a threshold inside the bounds can send left, ascending."""
        values, row = self.values[node][order], self.structure.nodes[node]
        first, last = np.searchsorted(values, [row.low, row.high], side="right")
        inside = np.flatnonzero(np.diff(values[first:last])) + first + 1
        return np.concatenate([[first], inside, [last] if last > first else []]).astype(int)

    def _goes_left(self, node: int, order: np.ndarray, cuts: np.ndarray) -> np.ndarray:
        """Return which rows each cut sends left, (cuts, n) bool; rows outside `order` go right."""
        place = np.full(len(self.values[node]), len(order))
        place[order] = np.arange(len(order))
        return place[None, :] < cuts[:, None]


class _MonotoneCount:
    """A count that rises with the number of rows by at most one a row, known at some of the sizes.

    `sizes` (candidates,) is monotone, rising or falling.
    """

    def __init__(self, sizes: np.ndarray):
        self.sizes = sizes
        self.number = np.full(len(sizes), -1)

    def learn(self, places: np.ndarray, numbers: np.ndarray) -> None:
        self.number[places] = numbers

    def upper_bound(self) -> np.ndarray:
        """Return an upper bound at every size from the nearest known sizes above and below."""
        flip = slice(None, None, -1 if self.sizes[0] > self.sizes[-1] else 1)
        sizes, number = self.sizes[flip], self.number[flip]
        known = number >= 0
        from_below = sizes + np.maximum.accumulate(np.where(known, number - sizes, -sizes[-1] - 1))
        # A smaller set cannot do better than a larger one; the count never exceeds the size.
        from_above = np.minimum.accumulate(np.where(known, number, sizes[-1])[::-1])[::-1]
        return np.minimum(np.where(known, number, sizes), np.minimum(from_below, from_above))[flip]


def _thresholds(values: np.ndarray, cut: int, low: float, high: float) -> list[float]:
    """Return the candidate thresholds that send the `cut` smallest of the sorted `values` left."""
    options = [bound for bound in (low, high) if np.searchsorted(values, bound, side="right") == cut]
    if 0 < cut < len(values):
        below, above = values[cut - 1], values[cut]
        middle = below + (above - below) / 2
        if middle == above:  # neighbouring floats: what is at the threshold goes left
            middle = below
        if low < middle < high:
            options.append(float(middle))
    return options
