"""Findings on units, weights, statistics and histories, of networks whose fault is written down, not trained."""

import dataclasses

import numpy as np
import pytest

from mdtree_jax.diagnosis.findings import TOLD, causes_of
from mdtree_jax.subject.preflight import find_in, gather, preflight
from tests.subject.preflight.problems import LAST, cross_entropy, data, fitted, history, names, net, strength, weights

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.mark.parametrize("hidden", ["relu", "tanh", "sigmoid"])
def test_dead_and_saturated_units(hidden):
    x, y = data()
    kind = "dead_units" if hidden == "relu" else "saturated_units"
    for bias, is_told in ((0.0, False), (-60.0, True)):
        params = {**weights(), "b1": np.where(np.arange(16) < 13, bias, 0).astype(np.float32)}
        evidence = gather(net(hidden=LAST[hidden]), params, x, y, loss=cross_entropy)
        found = {f.kind: f for f in find_in([evidence]) if f.is_told}
        assert (kind in found) == is_told
        if is_told:
            assert found[kind].values["share"] == pytest.approx(13 / 16, abs=0.02)
    if hidden == "relu":  # what cannot be traced is seen in the gradient
        assert strength(dataclasses.replace(evidence, units=None), kind) >= TOLD


def test_weights_that_are_alike_large_shrunk_or_where_they_were(healthy):
    params = weights()
    alike = {**params, "w1": np.repeat(params["w1"][:, :1], 16, 1)}
    zero = {**params, "w1": params["w1"] * 0}
    for one in (alike, zero):
        assert strength(dataclasses.replace(healthy, params=one), "identical_units") == 1
    large = {**params, "w1": params["w1"] * 10}
    assert strength(dataclasses.replace(healthy, params=large), "weights_too_large") == 1  # as they were drawn
    bad = dataclasses.replace(healthy, outputs=-healthy.outputs, fresh=params)
    small = {**params, "w1": params["w1"] / 10, "w2": params["w2"] / 10}
    assert strength(dataclasses.replace(bad, params=small), "weights_shrunk") == 1
    assert strength(dataclasses.replace(bad, params=small, training={"weight_decay": 0.0}), "weights_shrunk") == 0
    unknown = dataclasses.replace(bad, params=small, fresh=None)
    assert strength(unknown, "weights_shrunk") == 0  # a small start and a decay look alike
    assert strength(dataclasses.replace(unknown, training={"weight_decay": 0.1}), "weights_shrunk") == 1
    assert strength(bad, "weights_shrunk") == 0
    assert strength(dataclasses.replace(healthy, params=small, fresh=params), "weights_shrunk") == 0  # it does well
    assert strength(dataclasses.replace(healthy, params=params, initial=params), "never_moved") == 1
    assert strength(dataclasses.replace(healthy, initial=params), "never_moved") == 0


def test_weights_that_training_blew_up(healthy):
    params = weights()
    large = {**params, "w1": params["w1"] * 8, "w2": params["w2"] * 8}
    bad = dataclasses.replace(healthy, outputs=-healthy.outputs, params=large, fresh=params)
    assert "weights_grown" in names(find_in([bad]))
    assert "weights_too_large" not in names(find_in([bad]))
    assert strength(dataclasses.replace(bad, outputs=healthy.outputs), "weights_grown") == 0  # it does well


@pytest.mark.parametrize("trained", ["few directions", "few weights", "biases"])
def test_weights_that_were_drawn_large_and_weights_that_training_blew_up(healthy, trained):
    """Without the start: drawn numbers fill all directions alike, and their biases start from 0."""
    rng = np.random.default_rng(1)
    drawn = rng.standard_normal((40, 16)).astype(np.float32) * 12 / np.sqrt(40)
    grown = {
        "few directions": drawn[:, :1] * np.sign(drawn[:1]) + 0.2 * drawn,
        "few weights": 12 * drawn * (rng.random(drawn.shape) < 0.02) + drawn / 10,
        "biases": drawn,
    }[trained]
    bad = dataclasses.replace(healthy, outputs=-healthy.outputs)
    small = np.zeros(16, np.float32)
    large = np.full(16, 2.0, np.float32)
    first = dataclasses.replace(bad, params={"w1": drawn, "b1": small})
    assert (strength(first, "weights_too_large"), strength(first, "weights_grown")) == (1, 0)
    later = dataclasses.replace(bad, params={"w1": grown, "b1": large if trained == "biases" else small})
    assert strength(later, "weights_too_large") < TOLD <= strength(later, "weights_grown")


