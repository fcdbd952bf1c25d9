"""A language model for tests: the next token from the embedding of this one, as a model's builder."""

import jax

from mdtree_jax.models import Model


def build(width, num_outputs, dtype):
    """Return two matrices, of the vocabulary and `width`."""

    def init(key):
        first, second = jax.random.split(key)
        embed = jax.random.normal(first, (num_outputs, width), dtype)
        head = jax.random.normal(second, (width, num_outputs), dtype) / width**0.5
        return {"params": {"embed": embed, "head": head}, "batch_stats": {}}

    def apply(variables, x, train):
        params = variables["params"]
        return params["embed"][x] @ params["head"], {}, {}

    return Model(init, apply)
