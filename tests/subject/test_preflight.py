"""The preflight's findings on networks whose fault is written down, not trained; and what it refuses."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from mdtree_jax import UserError, register
from mdtree_jax.diagnosis.findings import TOLD, Finding, causes_of
from mdtree_jax.diagnosis.words.findings import SENTENCES, advice_sentence, finding_sentence
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.findings import FINDINGS, FindingKind
from mdtree_jax.registry.register import unregister
from mdtree_jax.subject.preflight import find_in, gather, preflight
from mdtree_jax.subject.preflight.outputs import last_activation
from mdtree_jax.subject.preflight.seen import Seen
from mdtree_jax.subject.preflight.task import chance_of, error_of, rows_of, task_of
from mdtree_jax.subject.preflight.units import with_units

LAST = {
    "linear": lambda z: z,
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": jnp.tanh,
    "softmax": nn.softmax,
    "positive": nn.softplus,
}


def net(last="linear", hidden=nn.relu):
    """A function of parameters w1, b1, w2, b2."""
    return lambda p, x: LAST[last](hidden(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])


def weights(seed=0, inputs=6, hidden=16, outputs=3, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        "w1": (scale * rng.standard_normal((inputs, hidden)) / np.sqrt(inputs)).astype(np.float32),
        "b1": np.zeros(hidden, np.float32),
        "w2": (rng.standard_normal((hidden, outputs)) / np.sqrt(hidden)).astype(np.float32),
        "b2": np.zeros(outputs, np.float32),
    }


def data(num=300, inputs=6, classes=3, seed=0):
    """Points around the centres of classes, (n, inputs) and (n,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, num).astype(np.int32)
    centres = np.random.default_rng(1).standard_normal((classes, inputs))
    return (centres[y] + 0.5 * rng.standard_normal((num, inputs))).astype(np.float32), y


def cross_entropy(outputs, targets):
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], 1)[:, 0]


def names(findings):
    return {finding.kind for finding in findings if finding.is_told}


def strength(evidence, kind):
    return next((finding.strength for finding in find_in([evidence]) if finding.kind == kind), 0.0)


# --- what is looked at ---


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_last_activation_is_seen_whatever_the_network_gives_out(last, outputs):
    """Also where this network gives 0.4 to 0.6 only, or exactly 0 for every example."""
    x, y = data()
    for bias in (0.0, -50.0):
        params = {**weights(outputs=outputs, scale=0.01), "b2": np.full(outputs, bias, np.float32)}
        evidence = gather(net(last), params, x, y[:, None] * 0.37, wants="values")
        name, sure = last_activation(evidence)
        assert (name, sure) == (last, 1.0), bias


def test_units_are_those_of_the_program_and_gates_are_none_of_them():
    def function(w, x):
        @jax.jit
        def inner(x):
            return jnp.tanh(x @ w)

        h = nn.relu(inner(x))
        return nn.gelu(h, approximate=True) + nn.silu(h), nn.sigmoid(h)

    x, w = np.random.default_rng(0).standard_normal((7, 4)), np.eye(4)
    outputs, units = jax.jit(lambda w, x: jax.tree.map(jnp.asarray, with_units(function)(w, x)[0]))(w, x), None
    with jax.disable_jit(False):
        _, units = with_units(function)(w, x)
    assert [(unit.function, unit.is_gate) for unit in units] == [
        ("tanh", False),
        ("relu", False),
        ("tanh", True),
        ("sigmoid", True),
        ("sigmoid", False),
    ]
    np.testing.assert_allclose(units[0].values, np.tanh(x), rtol=1e-5)
    np.testing.assert_allclose(units[1].values, np.maximum(np.tanh(x), 0), rtol=1e-5)
    for ours, theirs in zip(outputs, function(w, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "targets", "wants", "task"),
    [
        ((4, 3), np.array([0, 1, 2, 0]), "logits", "classes"),
        ((4, 3), np.eye(3)[[0, 1, 2, 0]], "probabilities", "classes"),
        ((4, 3), np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]]), "logits", "labels"),
        ((4, 1), np.array([0, 1, 1, 0]), "probabilities", "labels"),
        ((4,), np.array([0.0, 1, 1, 0]), "values", "labels"),
        ((4, 1), np.array([[3.0], [4], [0], [1]]), "values", "values"),
        ((4, 5, 3), np.zeros((4, 5), np.int32), "logits", "classes"),
        ((4, 3), np.full((4, 3), 1 / 3), "logits", "classes"),
    ],
)
def test_tasks(shape, targets, wants, task):
    outputs = np.zeros(shape)
    assert task_of(outputs, targets, wants) == task
    flat, flat_targets = rows_of(task, outputs, targets)
    assert flat.ndim == 2 and len(flat) == len(flat_targets)  # noqa: PT018


def test_errors_and_their_chance():
    outputs, targets = np.array([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]), np.array([1, 0, 1, 1])
    assert error_of("classes", "probabilities", outputs, targets) == 50
    assert chance_of("classes", targets) == 25
    assert error_of("labels", "logits", np.array([[-1.0], [0.3]]), np.array([[0], [1]])) == 0
    values = np.array([[1.0], [3.0]])
    assert error_of("values", "values", np.full((2, 1), 2.0), values) == chance_of("values", values) == 100
    padded = np.array([0, -1, 1, -1])  # tokens that do not count
    assert len(rows_of("classes", np.zeros((4, 2)), padded)[1]) == 2


# --- findings ---