def test_statistics_that_do_not_move():
    x, y = data()
    variables = {"params": weights(), "batch_stats": {"mean": np.zeros(3, np.float32)}}

    def apply(v, x):
        return net()(v["params"], x) - v["batch_stats"]["mean"]

    for moved in (0, 1):
        found = preflight(
            apply, [variables], x, y, apply_train=lambda v, x, by=moved: (0, {"batch_stats": {"mean": np.full(3, by)}})
        )
        assert ("statistics_do_not_move" in names(found)) == (moved == 0)


@pytest.mark.parametrize(
    ("losses", "kind"),
    [
        (2.3 - 0.01 * np.arange(20), "straight_loss"),
        (2.3 * 0.9 ** np.arange(20), "falling_at_end"),
        (np.where(np.arange(20) % 3 == 2, 1.5, 0.6), "unstable_loss"),
        (np.where(np.arange(20) > 12, np.nan, 1.0), "unstable_loss"),
        (np.where(np.arange(20) > 12, np.inf, 1.0), "unstable_loss"),
        (0.5 + 1.8 * np.exp(-np.arange(20.0)), None),
        (2.3 + 1e-4 * np.sin(np.arange(20)), "flat_loss"),
    ],
)
def test_shapes_of_the_loss(healthy, losses, kind):
    """Of a network that is wrong on most examples, with 400 steps."""
    bad = dataclasses.replace(healthy, outputs=-healthy.outputs, validation=None, history=history(losses))
    curves = {"straight_loss", "falling_at_end", "unstable_loss", "flat_loss", "few_steps"}
    found = names(find_in([bad])) & curves
    assert found == ({kind} if kind else set())
    if kind in ("straight_loss", "falling_at_end"):  # a network that does well may fall as it likes
        assert not names(find_in([dataclasses.replace(bad, outputs=healthy.outputs)])) & curves


def test_a_history_tells_nothing_of_the_rate_of_a_network_that_cannot_learn(healthy):
    jumping = history(np.where(np.arange(20) % 3 == 2, 1.5, 0.6))
    bad = dataclasses.replace(healthy, outputs=-healthy.outputs, history=jumping)
    assert strength(bad, "unstable_loss") >= TOLD
    confined = dataclasses.replace(
        bad, possible=np.abs(healthy.outputs)[None, :, :].reshape(-1, 3) * (np.arange(3) > 0)
    )
    confined = dataclasses.replace(confined, outputs=np.maximum(bad.outputs, 0))
    assert causes_of(find_in([confined])).get("wrong_last_activation") == 1
    assert 0 < strength(confined, "unstable_loss") < TOLD


def test_few_steps_and_a_wide_gap(healthy):
    bad = dataclasses.replace(healthy, outputs=-healthy.outputs, validation=None)
    short = dataclasses.replace(bad, training={"steps": 15, "batch_size": 1000})
    assert "few_steps" in names(find_in([short]))
    assert strength(dataclasses.replace(bad, training={"steps": 5000}), "few_steps") == 0
    gap = dataclasses.replace(healthy, validation=(healthy.targets, -healthy.outputs))
    assert "wide_gap" in names(find_in([gap]))
    from_history = history([1.0] * 4, validation_error=[60.0, 50, 40, 40])
    assert "wide_gap" in names(find_in([dataclasses.replace(healthy, validation=None, history=from_history)]))


def test_two_networks_of_one_run_and_of_two(healthy):
    x, y = data()
    first, other = fitted(x, y), fitted(x, y, 1)
    later = fitted(x, y, steps=60, params=first)
    for second, kind in ((first, "same_network"), (later, "epochs_of_one_run"), (other, None)):
        found = names(preflight(net(), [first, second], x, y)) & {"same_network", "epochs_of_one_run"}
        assert found == ({kind} if kind else set())
