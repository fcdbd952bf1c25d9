"""The network within a checkpoint: wrappers, prefixes, averaged weights, the rest of a training state."""

import numpy as np
import pytest

from mdtree_jax import UserError
from mdtree_jax.subject.checkpoints.content import choose
from mdtree_jax.subject.frameworks.base import named_as

WEIGHTS = {"first.weight": np.ones((2, 3)), "first.bias": np.zeros(2)}
OTHER = {name: array + 1 for name, array in WEIGHTS.items()}
NAMES = ("first/weight", "first/bias")


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3},
        {"model": {"model_state_dict": WEIGHTS}, "optimizer": {"state": {}}},
        {"net": WEIGHTS, "acc": 0.9},
        {"ema": WEIGHTS},
        {"module": {f"module.{name}": array for name, array in WEIGHTS.items()}},
        {f"_orig_mod.module.{name}": array for name, array in WEIGHTS.items()},
        {"state_dict": {f"model.net.{name}": array for name, array in WEIGHTS.items()}},
    ],
)
def test_the_network_is_found(content):
    network, _ = named_as(choose(content, None, "a.ckpt").network, NAMES)
    assert set(network) == set(NAMES)
    np.testing.assert_array_equal(network["first/weight"], WEIGHTS["first.weight"])


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"state_dict": WEIGHTS, "state_dict_ema": OTHER}, "state_dict_ema"),
        ({"model": WEIGHTS, "ema": {"module": OTHER, "decay": 0.99}}, "ema"),
        ({"model": {"model": WEIGHTS, "model_ema": OTHER}}, "model_ema"),
    ],
)
def test_averaged_weights_are_chosen_and_said(content, name):
    loaded = choose(content, "ema", "a.ckpt")
    np.testing.assert_array_equal(loaded.network["first.weight"], OTHER["first.weight"])
    assert loaded.notes == (f"the weights are those under '{name}' of the checkpoint",)
    plain = choose(content, None, "a.ckpt")
    np.testing.assert_array_equal(plain.network["first.weight"], WEIGHTS["first.weight"])
    assert any("weights=ema chooses" in note for note in plain.notes)


def test_a_part_is_chosen_by_its_name():
    content = {"student": WEIGHTS, "teacher": OTHER}
    assert choose(content, "teacher", "a.ckpt").network["first.bias"][0] == 1
    with pytest.raises(UserError, match=r"weights=techer: 'a.ckpt' has no such weights \(did you mean 'teacher'\?\)"):
        choose(content, "techer", "a.ckpt")


def test_prefixes_and_what_is_not_the_networks_are_said():
    content = {f"model.{name}": array for name, array in WEIGHTS.items()} | {"loss.weight": np.ones(3)}
    network, notes = named_as(content, NAMES)
    assert set(network) == set(NAMES)
    assert notes == (
        "the names in the checkpoint were taken without model.",
        "not used of the checkpoint: loss/weight",
    )


def test_a_prefix_that_is_part_of_the_name_stays():
    names = ("model/first/weight", "model/first/bias")
    network, notes = named_as({f"model.{name}": array for name, array in WEIGHTS.items()}, names)
    assert set(network) == set(names)
    assert notes == ()
