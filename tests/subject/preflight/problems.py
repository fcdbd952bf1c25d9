"""Small networks with a fault that is written down, their data, and what is found of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from mdtree_jax.subject.preflight import find_in

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


def fitted(x, y, seed=0, steps=150, apply=None, params=None):
    """Full-batch gradient descent in closed code, seconds at most."""
    apply, params = apply or net(), params or weights(seed)
    update = jax.jit(
        lambda p: jax.tree.map(lambda a, g: a - 0.5 * g, p, jax.grad(lambda p: cross_entropy(apply(p, x), y).mean())(p))
    )
    for _ in range(steps):
        params = update(params)
    return jax.tree.map(np.asarray, params)


def history(losses, steps=400, **columns):
    step = np.linspace(steps / len(losses), steps, len(losses))
    return pd.DataFrame({"epoch": np.arange(1, len(losses) + 1), "step": step, "train_loss": losses, **columns})
