"""The table of knobs: ranges in words, and what cannot be registered."""

import dataclasses

import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.registry.knobs import KNOBS, Knob, Words, register_knob

TOY = Knob("toy", "1", "of a test", "inputs", is_static=False, default=0.0, low=0.0, words=Words("toy"))


@pytest.mark.parametrize(
    ("name", "good", "bad", "message"),
    [
        ("width", 1, 0, "width=0 is out of range; it must be at least 1"),
        ("data_fraction", 1.0, 0.0, r"data_fraction=0 is out of range; it must be in \(0, 1\]"),
        ("learning_rate", 1e-9, 0.0, "learning_rate=0 is out of range; it must be above 0"),
        ("weight_decay", 0.0, float("inf"), "weight_decay=inf is out of range; it must be 0 or above"),
        ("label_smoothing", 0.0, 1.0, r"label_smoothing=1 is out of range; it must be in \[0, 1\)"),
        ("momentum", 0.99, -0.1, r"momentum=-0.1 is out of range; it must be in \[0, 1\)"),
        ("optimizer", "adamw", "adamm", r"unknown optimizer 'adamm' \(did you mean 'adam'\?\); available: sgd, adam, "),
        ("schedule", "step", "exp", "unknown schedule 'exp'; available: constant, step, linear, cosine"),
    ],
)
def test_ranges_are_those_of_the_table(name, good, bad, message):
    KNOBS[name].check(good)
    with pytest.raises(UserError, match=message):
        KNOBS[name].check(bad)


@pytest.mark.parametrize(
    ("change", "apply", "message"),
    [
        ({"name": "width"}, len, "a knob named 'width' is already registered"),
        ({"default": None}, len, "has no default"),
        ({"default": -1.0}, len, "toy=-1 is out of range; it must be 0 or above"),
        ({}, None, "acts on the inputs and needs a function, apply="),
        ({"acts_on": "build", "is_static": True}, len, "acts on 'build' and takes no apply="),
        ({"acts_on": "optimizer"}, None, "which is reserved for knobs of the package"),
    ],
)
def test_a_knob_that_would_do_nothing_is_refused(change, apply, message):
    before = list(KNOBS)
    with pytest.raises(UserError, match=message):
        register_knob(dataclasses.replace(TOY, **change), apply)
    assert list(KNOBS) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acts_on": "weather"}, "unknown place of the knob 'toy' to act on 'weather'"),
        ({"kind": list}, "has kind=<class 'list'>; available: int, float, str, bool"),
        ({"kind": str}, "takes names, so its values cannot be batched; give is_static=True"),
        ({"acts_on": "length"}, "acts on 'length', so its values cannot be batched"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TOY, **change)
