import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import check_apply, check_loss
from tests.landscape.problems import regression, tiny_network


def test_sound_losses_and_networks_pass():
    outputs, _, loss, params, data = tiny_network()
    check_loss(loss, params, data)
    check_loss(lambda p: loss(p, data), params)
    check_loss(loss, params, jax.tree.map(lambda a: a[:1], data))
    check_apply(outputs, params, data)
    check_apply(outputs, params, jax.tree.map(lambda a: a[:1], data))


def test_rounding_is_no_fault():
    outputs, _, loss, params, data = tiny_network(rows=200)
    params, data = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, (params, data))
    params = params | {"c": 30 * params["c"]}
    check_loss(loss, params, data)
    check_apply(outputs, params, data)
    # A loss near zero is a difference of large logits.
    right = outputs(params, data).argmax(1)
    check_loss(loss, params | {"c": 30 * params["c"]}, (data[0], right))


def faulty(kind):
    """Return a network (params, x) with a fault."""
    calls = itertools.count()

    def apply(params, x):
        z = x @ params["a"]
        if kind == "dropout":
            z = jnp.where(jax.random.bernoulli(jax.random.key(1), 0.5, z.shape), z, 0)
        if kind == "stateful dropout":
            z = jnp.where(jax.random.bernoulli(jax.random.key(next(calls)), 0.5, z.shape), z, 0)
        if kind == "batchnorm":
            z = (z - z.mean(0)[None]) / jnp.sqrt(z.var(0) + 1e-5)[None]
        return jnp.tanh(z) @ params["c"]

    return apply


@pytest.mark.parametrize(
    ("kind", "of_loss", "of_apply"),
    [
        ("dropout", "rows of the data in another order.*dropout", "same example twice in a batch.*dropout"),
        ("stateful dropout", "second call .*deterministic.*dropout", "differ between two calls .*dropout"),
        ("batchnorm", "two halves.*BatchNorm in training mode", "depends on the other examples.*BatchNorm"),
    ],
)
def test_dropout_and_batchnorm_in_training_mode_are_named(kind, of_loss, of_apply):
    _, _, _, params, data = tiny_network()
    with pytest.raises(UserError, match=of_apply):
        check_apply(faulty(kind), params, data[0])
    apply = faulty(kind)
    with pytest.raises(UserError, match=of_loss):
        check_loss(lambda p, d: (apply(p, d[0]) ** 2).mean(), params, data)


def test_faulty_losses_and_parameters_are_one_sentence():
    loss, params, data, _ = regression()

    def check(loss, params=params, data=data):
        check_loss(loss, params, data)

    cases = [
        (lambda: check(lambda p, d: d[1]), r"the loss has shape \(7,\); it must be a scalar"),
        (lambda: check(lambda p, d: jnp.int32(1)), "the loss has type int32"),
        (lambda: check(lambda p, d: loss(p, d) * np.nan), "the loss is nan at the given parameters; it must be finite"),
        (lambda: check(lambda p, d: loss(p, d) * np.inf), "the loss is inf"),
        (lambda: check(lambda p, d: ((d[0] @ p["weight"]) ** 2).sum()), "is the sum over the rows"),
        (lambda: check(loss, {}), "the parameters are empty"),
        (lambda: check(loss, {"a": jnp.zeros((0, 3))}), "the parameters are empty"),
        (lambda: check(loss, params | {"n": jnp.arange(2)}), r"parameter \['n'\] has type int64"),
        (lambda: check(loss, params, jax.tree.map(lambda a: a[:0], data)), "is an empty batch"),
        (lambda: check_apply(lambda p, x: x.T, params, data[0]), r"outputs of 7 examples have shape \(4, 7\)"),
        (lambda: check_apply(lambda p, x: x * np.nan, params, data[0]), "outputs .* are not finite"),
        (lambda: check_apply(lambda p, x: x, params, data[0][:0]), "is an empty batch"),
    ]
    values = iter([1.0, np.nan])
    cases.append(
        (lambda: check(lambda p, d: jnp.float64(next(values))), "the loss is 1.0 at first and nan in a second")
    )
    two = jnp.asarray([[1.0, 2.0], [3.0, 5.0]])  # normalised over one row: 0 / 0
    cases.append(
        (
            lambda: check_apply(lambda p, x: (x - x.mean(0, keepdims=True)) / x.std(0, keepdims=True), params, two),
            "an example's output depends on the other examples of its batch; this looks like BatchNorm",
        )
    )
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()
    check(lambda p, d: loss(p, d) * 7)  # a multiple of a mean is a mean
