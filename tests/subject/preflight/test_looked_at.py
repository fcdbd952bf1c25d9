"""What the preflight looks at, what it refuses, and the table of its findings."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import UserError, register
from mdtree_jax.diagnosis.findings import Finding, causes_of
from mdtree_jax.diagnosis.words.findings import SENTENCES, finding_sentence
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.findings import FINDINGS, FindingKind
from mdtree_jax.registry.register import unregister
from mdtree_jax.subject.preflight import find_in, gather, preflight
from mdtree_jax.subject.preflight.outputs import last_activation
from mdtree_jax.subject.preflight.seen import Seen
from mdtree_jax.subject.preflight.task import chance_of, error_of, rows_of, task_of
from mdtree_jax.subject.preflight.units import with_units
from tests.subject.preflight.problems import LAST, cross_entropy, data, fitted, names, net, weights

pytestmark = pytest.mark.usefixtures("quickly_compiled")


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


def test_nothing_is_told_of_a_fitted_network():
    x, y = data()
    params = fitted(x, y)
    assert (
        names(preflight(net(), [params, fitted(x, y, 1)], x, y, loss=cross_entropy, validation=data(seed=2))) == set()
    )


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


def test_every_finding_is_complete():
    for name, kind in FINDINGS.items():
        assert (FINDINGS.bound(name, "find") is None) != (FINDINGS.bound(name, "compare") is None)
        assert name in SENTENCES
        assert kind.meaning
        assert kind.holds
        assert kind.cause is None or (kind.cause in CAUSES and kind.change)


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
