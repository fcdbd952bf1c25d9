"""Data, functions and modules that are diagnosed, and functions that build a module, as `model=` names them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

save = getattr(ocp, "save", None) or ocp.save_pytree
QUICK = {"effort": "fast", "curve_steps": 20, "hessian_images": 40, "similarity_images": 64}


def make_data(num=120, classes=3, seed=0):
    """Points in classes that overlap a little, (n, 6) and (n,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, num)
    return (np.eye(6)[y] + 0.4 * rng.standard_normal((num, 6))).astype(np.float32), y


def apply(params, x):
    return jnp.tanh(x @ params["w1"]) @ params["w2"]


def make_params(seed, hidden=5, classes=3):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (6, hidden), "w2": (hidden, classes)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


class Normalized(nn.Module):
    """A network with running averages, as a user of Flax writes it."""

    features: int = 4

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(self.features)(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(nn.relu(x))


def normalized_networks(module=None, x=None):
    module = module or Normalized()
    x = make_data()[0] if x is None else x
    networks = []
    for seed in (0, 1):
        variables = module.init(jax.random.key(seed), x, False)
        _, state = module.apply(variables, x, True, mutable=["batch_stats"])
        networks.append(jax.tree.map(np.asarray, {**variables, **state}))
    return networks


def build():
    """Return the module, as `model=tests.subject.networks:build` asks for it."""
    return Normalized()


def build_nothing():
    return 3
