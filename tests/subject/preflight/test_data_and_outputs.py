"""Findings on inputs, labels, last activation and loss, of networks whose fault is written down, not trained."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.diagnosis.findings import TOLD, causes_of
from mdtree_jax.diagnosis.words.findings import advice_sentence
from mdtree_jax.subject.preflight import find_in, gather, preflight
from tests.subject.preflight.problems import cross_entropy, data, fitted, history, names, net, strength, weights

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def test_scales_of_inputs(healthy):
    x = healthy.inputs
    first = healthy.units[0]

    def seen(inputs, first_layer):
        units = (first._replace(size=first_layer),)
        return strength(dataclasses.replace(healthy, inputs=inputs, units=units), "inputs_unscaled")

    assert seen(x, 1.0) == 0
    assert seen(x * 255, 200.0) == 1
    assert seen(x * 255, 1.0) == 0  # normalized within the network
    units = x * np.geomspace(0.05, 3000, x.shape[1])
    assert seen(units, 1000.0) == 1
    assert seen(x * np.geomspace(0.3, 10, x.shape[1]), 6.0) < TOLD
    assert seen((x > 0).astype(np.float32), 1.0) == 0
    assert seen(x.astype(np.int32) * 1000, 500.0) == 0  # tokens


def test_labels_of_other_rows_and_other_names(healthy):
    x, y = data()
    rolled = gather(net(), fitted(x, y), x, np.roll(y, 1), validation=(x, np.roll(y, 1)))
    found = {f.kind: f for f in find_in([rolled])}["labels_unrelated"]
    assert found.is_told
    assert found.values["shift"] == 1
    rng = np.random.default_rng(0)
    mixed = gather(net(), fitted(x, y), x, rng.permutation(y), validation=(x, rng.permutation(y)))
    assert {f.kind: f for f in find_in([mixed])}["labels_unrelated"].values["shift"] is None
    renamed = gather(net(), fitted(x, y), x, (y + 1) % 3)
    assert "labels_relabelled" in names(find_in([renamed]))
    assert strength(healthy, "labels_unrelated") == strength(healthy, "labels_relabelled") == 0


def test_examples_in_order_of_their_labels():
    x, y = data()
    order = np.argsort(y, kind="stable")
    x, y = x[order], y[order]
    good = fitted(x, y)
    assert strength(gather(net(), good, x, y), "unshuffled") == 0  # sorted, and shuffled in training
    forgetful = {**good, "b2": good["b2"] + np.array([-20, -20, 20], np.float32)}
    assert strength(gather(net(), forgetful, x, y), "unshuffled") >= TOLD
    stuck = {**good, "w2": good["w2"] * 0, "b2": np.array([0, 1, 0.5], np.float32)}
    for losses, sure in ((np.full(8, 1.3), 0.95), (1.3 + 1e-3 * np.sin(np.arange(8)), 0.6)):
        found = gather(net(), stuck, x, y, loss=cross_entropy, history=history(losses))
        assert strength(found, "unshuffled") == pytest.approx(sure)  # the same order every time, the same loss


IMAGES = np.random.default_rng(3).uniform(0, 1, (400, 6, 6, 3)).astype(np.float32) ** 2


@pytest.mark.parametrize(
    ("given", "preparation"),
    [
        (IMAGES * 255, "divide by 255"),
        (IMAGES / 255, "multiply by 255"),
        (np.moveaxis(IMAGES, -1, 1), "move the channels to the other end"),
        (IMAGES[..., ::-1], "reverse the order of the channels (RGB, BGR)"),
        (IMAGES, None),
        (np.random.default_rng(8).permutation(IMAGES), None),
    ],
    ids=["255", "1/255", "channels", "order", "as trained", "others"],
)
def test_the_preparation_that_fits_is_named(given, preparation):
    """A network that tells by the colour at some places, with thresholds that suit pixels in 0 to 1."""

    def apply(p, x):
        score = x.reshape(len(x), -1) @ p["w"]
        return jnp.stack([-jnp.square(score - c) for c in (-0.6, -0.3, 0.0, 0.3, 0.6)], 1) + p["b"]

    place = np.zeros((6, 6, 3), np.float32)
    place[2:5, 2:5, 0], place[2:5, 2:5, 2] = 1 / 3, -1 / 3
    params = {"w": place.ravel(), "b": np.zeros(5, np.float32)}
    y = np.asarray(apply(params, IMAGES)).argmax(1).astype(np.int32)
    findings = {f.kind: f for f in preflight(apply, [params], given, y)}
    if preparation is None:
        assert "preprocessing_differs" not in findings
    else:
        assert findings["preprocessing_differs"].is_told
        assert findings["preprocessing_differs"].values["preparation"] == preparation
        assert advice_sentence(findings["preprocessing_differs"]).endswith(preparation)


def test_a_softmax_over_one_unit():
    x, y = data(classes=2)
    findings = preflight(
        net("softmax"),
        [weights(outputs=1)],
        x,
        y[:, None],
        wants="probabilities",
        loss=lambda o, t: ((o - t) ** 2)[:, 0],
    )
    assert {"softmax_over_one_unit", "no_gradient"} <= names(findings)
    assert causes_of(findings) == {"wrong_last_activation": 1.0}
    # A sigmoid that gives exactly 1 in float32 is none.
    params = {**weights(outputs=1), "b2": np.full(1, 30, np.float32)}
    assert "softmax_over_one_unit" not in names(
        preflight(net("sigmoid"), [params], x, y[:, None], wants="probabilities")
    )


@pytest.mark.parametrize(
    ("last", "wants", "kind"),
    [
        ("relu", "probabilities", "relu_output"),
        ("relu", "logits", "relu_output"),
        ("sigmoid", "logits", "bounded_logits"),
        ("tanh", "logits", "bounded_logits"),
        ("linear", "probabilities", "outputs_not_probabilities"),
        ("softmax", "probabilities", None),
        ("linear", "logits", None),
    ],
)
def test_last_activations_of_classifiers(last, wants, kind):
    x, y = data()
    about_outputs = {"relu_output", "bounded_logits", "outputs_not_probabilities", "targets_out_of_reach"}
    found = names(preflight(net(last), [weights()], x, y, wants=wants)) & about_outputs
    assert found == ({kind} if kind else set())


@pytest.mark.parametrize(
    ("last", "low", "high", "is_told"),
    [
        ("sigmoid", 3, 34, True),
        ("sigmoid", 0, 1, False),
        ("tanh", -3, 3, True),
        ("relu", -2, 2, True),
        ("relu", 0, 9, False),
        ("linear", -9, 99, False),
    ],
)
def test_targets_that_the_last_activation_cannot_reach(last, low, high, is_told):
    x, _ = data()
    targets = np.random.default_rng(0).uniform(low, high, (len(x), 1)).astype(np.float32)
    found = names(preflight(net(last), [weights(outputs=1)], x, targets, wants="values"))
    assert ("targets_out_of_reach" in found) == is_told


@pytest.mark.parametrize(
    ("loss", "is_told"),
    [
        (lambda o, t: jnp.abs(o - t)[:, 0], True),
        (lambda o, t: jnp.square(o - t)[:, 0], False),
        (lambda o, t: -(t * jnp.log(o + 1e-7) + (1 - t) * jnp.log(1 - o + 1e-7))[:, 0], False),
    ],
)
def test_the_loss_is_tried_for_a_minimum_at_the_majority(loss, is_told):
    x, y = data(classes=2)
    labels = (y | (x[:, 0] > 0.7)).astype(np.float32)[:, None]
    found = names(preflight(net("sigmoid"), [weights(outputs=1)], x, labels, wants="probabilities", loss=loss))
    assert ("loss_settles_at_majority" in found) == is_told
