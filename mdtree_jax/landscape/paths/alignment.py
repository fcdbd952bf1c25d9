"""Permutation alignment of two networks by weight matching (Ainsworth et al., 2023, algorithm 1). NumPy and SciPy.

This runs on the host, not in JAX: the inner step is an exact assignment problem
(`scipy.optimize.linear_sum_assignment`), a sequential search with no counterpart in XLA, and the cost of the matrix
products is negligible.

The units of a hidden layer can be permuted without changing the function, if their incoming weights, BatchNorm and
outgoing weights are permuted in the same way. Axes that must be permuted together form a *group*; a `PermutationSpec`
says which axis of which array belongs to which group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from mdtree_jax.checks import UserError

#: Path of an array in the tree -> for each axis, the name of the group that permutes it, or None.
PermutationSpec = Mapping[tuple[str, ...], tuple[str | None, ...]]


def align(spec: PermutationSpec, reference: Any, variables: Any, *, seed: int = 0, num_starts: int = 4) -> Any:
    """Return `variables` with its units permuted to bring its weights as close as possible to `reference`.

    The same as `apply_permutation(spec, match_weights(...), variables)`, with the same arguments and errors.
    """
    permutations = match_weights(spec, reference, variables, seed=seed, num_starts=num_starts)
    return apply_permutation(spec, permutations, variables)


def match_weights(
    spec: PermutationSpec,
    reference: Any,
    variables: Any,
    *,
    seed: int = 0,
    num_starts: int = 4,
    ignored: tuple[str, ...] = ("batch_stats",),
) -> dict[str, np.ndarray]:
    """Return for each group the permutation that makes the weights of two networks most similar.

    Maximises <reference, permuted variables> summed over all parameters, which minimises their distance, by coordinate
    descent over the groups: each step is an exact assignment with the other groups fixed, until a sweep brings no gain.
    The result is a local optimum, so the search starts from the identity with the groups in the order of the spec, then
    `num_starts` - 1 times from random permutations in random order, and the best result is kept. For networks with NaN,
    it returns the identity.

    Args:
        spec: see `PermutationSpec`; arrays that it does not name are not permuted.
        reference: nested dictionaries of arrays, which are not permuted.
        variables: the same structure.
        seed: of starts and orders; equal seeds give equal results.
        num_starts: number of starts, at least 1.
        ignored: first path elements of arrays that are permuted but not matched, such as BatchNorm statistics.

    Raises:
        UserError: num_starts < 1; a path of the spec that is not in a tree; a number of axes or a size that does not
            match the spec; arrays of different shapes.
    """
    if num_starts < 1:
        raise UserError(f"num_starts {num_starts} must be at least 1")
    sizes = _group_sizes(spec, reference)
    if _group_sizes(spec, variables) != sizes:
        raise UserError(f"the two networks have groups of different sizes: {sizes} and {_group_sizes(spec, variables)}")
    counted = [path for path in spec if path[0] not in ignored]
    pairs = {}
    for path in counted:
        a, b = (np.asarray(_get(tree, path), np.float64) for tree in (reference, variables))
        if a.shape != b.shape:
            raise UserError(f"'{'/'.join(path)}' has shape {a.shape} in one network and {b.shape} in the other")
        pairs[path] = a, b
    identity = {group: np.arange(size) for group, size in sizes.items()}
    if not all(np.isfinite(array).all() for pair in pairs.values() for array in pair):
        return identity
    rng = np.random.default_rng(seed)
    best, best_value = identity, -np.inf
    for number in range(num_starts):
        start = {g: rng.permutation(n) if number else np.arange(n) for g, n in sizes.items()}
        found, value = _coordinate_descent(spec, pairs, start, rng if number else None)
        if value > best_value:
            best, best_value = found, value
    return best


def apply_permutation(spec: PermutationSpec, permutations: Mapping[str, np.ndarray], variables: Any) -> Any:
    """Return `variables` with unit `permutations[group][i]` at index i along every axis of each group.

    Args:
        spec: see `PermutationSpec`.
        permutations: group -> (size,) int; missing groups are not permuted.
        variables: nested dictionaries of arrays, including BatchNorm; NumPy and JAX arrays keep their type.
    """

    def walk(tree: Any, path: tuple[str, ...]) -> Any:
        if isinstance(tree, Mapping):
            return {name: walk(child, (*path, name)) for name, child in tree.items()}
        return _permuted(tree, spec.get(path, ()), permutations)

    return walk(variables, ())


def _permuted(array: Any, groups: tuple[str | None, ...], permutations: Mapping[str, np.ndarray]) -> Any:
    for axis, group in enumerate(groups):
        if group is not None and group in permutations:
            array = array[(slice(None),) * axis + (permutations[group],)]
    return array


def _get(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            raise UserError(f"the permutation spec names '{'/'.join(path)}', which the network does not have")
        tree = tree[name]
    return tree


def _group_sizes(spec: PermutationSpec, variables: Any) -> dict[str, int]:
    """Return the number of units of every group, in the order of the spec; raise where axes disagree."""
    sizes: dict[str, int] = {}
    for path, groups in spec.items():
        shape = np.shape(_get(variables, path))
        if len(shape) != len(groups):
            raise UserError(f"'{'/'.join(path)}' has shape {shape}, but the permutation spec names {len(groups)} axes")
        if twice := [g for g in set(groups) - {None} if groups.count(g) > 1]:
            raise UserError(
                f"'{'/'.join(path)}' has two axes in group '{twice[0]}'; a group can have at most one axis per array"
            )
        for group, size in zip(groups, shape, strict=True):
            if group is not None and sizes.setdefault(group, size) != size:
                raise UserError(
                    f"'{'/'.join(path)}' has {size} units in group '{group}', other arrays of the group {sizes[group]}"
                )
    return sizes


def _coordinate_descent(
    spec: PermutationSpec,
    pairs: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]],
    permutations: dict[str, np.ndarray],
    rng: np.random.Generator | None,
) -> tuple[dict[str, np.ndarray], float]:
    permutations = dict(permutations)
    groups = list(permutations)
    scale = sum(np.linalg.norm(a) * np.linalg.norm(b) for a, b in pairs.values())
    is_improving = True
    while is_improving:
        is_improving = False
        for group in groups if rng is None else rng.permutation(groups):
            gain = _gain_matrix(spec, pairs, permutations, group)
            rows, columns = linear_sum_assignment(gain, maximize=True)
            old = gain[rows, permutations[group]].sum()
            # A gain within rounding would let ties go round in circles.
            if gain[rows, columns].sum() > old + 1e-12 * scale:
                permutations[group], is_improving = columns, True
    value = sum((a * _permuted(b, spec[path], permutations)).sum() for path, (a, b) in pairs.items())
    return permutations, float(value)


def _gain_matrix(
    spec: PermutationSpec,
    pairs: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]],
    permutations: dict[str, np.ndarray],
    group: str,
) -> np.ndarray:
    """Return (n, n): how much unit j of the second network in place i adds to the inner product, others held."""
    n = len(permutations[group])
    others = {name: order for name, order in permutations.items() if name != group}
    total = np.zeros((n, n))
    for path, (a, b) in pairs.items():
        for axis, name in enumerate(spec[path]):
            if name == group:
                b_moved = _permuted(b, spec[path], others)
                total += np.moveaxis(a, axis, 0).reshape(n, -1) @ np.moveaxis(b_moved, axis, 0).reshape(n, -1).T
    return total
