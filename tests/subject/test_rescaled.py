"""A network that computes the same, or nearly, keeps its verdict: layers rescaled, logits scaled, labels smoothed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdtree_jax import UserError, diagnose_metrics, diagnose_model
from mdtree_jax.diagnosis.words.outlook import headline

_SETTINGS = {"learning_rate": 0.1, "batch_size": 20, "epochs": 20, "momentum": 0.9}


def make_data(num=600):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, num)
    return (np.eye(6)[y] + 0.5 * rng.standard_normal((num, 6))).astype(np.float32), y


def apply(p, x):
    return jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


def make_params(seed):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (6, 16), "b1": (16,), "w2": (16, 3), "b2": (3,)}
    return {name: (0.4 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def trained(seed, smoothing=0.0):
    x, y = make_data()
    x, targets = jnp.asarray(x), jnp.eye(3)[y] * (1 - smoothing) + smoothing / 3
    params, optimizer = make_params(seed), optax.sgd(0.1, momentum=0.9)

    def loss(p, rows):
        return -(jax.nn.log_softmax(apply(p, x[rows])) * targets[rows]).sum(1).mean()

    @jax.jit
    def step(p, state, rows):
        updates, state = optimizer.update(jax.grad(loss)(p, rows), state)
        return optax.apply_updates(p, updates), state

    state, rng = optimizer.init(params), np.random.default_rng(seed)
    for _ in range(20):
        for rows in rng.permutation(400).reshape(20, 20):
            params, state = step(params, state, rows)
    return jax.tree.map(np.asarray, params)


def layers(p):
    """ReLU is homogeneous: the outputs are the same."""
    return {"w1": 8 * p["w1"], "b1": 8 * p["b1"], "w2": p["w2"] / 8, "b2": p["b2"]}


def logits(p):
    return p | {"w2": 3 * p["w2"], "b2": 3 * p["b2"]}


def answer(networks, **more):
    x, y = make_data()
    sides = [(x[a:b], y[a:b]) for a, b in ((0, 400), (400, 500), (500, 600))]
    training = _SETTINGS | more
    found = diagnose_model(apply, networks, sides[0], validation=sides[1], test=sides[2], training=training, cost=0,
                           init=lambda key: make_params(0), measure={"effort": "fast"})  # fmt: skip
    return found.cause, found.abstains, found.outlook.moves[0].remedy


@pytest.mark.slow
def test_rescaled_and_smoothed_networks_keep_their_verdict():
    networks = [trained(0), trained(1)]
    plain = answer(networks)
    for change in (layers, logits):
        assert answer([change(p) for p in networks]) == plain, change.__name__
    assert answer([trained(0, 0.1), trained(1, 0.1)], label_smoothing=0.1) == plain


def test_probabilities_where_logits_are_wanted_are_refused():
    x, y = make_data(120)
    with pytest.raises(UserError, match=r"the outputs are probabilities .*, and logits are expected"):
        diagnose_model(lambda p, x: jax.nn.softmax(apply(p, x)), [make_params(0)], (x, y), cost=0)


@pytest.mark.parametrize("evidence", ["all", "landscape"])
@pytest.mark.parametrize("trace", [2.0, 6.0, 9.0])
def test_where_nothing_can_be_gained_nothing_is_promised(evidence, trace):
    row = {"train_error": 0.0, "validation_error": 0.0, "test_error": 0.0, "num_classes": 10}
    row |= {"log_hessian_trace": trace, "mode_connectivity_peak": -5.0}
    (found,) = diagnose_metrics(row, units="percent", evidence=evidence)
    assert found.expected_gain is None or found.expected_gain.mean <= 0
    assert all(gain.mean <= 0 for gain in found.gains.values())
    if evidence == "all":
        assert headline(found) == "Held-out error 0 %: there is nothing to gain"
        assert all(move.gain <= 0 for move in found.outlook.moves)
