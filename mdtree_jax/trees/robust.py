"""The robust fit: an average over all threshold settings of a few small trees, instead of one best setting.

NumPy only. A fitted tree is a posterior over its thresholds (`TreePosterior`); the prediction is the average vote over
all settings and over the member trees, with equal weights for the members (`RobustFit`).

**Model of one tree.** Node j's threshold lies on a fixed grid of candidates between its bounds (centres of equal
steps; logarithmic for features with a `log_offset`), with prior weight exp(-r²/2), where r = 3 at the bounds and 0
at the initial value (each side has its own scale). A threshold setting sends every row to a leaf; the class of a leaf
is correct for each of its rows with an unknown probability e ~ Beta(9, 1), independent for every leaf. With R correct
and W wrong rows, each counted as ρ rows, a leaf's marginal likelihood is B(9 + ρR, 1 + ρW) / B(9, 1), and

    p(thresholds | rows) ∝ Π_nodes prior(threshold) · Π_leaves B(9 + ρR, 1 + ρW).

**Evidence is discounted.** ρ = 0.3 / (1 + 0.3 n / 200): neighbouring configurations are similar (0.3), and thresholds
differ between collections, so that any number of rows of one collection counts for at most 200 of another.

**It is exact.** Counts depend only on the thresholds along a leaf's path, so that sums over all settings can be
computed by messages from the leaves to the root and back (sum-product); candidates that no training row separates are
merged.

**Probabilities.** With v the mean vote for a class, p ∝ (0.1 + 0.8 v)^s (two classes): the predicted class has the
larger vote, and s, about 1.75 a priori, is fitted to the training rows with the same discount.

Assumptions: the classes of the leaves are fixed by the structure (a sample from one corner of a grid often has only one
class, and majority leaves would not transfer); a threshold stays inside its bounds. Limit: the work grows as
candidates ** depth, so deeper trees get coarser grids (`candidates_for_depth`).

Sources: averaging of trees as in Buntine, "Learning classification trees" (1992) and Chipman, George and McCulloch,
"Bayesian CART model search" (1998), here with the structure fixed; discounted likelihoods as in Grünwald, "The safe
Bayesian" (2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import lgamma
from typing import NamedTuple

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.trees.structure import Structure

#: Beta prior of the probability that the class of a leaf is correct.
RIGHT, WRONG = 9.0, 1.0
#: Share of a vote that goes to every class alike, and prior median and spread of the exponent of `RobustFit`.
DOUBT, EXPONENT, EXPONENT_SPREAD = 0.1, 1.75, 0.3
_MOST_CANDIDATES, _FEWEST_CANDIDATES, _CELLS = 40, 3, 70_000


class Options(NamedTuple):
    """What the prior and the evidence are like; the ablation switches them off one by one.

    `bound_in_sigmas`: standard deviations of the prior from the initial value to each bound; 0 makes it flat.
    `row_weight`: what a single row counts for; `most_rows`: what any number of rows counts for at most, in rows.
    """

    bound_in_sigmas: float = 3.0
    row_weight: float = 0.3
    most_rows: float = 200.0


DEFAULT = Options()


class TreePosterior(NamedTuple):
    """The posterior over one tree's thresholds.

    `grids[j]` are node j's candidates (ascending, in its feature's unit), `marginals[j]` their posterior weights.
    `leaf_paths[l]` are the nodes above leaf l, `leaf_tables[l]` the probability that a row ends in leaf l,
    indexed by the row's places among the candidates of those nodes.
    """

    structure: Structure
    grids: tuple[np.ndarray, ...]
    marginals: tuple[np.ndarray, ...]
    leaf_paths: tuple[tuple[int, ...], ...]
    leaf_tables: tuple[np.ndarray, ...]
    log_evidence: float


class RobustFit(NamedTuple):
    """An average of trees: `members` are alike in weight, `exponent` sharpens their mean vote into probabilities."""

    members: tuple[TreePosterior, ...]
    exponent: float


def candidates_for_depth(depth: int) -> int:
    """Return how many candidates each node of a tree of that depth gets, so that the work stays bounded.

    >>> [candidates_for_depth(depth) for depth in (1, 3, 4, 6)]
    [40, 40, 16, 6]

    Raises:
        UserError: the tree is too deep for the robust fit.
    """
    number = min(_MOST_CANDIDATES, int(_CELLS ** (1 / depth)))
    if number < _FEWEST_CANDIDATES:
        raise UserError(
            f"fit='robust' supports trees of depth at most 10, not {depth}; use fit='exact' or fit='published'"
        )
    return number


def threshold_prior(
    feature: str, initial: float, low: float, high: float, number: int, bound_in_sigmas: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return a node's candidates (number,), ascending, and the logarithms of their prior weights, which sum to 1.

    The mode is at the initial value; each side has the weight of its length on the scale of even spacing.
    """
    to_scale, from_scale = _scale(feature, low, high)
    start, centre, end = (to_scale(value) for value in (low, initial, high))
    places = start + (np.arange(number) + 0.5) / number * (end - start)
    side = np.where(places < centre, centre - start, end - centre)
    # An initial value on a bound leaves no room on that side; no candidate is there either.
    away = np.abs(places - centre) / np.where(side > 0, side, 1.0) * bound_in_sigmas
    weight = np.exp(-0.5 * away**2)
    return from_scale(places), np.log(weight / weight.sum())