def test_nothing_is_told_of_a_fitted_network():
    x, y = data()
    params = fitted(x, y)
    assert (
        names(preflight(net(), [params, fitted(x, y, 1)], x, y, loss=cross_entropy, validation=data(seed=2))) == set()
    )


def fitted(x, y, seed=0, steps=150, apply=None, params=None):
    """Full-batch gradient descent in closed code, seconds at most."""
    apply, params = apply or net(), params or weights(seed)
    update = jax.jit(
        lambda p: jax.tree.map(lambda a, g: a - 0.5 * g, p, jax.grad(lambda p: cross_entropy(apply(p, x), y).mean())(p))
    )
    for _ in range(steps):
        params = update(params)
    return jax.tree.map(np.asarray, params)


@pytest.fixture(scope="module")
def healthy():
    x, y = data()
    return gather(net(), fitted(x, y), x, y, loss=cross_entropy, validation=data(seed=2))


def history(losses, steps=400, **columns):
    step = np.linspace(steps / len(losses), steps, len(losses))
    return pd.DataFrame({"epoch": np.arange(1, len(losses) + 1), "step": step, "train_loss": losses, **columns})


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
    assert strength(dataclasses.replace(healthy, params=large), "weights_too_large") == 1
    bad = dataclasses.replace(healthy, outputs=-healthy.outputs, fresh=params)
    small = {**params, "w1": params["w1"] / 10, "w2": params["w2"] / 10}
    assert strength(dataclasses.replace(bad, params=small), "weights_shrunk") == 1
    assert strength(bad, "weights_shrunk") == 0
    assert strength(dataclasses.replace(healthy, params=small, fresh=params), "weights_shrunk") == 0  # it does well
    assert strength(dataclasses.replace(healthy, params=params, initial=params), "never_moved") == 1
    assert strength(dataclasses.replace(healthy, initial=params), "never_moved") == 0


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


# --- refusals ---


def test_refusals():
    x, y = data()
    params = weights()
    calls = iter(range(99))

    def changing(p, x):
        return jax.pure_callback(lambda: np.float32(next(calls)), jnp.float32(0)) + net()(p, x)

    with pytest.raises(UserError, match="deterministic"):
        preflight(changing, [params], x, y)
    with pytest.raises(UserError, match="dropout"):
        preflight(lambda p, x: net()(p, x) * jax.random.bernoulli(jax.random.key(0), 0.5, (len(x), 1)), [params], x, y)
    with pytest.raises(UserError, match=r"the targets hold the label 7, but the model gives 3 outputs"):
        preflight(net(), [params], x, np.where(y == 1, 7, y))
    with pytest.raises(UserError, match=r"numbers for an example"):
        preflight(net(), [params], x, x, wants="values")
    with pytest.raises(UserError, match=r"outputs='probabilities'"):
        preflight(net("softmax"), [params], x, y)


# --- the table ---


def test_every_finding_is_complete():
    for name, kind in FINDINGS.items():
        assert (FINDINGS.bound(name, "find") is None) != (FINDINGS.bound(name, "compare") is None)
        assert name in SENTENCES
        assert kind.meaning
        assert kind.holds
        assert kind.cause is None or (kind.cause in CAUSES and kind.change)


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


def test_weights_that_training_blew_up(healthy):
    params = weights()
    large = {**params, "w1": params["w1"] * 8, "w2": params["w2"] * 8}
    bad = dataclasses.replace(healthy, outputs=-healthy.outputs, params=large, fresh=params)
    assert "weights_grown" in names(find_in([bad]))
    assert "weights_too_large" not in names(find_in([bad]))
    assert strength(dataclasses.replace(bad, outputs=healthy.outputs), "weights_grown") == 0  # it does well


def test_inputs_of_any_kind():
    """Tokens, a dictionary of arrays, one output without an axis: nothing breaks, nothing is told of a good network."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 11, (200, 6)).astype(np.int32)
    table = {"t": (6 * np.eye(11)).astype(np.float32)}
    assert names(preflight(lambda p, x: p["t"][x], [table], tokens, tokens, loss=lambda o, t: -o.mean((1, 2)))) == set()
    both = {"a": rng.standard_normal((200, 3)).astype(np.float32), "b": rng.integers(0, 5, (200,))}
    target = both["a"].sum(1)

    def apply(p, x):
        return x["a"] @ p["w"] + p["e"][x["b"]] * 0

    params = {"w": np.ones(3, np.float32), "e": np.ones(5, np.float32)}
    found = preflight(apply, [params], both, target, wants="values", loss=lambda o, t: jnp.square(o - t))
    assert names(found) == set()


def test_a_finding_of_ones_own(healthy):
    kind = FindingKind("too_blue", "blue inputs", "always", ("hue",), "paint them red", "wrong_loss")
    register(kind, find=lambda evidence: Seen(0.8, {"hue": 240}), say=lambda hue: f"the inputs have a hue of {hue}")
    try:
        (found,) = (finding for finding in find_in([healthy]) if finding.kind == "too_blue")
        assert finding_sentence(found) == "the inputs have a hue of 240"
        assert found.to_dict() == {"kind": "too_blue", "strength": 0.8, "cause": "wrong_loss", "hue": 240}
        assert causes_of([found, Finding("flat_loss", 1.0, {"fall": 0.0})]) == {"wrong_loss": 0.8}
    finally:
        unregister(kind)
    with pytest.raises(UserError, match="cause of the finding"):
        FindingKind("x", "", "", cause="nonsense")
