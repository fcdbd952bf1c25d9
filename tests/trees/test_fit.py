"""Threshold fits against ground truth worked out another way: exhaustive search, and the objective taken literally."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from mdtree_jax.trees import fit as engine
from mdtree_jax.trees.members import STRUCTURES
from mdtree_jax.trees.structure import Node, Structure

# Four levels, three classes, a feature asked twice on one path.
DEEP = Structure(
    "deep",
    (
        Node("a", 0.5, 0.0, 1.0, 1, 2),
        Node("b", 0.5, 0.1, 0.9, "x", 3),
        Node("b", 0.5, 0.1, 0.9, "y", "z"),
        Node("a", 0.3, 0.0, 1.0, "z", "y"),
    ),
    ("x", "y", "z"),
)


def route(structure, thresholds, row):
    """Walk one row down the tree, as a person would."""
    child = 0
    while isinstance(child, int):
        node = structure.nodes[child]
        child = node.left if row[structure.features.index(node.feature)] <= thresholds[child] else node.right
    return structure.classes.index(child)


def naive_accuracy(structure, thresholds, X, y):
    return sum(route(structure, thresholds, row) == target for row, target in zip(X, y, strict=True)) / len(y)


def sample(structure, n, seed, levels=None):
    """Return features around the bounds, on few levels if asked so that values tie, and random classes."""
    rng = np.random.default_rng(seed)
    X = np.empty((n, len(structure.features)))
    for j, feature in enumerate(structure.features):
        node = next(node for node in structure.nodes if node.feature == feature)
        spread = node.high - node.low
        u = rng.random(n) if levels is None else rng.integers(0, levels, n) / levels
        X[:, j] = node.low - 0.2 * spread + 1.4 * spread * u
    return X, rng.integers(0, len(structure.classes), n)


def exhaustive(structure, X, y):
    """Return the best accuracy over the product of all thresholds that matter."""
    options = []
    for node, column in zip(structure.nodes, structure.node_columns, strict=True):
        values = np.unique(X[:, column])
        middles = (values[1:] + values[:-1]) / 2
        inside = middles[(middles > node.low) & (middles < node.high)]
        options.append(np.concatenate([[node.low, node.high], inside]))
    return max(naive_accuracy(structure, t, X, y) for t in itertools.product(*options))


@pytest.mark.parametrize("name", ["optimizer", "optimizer_similarity", "size"])
@pytest.mark.parametrize(("seed", "levels"), [(0, None), (1, 4), (2, 3)])
def test_exact_fit_reaches_exhaustive_optimum(name, seed, levels):
    structure = STRUCTURES[name]
    X, y = sample(structure, 9, seed, levels)
    thresholds = engine.fit_exact(structure, X, y)
    assert naive_accuracy(structure, thresholds, X, y) == exhaustive(structure, X, y)
    assert all(n.low <= t <= n.high for n, t in zip(structure.nodes, thresholds, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_exact_fit_of_a_user_structure(seed):
    X, y = sample(DEEP, 7, seed, levels=5)
    assert naive_accuracy(DEEP, engine.fit_exact(DEEP, X, y), X, y) == exhaustive(DEEP, X, y)


@pytest.mark.parametrize("name", STRUCTURES)
def test_branch_and_bound_equals_enumeration(name, monkeypatch):
    structure = STRUCTURES[name]
    X, y = sample(structure, 60, seed=3, levels=40)
    monkeypatch.setattr(engine._ExactSearch, "_BLOCK", 10**9)
    enumerated = engine.fit_exact(structure, X, y)
    monkeypatch.setattr(engine._ExactSearch, "_BLOCK", 0)
    monkeypatch.setattr(engine._ExactSearch, "_BATCH", 3)
    np.testing.assert_array_equal(engine.fit_exact(structure, X, y), enumerated)


def test_exact_fit_breaks_ties_by_margin_then_initial_value():
    stump = Structure("stump", (Node("a", 4.0, 0.0, 10.0, "x", "y"),), ("x", "y"))
    X, y = np.array([[1.0], [3.0], [5.0], [7.0]]), np.array([0, 1, 0, 1])  # 2 and 6 tie in all but place
    assert engine.fit_exact(stump, X, y).tolist() == [2.0]  # as far from 4: the smaller
    nearer = Structure("stump", (Node("a", 5.0, 0.0, 10.0, "x", "y"),), ("x", "y"))
    assert engine.fit_exact(nearer, X, y).tolist() == [6.0]
    wider = np.array([[1.0], [3.0], [5.0], [9.0]])
    assert engine.fit_exact(stump, wider, y).tolist() == [7.0]


def test_neighbouring_floats_have_a_threshold_between_them():
    tree = Structure("stump", (Node("a", 0.5, 0.0, 1.0, "x", "y"),), ("x", "y"))
    X = np.array([[0.3], [np.nextafter(0.3, 1)]])
    thresholds = engine.fit_exact(tree, X, np.array([0, 1]))
    assert engine.predict_classes(tree, thresholds, X).tolist() == [0, 1]


def test_exact_fit_leaves_an_unreached_node_at_its_initial_value():
    X = np.array([[0.0, 0.0, 5.0], [0.2, 0.0, 5.0]])
    thresholds = engine.fit_exact(STRUCTURES["optimizer"], X, np.array([1, 1]))
    assert thresholds[1:].tolist() == [-10.0, 7.0]


@pytest.mark.parametrize("structure", [*STRUCTURES.values(), DEEP], ids=lambda s: s.name)
def test_published_fit_equals_the_literal_procedure(structure):
    X, y = sample(structure, 80, seed=11)
    expected = structure.initial.copy()
    for i, node in enumerate(structure.nodes):

        def objective(value, i=i):
            return -np.mean([route(structure, [*expected[:i], value, *expected[i + 1 :]], row) for row in X] == y)

        expected[i] = minimize_scalar(objective, bounds=(node.low, node.high), method="bounded").x
    np.testing.assert_array_equal(engine.fit_published(structure, X, y), expected)


@pytest.mark.parametrize("structure", [*STRUCTURES.values(), DEEP], ids=lambda s: s.name)
def test_routing_equals_walking_row_by_row(structure):
    X, _ = sample(structure, 200, seed=5, levels=8)
    thresholds = X[17, structure.node_columns]  # values that occur: `<=` must send them left
    walked = [route(structure, thresholds, row) for row in X]
    assert engine.predict_classes(structure, thresholds, X).tolist() == walked
    assert set(walked) == set(range(len(structure.classes)))