def _scale(feature: str, low: float, high: float):
    """Return the maps from a feature's unit to the scale of even spacing, and back; both ascend."""
    offset = MEASUREMENTS[feature].log_offset if feature in MEASUREMENTS else None
    if offset is not None and offset + low > 0:
        return (lambda v: np.log(offset + v)), (lambda u: np.exp(u) - offset)
    if offset is not None and offset - high > 0:
        return (lambda v: -np.log(offset - v)), (lambda u: offset - np.exp(-u))
    return (lambda v: v), (lambda u: u)


@lru_cache(maxsize=256)
def node_priors(structure: Structure, options: Options = DEFAULT) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each node's candidates and the logarithms of their prior weights, as `threshold_prior`."""
    number = candidates_for_depth(max(len(path) for path in _paths(structure)))
    return [
        threshold_prior(n.feature, n.initial, n.low, n.high, number, options.bound_in_sigmas) for n in structure.nodes
    ]


def evidence_per_row(rows: int, options: Options = DEFAULT) -> float:
    """Return ρ, what one of `rows` training rows counts for.

    >>> round(evidence_per_row(12) * 12, 2), round(evidence_per_row(1560) * 1560)
    (3.54, 140)
    """
    return options.row_weight / (1 + options.row_weight * rows / options.most_rows)


def fit_posterior(structure: Structure, X: np.ndarray, y: np.ndarray, options: Options = DEFAULT) -> TreePosterior:
    """Return the posterior over a structure's thresholds.

    Args:
        structure: the tree without its thresholds.
        X: the structure's features in order, (rows, features) float, finite.
        y: (rows,) int, the place of each row's class among the structure's classes.
        options: of prior and evidence.
    """
    return _SumProduct(structure, X, y, options).solve()


