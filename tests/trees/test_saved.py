"""Structures and fitted trees as files: any structure reads back, predicts the same, and damage is one sentence."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mdtree_jax import MDTreeClassifier, Node, Structure
from tests.refusals import answer_of
from tests.trees.test_fit import route

CLASSES = ("temperature_too_high", "temperature_too_low", "size", "mine")
FEATURES = ("train_error", "cka", "log_hessian_trace", "log_effective_rank", "my_own")


@st.composite
def structures(draw, max_nodes=6):
    """Return a random tree: every node but the first hangs at a free end of an earlier one; verdicts fill the rest."""
    classes = draw(st.lists(st.sampled_from(CLASSES), min_size=2, max_size=4, unique=True))
    count = draw(st.integers(1, max_nodes))
    ends = [[None, None] for _ in range(count)]
    free = [(0, 0), (0, 1)]
    for node in range(1, count):
        parent, side = free.pop(draw(st.integers(0, len(free) - 1)))
        ends[parent][side] = node
        free += [(node, 0), (node, 1)]
    for parent, side in free:
        ends[parent][side] = draw(st.sampled_from(classes))
    numbers = st.floats(-100, 100, allow_subnormal=False)
    nodes = []
    for left, right in ends:
        low, initial, high = sorted(draw(st.lists(numbers, min_size=3, max_size=3, unique=True)))
        nodes.append(Node(draw(st.sampled_from(FEATURES)), initial, low, high, left, right))
    return Structure(draw(st.text(max_size=8)), tuple(nodes), tuple(classes))


@settings(max_examples=150)
@given(structures(max_nodes=12))
def test_structures_read_back(structure):
    data = structure.to_dict()
    assert Structure.from_dict(data) == structure
    assert Structure.from_dict(json.loads(json.dumps(data))) == structure
    assert Structure.from_dict(yaml.safe_load(yaml.safe_dump(data))) == structure
    assert len(structure.leaves) == len(structure.nodes) + 1


def rows_of(structure, rng, count):
    """Return values around the bounds of each feature's nodes, on few levels so that they tie, (count, features)."""
    columns = []
    for feature in structure.features:
        asked = [node for node in structure.nodes if node.feature == feature]
        low, high = min(node.low for node in asked), max(node.high for node in asked)
        columns.append(rng.choice(np.linspace(low - 1, high + 1, 7), count))
    return np.stack(columns, axis=1)


@settings(max_examples=40)
@given(structures(max_nodes=4), st.sampled_from(["published", "exact", "robust"]), st.integers(0, 1000))
def test_a_saved_tree_predicts_the_same(tmp_path_factory, structure, fit, seed):
    path, rng = tmp_path_factory.getbasetemp() / "tree.json", np.random.default_rng(seed)
    X, new = rows_of(structure, rng, 12), rows_of(structure, rng, 40)
    y = np.concatenate([structure.classes, rng.choice(structure.classes, len(X) - len(structure.classes))])
    tree = MDTreeClassifier(structure=structure, fit=fit).fit(X, y)
    tree.save(path)
    back = MDTreeClassifier.load(path)
    assert back.structure_ == structure
    np.testing.assert_array_equal(back.thresholds_, tree.thresholds_)
    np.testing.assert_array_equal(back.predict_proba(new), tree.predict_proba(new))
    np.testing.assert_array_equal(back.predict(new), tree.predict(new))
    if fit != "robust":  # one tree: what a person who walks it down would say
        walked = [structure.classes[route(structure, tree.thresholds_.tolist(), row)] for row in new]
        assert back.predict(new).tolist() == walked


def places(data, path=()):
    """Return the path to every value in nested lists and mappings."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


HOSTILE = [None, True, -1, 10**30, 1e999, float("nan"), "", "size", [], [[]], {}, {"a": 1}, [1, "a"]]


@pytest.fixture(scope="module", params=["exact", "robust"])
def saved(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "tree.json"
    nodes = Node("cka", 0.5, 0.0, 1.0, "size", 1), Node("train_error", 1.0, 0.0, 2.0, "mine", "size")
    structure, rng = Structure("small", nodes, ("size", "mine")), np.random.default_rng(0)
    X, y = rows_of(structure, rng, 12), np.array(["size", "mine"] * 6)
    MDTreeClassifier(structure=structure, fit=request.param).fit(X, y).save(path)
    return json.loads(path.read_text()), pd.DataFrame(rows_of(structure, rng, 5), columns=structure.features)


def test_a_damaged_tree_is_one_sentence(saved, tmp_path_factory):
    data, new = saved
    everywhere, path = places(data)[1:], tmp_path_factory.getbasetemp() / "damaged.json"
    refused = []

    @settings(max_examples=150)
    @given(st.sampled_from(everywhere), st.sampled_from([*HOSTILE, "take it out"]))
    def check(place, value):
        damaged = copy.deepcopy(data)
        inner = damaged
        for key in place[:-1]:
            inner = inner[key]
        if value == "take it out":
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        path.write_text(json.dumps(damaged))
        # The tree may ask for another column now.
        proba, message = answer_of(lambda: MDTreeClassifier.load(path).predict_proba(new))
        if message:
            refused.append(place)
        else:
            assert proba.shape == (5, 2)
            assert np.isfinite(proba).all()

    check()
    assert len(refused) > 50


@settings(max_examples=200)
@given(structures(max_nodes=3), st.data())
def test_a_damaged_structure_is_one_sentence(structure, data):
    damaged = json.loads(json.dumps(structure.to_dict()))
    *place, last = data.draw(st.sampled_from(places(damaged)[1:]))
    inner = damaged
    for key in place:
        inner = inner[key]
    inner[last] = data.draw(st.sampled_from(HOSTILE))
    found, message = answer_of(Structure.from_dict, damaged)
    if not message:
        assert Structure.from_dict(found.to_dict()) == found
