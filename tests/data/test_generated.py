"""Data sets that are generated or frozen: the same on every machine, balanced, and neither trivial nor hopeless."""

import hashlib

import numpy as np
import pytest

from mdtree_jax.data import dataset_shape, load_dataset
from mdtree_jax.data.balance import in_rounds
from mdtree_jax.data.images import _distances, _turned, load_gratings
from mdtree_jax.data.source import Source
from mdtree_jax.data.tables import load_teacher, load_waves
from mdtree_jax.registry.datasets import DATASETS

CLASSES = ("mnist5k", "mnist1d", "shapes", "gratings", "teacher", "tabular")
NUMBERS = ("friedman", "waves")
#: Of inputs and targets in steps of 1/256.
HASHES = {
    "mnist5k": "1f9391937f7af8a8",
    "mnist1d": "5dfcf67f62ea2784",
    "shapes": "7dbf7a9c0409df0c",
    "gratings": "e774e93a9912e8d8",
    "teacher": "faf91b5a31fb476b",
    "tabular": "460c753aad95d8a3",
    "friedman": "44b37afb753c347e",
    "waves": "2a00654d5c35fc62",
}


def loaded(name):
    return load_dataset(name, objective="regression" if name in NUMBERS else "cross_entropy")


def content_hash(data):
    digest = hashlib.sha256()
    for array in (data.x_train, data.x_test, data.y_train, data.y_test):
        digest.update(np.round(array.astype(np.float64) * 256).astype("<i4").tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", [*CLASSES, *NUMBERS])
def test_is_the_same_on_every_machine_and_as_registered(name):
    data = loaded(name)
    assert content_hash(data) == HASHES[name]
    assert data.shape == dataset_shape(name)
    assert data.shape.num_test >= 4000
    assert abs(data.x_train.mean()) < 0.02
    assert abs(data.x_train.std() - 1) < 0.02
    train, test = ({row.tobytes() for row in x} for x in (data.x_train, data.x_test))
    assert not train & test


@pytest.mark.parametrize("name", CLASSES)
def test_every_prefix_is_balanced(name):
    data = loaded(name)
    for number in (60, len(data.y_train) // 4, len(data.y_train)):
        counts = np.bincount(data.y_train[:number], minlength=data.num_classes)
        assert counts.max() - counts.min() <= 1
    counts = np.bincount(data.y_test, minlength=data.num_classes)
    assert counts.max() - counts.min() <= 2  # the test set need not begin with a round


@pytest.mark.parametrize(("name", "least", "most"), [("teacher", 10, 65), ("tabular", 10, 50), ("mnist5k", 4, 15)])
def test_neighbours_find_some_but_not_all(name, least, most):
    from sklearn.neighbors import KNeighborsClassifier

    data = loaded(name)
    x_train, x_test = (x.reshape(len(x), -1) for x in (data.x_train, data.x_test[:1000]))
    wrong = KNeighborsClassifier(5).fit(x_train, data.y_train).predict(x_test) != data.y_test[:1000]
    assert least < 100 * wrong.mean() < most


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_not_linear_in_the_inputs(name):
    data = loaded(name)
    assert data.y_train.std() == pytest.approx(1, abs=0.01)
    design = np.column_stack([data.x_train, np.ones(len(data.x_train))])
    left = data.y_train - design @ np.linalg.lstsq(design, data.y_train, rcond=None)[0]
    assert left.var() > 0.2


def test_any_size_can_be_made_and_no_class_may_be_too_rare():
    for load in (load_teacher, load_gratings):
        raw = load(Source(""), num_train=48, num_test=96)
        assert (len(raw.x_train), len(raw.y_test)) == (48, 96)
        assert np.ptp(np.bincount(raw.y_train)) <= 1
    assert load_waves(Source(""), num_train=10, num_test=20).x_test.shape == (20, 5)


def test_shapes_lie_where_they_are_said_to():
    across, down = _turned(np.zeros((2, 1)), np.zeros(1))
    disc, ring, square, frame, triangle, cross = _distances(across, down, np.full((1, 1, 1), 4.0))
    middle, edge = (0, 5, 5), (0, 5, 9)  # half a pixel from the centre; 3.5 pixels to the right
    assert disc[middle] < 0 < ring[middle]
    assert square[middle] < 0 < frame[middle]
    assert triangle[middle] < 0
    assert cross[middle] < 0
    assert ring[edge] < 0
    assert cross[edge] < 0 < cross[0, 9, 9]


def test_rounds_use_as_many_of_a_class_as_of_the_rarest():
    labels = np.array([2, 0, 0, 1, 2, 2, 1, 0, 0])
    order = in_rounds(labels, 3, np.random.default_rng(0))
    assert sorted(labels[order[:3]]) == sorted(labels[order[3:]]) == [0, 1, 2]
    assert len(set(order)) == 6


def test_small_held_out_sets_are_marked():
    for entry in DATASETS.values():
        if entry.shape is not None and entry.shape.target_shape == ():
            assert entry.is_small == (entry.shape.num_test < 4000), entry.name