@lru_cache(maxsize=256)
def _beta_tables(rows: int, row_weight: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ln Γ(prior + ρ count) - ln Γ(prior) for every count of rows: right ones, wrong ones, all."""
    counts = (row_weight * np.arange(rows + 1)).tolist()

    def table(prior: float) -> np.ndarray:
        return np.array([lgamma(prior + c) - lgamma(prior) for c in counts])

    return table(RIGHT), table(WRONG), table(RIGHT + WRONG)


class _SumProduct:
    """Messages over one tree; an axis of a message is a node of the path, its index a group of candidates."""

    def __init__(self, structure: Structure, X: np.ndarray, y: np.ndarray, options: Options):
        self.structure, self.y = structure, y
        priors = node_priors(structure, options)
        self.grids = tuple(grid for grid, _ in priors)
        self.shares, self.log_priors, self.places = [], [], []
        for (grid, log_prior), column in zip(priors, structure.node_columns, strict=True):
            self._group(grid, log_prior, X[:, column])
        self.row_weight = evidence_per_row(len(y), options)
        self.log_beta = _beta_tables(len(y), self.row_weight)
        self.marginals: list[np.ndarray] = [np.empty(0)] * len(structure.nodes)
        self.tables: list[np.ndarray] = []

    def _group(self, grid: np.ndarray, log_prior: np.ndarray, values: np.ndarray) -> None:
        """Join neighbouring candidates that no row separates; a row goes left from place `p` on."""
        place = np.searchsorted(grid, values)
        starts = np.zeros(len(grid) + 1, dtype=int)
        starts[place] = 1
        starts[0] = 0
        group = np.cumsum(starts)
        groups = group[-2] + 1
        group[-1] = groups
        member = (group[:-1, None] == np.arange(groups)) * np.exp(log_prior)[:, None]
        self.log_priors.append(np.log(member.sum(axis=0)))
        self.shares.append(member / member.sum(axis=0))
        self.places.append(group[place])

    def solve(self) -> TreePosterior:
        log_evidence, tree = self._up(0, ())
        self._down(tree, np.ones(()))
        paths = tuple(tuple(node for node, _ in path) for path in _paths(self.structure))
        return TreePosterior(
            self.structure, self.grids, tuple(self.marginals), paths, tuple(self.tables), float(log_evidence)
        )

    def _up(self, node: int, path: tuple):
        """Return the log evidence below a node given the thresholds above it, and what `_down` needs."""
        total, below = self.log_priors[node], []
        for side, child in enumerate(self.structure.children(node)):
            onward = (*path, (node, side))
            message, tree = self._up(child, onward) if isinstance(child, int) else (self._leaf(child, onward), onward)
            total = total + message
            below.append(tree)
        largest = total.max(axis=-1, keepdims=True)
        weights = np.exp(total - largest)
        norm = weights.sum(axis=-1, keepdims=True)
        return (largest + np.log(norm))[..., 0], (node, weights / norm, below)

    def _leaf(self, verdict: str, path: tuple) -> np.ndarray:
        """Return a leaf's log marginal likelihood for every combination of the groups along its path."""
        shape = [2] + [len(self.log_priors[node]) + 1 for node, _ in path]
        right = (self.y == self.structure.classes.index(verdict)).astype(int)
        cell = np.ravel_multi_index((right, *(self.places[node] for node, _ in path)), shape)
        counts = np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)
        for axis, (_, side) in enumerate(path, start=1):
            upto = np.cumsum(counts, axis=axis)
            left, everything = np.split(upto, [-1], axis=axis)
            counts = left if side == 0 else everything - left
        in_right, in_wrong, in_all = self.log_beta
        return in_right[counts[1]] + in_wrong[counts[0]] - in_all[counts[0] + counts[1]]

    def _down(self, tree: tuple, above: np.ndarray) -> None:
        """Turn messages into marginals and leaf tables; `above` is the posterior of the path's groups."""
        node, conditional, below = tree
        joint = above[..., None] * conditional
        own = joint.reshape(-1, joint.shape[-1]).sum(axis=0)
        self.marginals[node] = self.shares[node] @ own
        for branch in below:
            if isinstance(branch[0], int):
                self._down(branch, joint)
            else:
                self.tables.append(self._table(branch, joint))

    def _table(self, path: tuple, joint: np.ndarray) -> np.ndarray:
        """Return the probability of a leaf for every combination of places among the candidates of its path."""
        for axis, (node, side) in enumerate(path):
            share = self.shares[node]
            passed = np.concatenate([np.zeros((1, share.shape[1])), np.cumsum(share, axis=0)])
            goes = passed if side == 1 else 1.0 - passed
            joint = np.moveaxis(np.tensordot(goes, joint, axes=(1, axis)), 0, axis)
        return joint


