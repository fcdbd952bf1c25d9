"""Small networks of `mdtree_jax.models` for the kernels' tests: random parameters and statistics, not trained."""

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.models import build_model

IMAGE = (8, 8, 2)


def random_network(name, width, seed=0, num_classes=5):
    """Return a model in float64 and variables in which no statistic, scale or shift has a special value."""
    model = build_model(name, width, num_classes, IMAGE, "float64")
    return model, random_values(jax.eval_shape(model.init, jax.random.key(0)), seed)


def random_values(shapes, seed=0):
    """Fill a tree of shapes: weights as in a fresh network, vectors from U(.5, 1)."""
    rng = np.random.default_rng(seed)

    def fill(leaf):
        bound = np.prod(leaf.shape[:-1]) ** -0.5
        values = rng.uniform(-bound, bound, leaf.shape) if leaf.ndim > 1 else rng.uniform(0.5, 1, leaf.shape)
        return jnp.asarray(values, jnp.float64)

    return jax.tree.map(fill, shapes)


def images(number, seed=0):
    return jax.random.normal(jax.random.key(100 + seed), (number, *IMAGE), jnp.float64)
