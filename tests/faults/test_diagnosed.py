"""Planted faults and real situations end to end: `diagnose_model` with settings and history, `cost=0.1`.

Three situations of the default tests take seconds each; `python -m sweeps.faults` runs everything and writes a table.
"""

import functools
import re

import pytest

from mdtree_jax.registry.causes import CAUSES
from tests.faults.diagnosed import diagnose
from tests.faults.hosts import HOSTS
from tests.faults.judged import judged, truth_of
from tests.faults.planted import FAULTS, HEALTHY, make_fault, make_healthy
from tests.faults.situations import SITUATIONS
from tests.faults.training import train

#: Situation -> what the printed answer must say to do.
CHANGE = {
    "relu_as_last_of_ten_classes": "Replace the last ReLU by a softmax",
    "table_in_its_own_units": "Standardize every column of the inputs",
    "rate_too_hot_but_it_learns": "Lower the learning rate|lower the learning rate",
    "batch_of_a_thousand": "a smaller batch at the same price",
    "softmax_over_one_unit": "Replace the softmax by a sigmoid",
    "exclusive_or_with_absolute_error": "Use cross-entropy .or the squared error. in place of this loss",
    "relu_as_a_probability": "Replace the last ReLU by a softmax .a sigmoid for one output",
    "line_learnt_too_slowly": "Raise the learning rate",
    "sigmoid_on_a_regression": "Remove the last activation: a regression wants a linear output",
    "thirty_examples": "Get twice as much training data|Get more training data",
}
#: Causes of which nothing may be said.
FORBIDDEN = {
    "rate_too_hot_but_it_learns": {"trained_too_short"},
    "batch_of_a_thousand": {"too_little_data", "model_too_small"},
    "thirty_examples": {"trained_too_short"},
}
QUICK = ("table_in_its_own_units", "exclusive_or_with_absolute_error", "line_learnt_too_slowly")


@functools.cache
def answer(name):
    if name in SITUATIONS:
        return diagnose(train(SITUATIONS[name].spec))
    return diagnose((make_fault if name in FAULTS else make_healthy)(name))


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SITUATIONS])
def test_situations(name):
    found = answer(name)
    said = " ".join(str(found).split())
    assert judged(name, found) == (True, False), (found.cause, found.causes, truth_of(name))
    assert re.search(CHANGE[name], said)
    told = {found.cause} | {cause for cause, _ in found.causes}
    assert not told & FORBIDDEN.get(name, set())
    # Numbers that are none, names of code, and sentences that ran into each other.
    assert re.findall(r"\bnan\b|\binf\b|[a-z]_[a-z]|\.\.| ,|\{|\}|None", said) == []
    # Beside a fault of the model nothing is answered that presumes that there is none.
    assert not (CAUSES[found.cause].is_fault and found.outlook.answers)


@pytest.mark.slow
def test_planted_faults():
    verdicts = {name: judged(name, answer(name)) for name in FAULTS}
    assert sum(one.is_named for one in verdicts.values()) >= len(FAULTS) - 4, verdicts
    assert sum(one.is_wrong for one in verdicts.values()) <= 1, verdicts


@pytest.mark.slow
def test_healthy_networks():
    verdicts = {name: judged(name, answer(name)) for name in HEALTHY}
    assert sum(one.is_wrong for one in verdicts.values()) <= 1, verdicts


#: Under-trained networks, at a good rate; none may be called too hot.
UNDER_TRAINED = {
    "digits_adam": {"epochs": 1},
    "digits_momentum": {"learning_rate": 0.003, "epochs": 3},
    "digits_norm": {"epochs": 1, "batch_size": 200},
    "images_cnn": {"epochs": 1},
    "wine_softmax": {"epochs": 3},
    "unbalanced_sigmoid": {"epochs": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNDER_TRAINED)
def test_under_trained_networks_are_not_too_hot(name):
    found = diagnose(train(HEALTHY[name].but(**UNDER_TRAINED[name])))
    assert "temperature_too_high" not in {found.cause, *(cause for cause, _ in found.causes)}


#: Framework -> the fault of a network that is given as its model.
ELSEWHERE = {
    "flax": "relu_output_wine",
    "flax.nnx": "unscaled_cancer",
    "equinox": "softmax_one_unit_unbalanced",
    "haiku": "sigmoid_output_diabetes",
    "keras": "saturated_tanh_digits",
    "torch": "rate_x30_digits",
}


@pytest.mark.frameworks
@pytest.mark.slow
@pytest.mark.parametrize("framework", HOSTS)
def test_the_framework_does_not_matter(framework):
    package = framework.partition(".")[0]
    pytest.importorskip(package, reason=f"needs {package}")
    name = ELSEWHERE[framework]
    found = diagnose(make_fault(name), framework)
    assert judged(name, found) == (True, False), (found.cause, found.causes)