def _paths(structure: Structure, node: int = 0, path: tuple = ()):
    """Return each leaf's path, ((node, side), ...), leaves from left to right."""
    out = []
    for side, child in enumerate(structure.children(node)):
        onward = (*path, (node, side))
        out += _paths(structure, child, onward) if isinstance(child, int) else [onward]
    return out


def verdict_shares(posterior: TreePosterior, X: np.ndarray) -> np.ndarray:
    """Return the posterior weight of the settings that give each verdict, (rows, classes); X as in `fit_posterior`."""
    structure = posterior.structure
    place = [np.searchsorted(g, X[:, c]) for g, c in zip(posterior.grids, structure.node_columns, strict=True)]
    shares = np.zeros((len(X), len(structure.classes)))
    for path, table, verdict in zip(posterior.leaf_paths, posterior.leaf_tables, structure.leaf_verdicts, strict=True):
        shares[:, verdict] += table[tuple(place[node] for node in path)]
    return shares


def threshold_intervals(posterior: TreePosterior, coverage: float = 0.9) -> np.ndarray:
    """Return (nodes, 3): for each threshold the posterior median and the ends of its central interval."""
    levels = np.array([0.5, 0.5 - coverage / 2, 0.5 + coverage / 2])
    return np.array(
        [
            grid[np.minimum(np.searchsorted(np.cumsum(weight), levels), len(grid) - 1)]
            for grid, weight in zip(posterior.grids, posterior.marginals, strict=True)
        ]
    )


def fit_robust(
    structures: Sequence[Structure], X: Sequence[np.ndarray], y: np.ndarray, options: Options = DEFAULT
) -> RobustFit:
    """Return the average of one or more trees that ask the same question.

    Args:
        structures: the members; all have the same classes in the same order.
        X: for each member its features in order, (rows, features); a member learns from the rows that have all of its.
        y: (rows,) int, the place of each row's class among the classes.
        options: of prior and evidence.

    Raises:
        UserError: the members' classes differ, or there is no member or no row.
    """
    return with_exponent(fit_members(structures, X, y, options), X, y, options)


def with_exponent(
    members: tuple[TreePosterior, ...], X: Sequence[np.ndarray], y: np.ndarray, options: Options = DEFAULT
) -> RobustFit:
    """Return the average of members fitted to `X` and `y`, as `fit_robust` fits them, with its exponent."""
    return RobustFit(members, _fit_exponent(_mean_vote(members, X), y, options))


def fit_members(
    structures: Sequence[Structure], X: Sequence[np.ndarray], y: np.ndarray, options: Options = DEFAULT
) -> tuple[TreePosterior, ...]:
    """Return the posteriors of the members: all that a verdict needs; arguments and errors as `fit_robust`."""
    if not structures or len(y) == 0:
        raise UserError(f"fit='robust' needs at least one tree and one row, got {len(structures)} and {len(y)}")
    if any(s.classes != structures[0].classes for s in structures):
        raise UserError(f"the trees of a robust fit must have the same classes: {[s.classes for s in structures]}")
    known = [np.isfinite(values).all(axis=1) for values in X]
    return tuple(
        fit_posterior(s, values, y, options) if there.all() else fit_posterior(s, values[there], y[there], options)
        for s, values, there in zip(structures, X, known, strict=True)
    )


