"""Frozen parameters: what is measured is that of a model of the trained ones alone, with the others as constants."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import UserError
from mdtree_jax.landscape import recompute_batch_stats
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.subject.adapted import subject_of, unlike_averages
from mdtree_jax.subject.frozen import freeze
from mdtree_jax.subject.measure import measure_subject
from mdtree_jax.subject.network import examples, wrap

QUICK = MeasureConfig(
    ["hessian", "sharpness", "similarity", "connectivity"], "fast", curve_steps=30, hessian_images=40,
    similarity_images=64, trace_products=80, eigenvalue_steps=20,
)  # fmt: skip


def make_data(num=120):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, num)
    return (np.eye(6)[y] + 0.4 * rng.standard_normal((num, 6))).astype(np.float32), y


X, Y = make_data()
ENCODER = 0.3 * np.random.default_rng(9).standard_normal((6, 5), np.float32)


def apply(params, x):
    return jnp.tanh(x @ params["encoder"]["kernel"]) @ params["head"]


def head(seed):
    return np.random.default_rng(seed).standard_normal((5, 3)).astype(np.float32)


def networks():
    return [{"encoder": {"kernel": ENCODER}, "head": head(seed)} for seed in (0, 1)]


def test_metrics_are_those_of_the_model_without_the_frozen_layer():
    frozen = freeze(wrap(apply, networks(), init=lambda key: networks()[0]), ["encoder"])
    constant = wrap(lambda params, x: jnp.tanh(x @ ENCODER) @ params["w"], [{"w": head(s)} for s in (0, 1)])
    assert frozen.notes == ("30 of 45 parameters are frozen, and all metrics are of the others",)
    found, expected = (measure_subject(one, examples(X, Y), resolve(QUICK)).row for one in (frozen, constant))
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    every = measure_subject(wrap(apply, networks()), examples(X, Y), resolve(MeasureConfig(["hessian"], "fast"))).row
    assert every["hessian_trace"] > 1.1 * found["hessian_trace"]
    fresh = frozen.init(jax.random.key(0))
    assert jax.tree.leaves(fresh["params"])[0].shape == (5, 3)
    np.testing.assert_array_equal(jax.tree.leaves(fresh["batch_stats"])[0], ENCODER)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(5, name="encoder")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return nn.Dense(3, name="head")(nn.relu(x))


def tuned(seed, moves=True):
    """A network with the encoder of seed 0, and running averages that moved or did not."""
    first, own = (Net().init(jax.random.key(s), X) for s in (0, seed))
    params = {**own["params"], "encoder": first["params"]["encoder"]}
    shift = seed if moves else 2
    return {"params": params, "batch_stats": jax.tree.map(lambda a: a + 0.1 * shift, own["batch_stats"])}


def test_statistics_between_networks_are_of_the_frozen_weights():
    plain = subject_of(Net(), [tuned(1), tuned(2)], X)
    frozen = freeze(plain, ["encoder.kernel", "*/bias"])
    assert unlike_averages(frozen, X) == []
    assert [leaf.size for leaf in jax.tree.leaves(frozen.variables[0]["params"])] == [15, 5]

    def statistics(subject):
        def apply_train(variables, x):
            outputs, _, state = subject.model.apply(variables, x, True)
            return outputs, {"batch_stats": state}

        variables = subject.variables[0]
        return recompute_batch_stats(apply_train, variables, lambda i: X[:64] + i, 3)

    found, expected = statistics(frozen), statistics(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found["state"], expected)
    jax.tree.map(np.testing.assert_array_equal, found["frozen"], frozen.variables[0]["batch_stats"]["frozen"])
    outputs, state = frozen.apply_train(frozen.variables[0], X, jax.random.key(0))
    expected, _ = plain.apply_train(plain.variables[0], X, jax.random.key(0))
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)
    assert set(state) == {"frozen", "state"}


def test_statistics_that_training_did_not_move_stay():
    fixed = freeze(subject_of(Net(), [tuned(1, moves=False), tuned(2, moves=False)], X), "encoder")
    variables = fixed.variables[0]
    for train in (False, True):
        outputs, _, state = fixed.model.apply(variables, X, train)
        np.testing.assert_allclose(outputs, Net().apply(tuned(1, moves=False), X), rtol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, state, variables["batch_stats"])
    row = measure_subject(fixed, examples(X, Y), resolve(QUICK)).row
    assert np.isfinite(row["mode_connectivity"])


def test_mistakes():
    subject = wrap(apply, networks())
    with pytest.raises(UserError, match=r"frozen=encodr: there is no such parameter \(did you mean 'encoder'\?\)"):
        freeze(subject, "encodr")
    with pytest.raises(UserError, match=r"frozen=encoder,head leaves no parameter that was trained"):
        freeze(subject, ["encoder", "head"])
    with pytest.raises(UserError, match=r"'head' is frozen, but differs between networks 1 and 2"):
        freeze(subject, ["head"])
    assert freeze(subject, []) is subject