def predict_proba(fit: RobustFit, X: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return class probabilities, (rows, classes).

    Args:
        fit: the fitted average.
        X: for each member its features in order, (rows, features); a member has no vote in a row that lacks some, and
            None stands for one that has none in any.
    """
    return _sharpen(_mean_vote(fit.members, X), fit.exponent)


def _mean_vote(members: Sequence[TreePosterior], X: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return the mean of the votes of those members that have their features, row by row, (rows, classes)."""
    given = [(member, values) for member, values in zip(members, X, strict=True) if values is not None]
    if not given:
        raise UserError("no tree of the robust fit has its features in the table")
    votes = np.array([verdict_shares(member, values) for member, values in given])
    known = np.array([np.isfinite(values).all(axis=1) for _, values in given])
    if known.all():
        return np.mean(votes, axis=0)
    if not known.any(axis=0).all():
        raise UserError(f"no tree of the robust fit has its features in row {np.argmin(known.any(axis=0)) + 1}")
    return np.where(known[..., None], votes, 0.0).sum(axis=0) / known.sum(axis=0)[:, None]


def _sharpen(votes: np.ndarray, exponent: float) -> np.ndarray:
    """Return probabilities from votes, both (rows, classes): unanimity leaves `DOUBT` to the others, then the power."""
    classes = votes.shape[1]
    spread = DOUBT / (classes - 1)
    power = (spread + (1 - classes * spread) * votes) ** exponent
    return power / power.sum(axis=1, keepdims=True)


def _fit_exponent(votes: np.ndarray, y: np.ndarray, options: Options) -> float:
    """Return the exponent of the highest posterior density: its evidence is discounted as the thresholds' is."""
    candidates = EXPONENT * np.exp(EXPONENT_SPREAD * np.linspace(-3, 3, 61))
    rows = np.arange(len(y))
    likelihood = [np.log(_sharpen(votes, exponent)[rows, y]).sum() for exponent in candidates]
    prior = -0.5 * (np.log(candidates / EXPONENT) / EXPONENT_SPREAD) ** 2
    return float(candidates[np.argmax(evidence_per_row(len(y), options) * np.array(likelihood) + prior)])


def snap_rows(structures: Sequence[Structure], X: Sequence[np.ndarray], y: np.ndarray) -> dict:
    """Return the training rows as plain lists, as coarse as the candidates are, so that a fit can be repeated.

    A value is kept as its place among all candidates of its feature, a missing one as -1; rows that fall together are
    counted.
    """
    values: dict[str, np.ndarray] = {}
    for structure, x in zip(structures, X, strict=True):
        for name, column in zip(structure.features, x.T, strict=True):
            # A companion lacks all of a row in which it lacks one.
            values[name] = np.where(np.isnan(values[name]), column, values[name]) if name in values else column
    steps = _steps(structures)
    places = {name: np.where(np.isnan(v), -1, np.searchsorted(steps[name], v)) for name, v in values.items()}
    codes = np.stack([*(places[name] for name in steps), y], axis=1)
    rows, counts = np.unique(codes, axis=0, return_counts=True)
    lines = [f"{' '.join(map(str, row[:-1]))} : {row[-1]} x {count}" for row, count in zip(rows, counts, strict=True)]
    return {"features": list(steps), "rows": lines}


def unsnap_rows(structures: Sequence[Structure], data: dict) -> tuple[list[np.ndarray], np.ndarray]:
    """Return (X of every member, y) that give the same fit as the rows that `snap_rows` wrote down."""
    steps = _steps(structures)
    parsed = [(*map(int, line.replace(":", "").replace("x", "").split()),) for line in data["rows"]]
    table = np.array(parsed)
    table = np.repeat(table[:, :-1], table[:, -1], axis=0)
    # A value equal to a candidate has that candidate's place; one beyond the last has the last place but for the end,
    # which stands for a missing one.
    values = {
        name: np.append(s, [s[-1] + 1, np.nan])[table[:, data["features"].index(name)]] for name, s in steps.items()
    }
    return [np.stack([values[name] for name in s.features], axis=1) for s in structures], table[:, -1]


def _steps(structures: Sequence[Structure]) -> dict[str, np.ndarray]:
    """Return every feature's candidates in any node of any member, ascending."""
    grids: dict[str, list[np.ndarray]] = {}
    for structure in structures:
        for node, (grid, _) in zip(structure.nodes, node_priors(structure), strict=True):
            grids.setdefault(node.feature, []).append(grid)
    return {name: np.unique(np.concatenate(parts)) for name, parts in grids.items()}
