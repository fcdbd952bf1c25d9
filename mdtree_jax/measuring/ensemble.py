"""Two networks of one configuration on held-out data: how they differ, and what averaging them gains. JAX."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from mdtree_jax.landscape.pytrees import tree_dot
from mdtree_jax.measuring.kernels import Binding, Data, PairItem, Results
from mdtree_jax.models import Model
from mdtree_jax.recipe.measure_settings import MeasureSettings
from mdtree_jax.training import ObjectiveFunctions
from mdtree_jax.training.arrays import take_rows


def make_ensemble(model: Model, settings: MeasureSettings, objective: ObjectiveFunctions) -> Callable[..., Results]:
    """Return the measurement of distance, disagreement and ensemble gain of two networks.

    The distance is over the geometric mean of both norms: the same for networks whose weights are larger by a factor.
    The ensemble averages outputs, which are logits where there are classes. What one network predicts is the target of
    the other for the disagreement: a class where targets are integers, else its outputs.
    """

    def measure(item: PairItem, data: Data) -> Results:
        x, y = data.held_out
        num = len(y)
        size = min(settings.statistics_batch_size, num)

        def batch(index: jax.Array) -> jax.Array:
            rows = index * size + jnp.arange(size, dtype=jnp.int32)
            xb, yb = take_rows((x, y), jnp.minimum(rows, num - 1))
            first, second = (model.apply(network, xb, False)[0] for network in (item.first, item.second))
            pairs = (first, yb), (second, yb), ((first + second) / 2, yb), (first, _predicted(objective, second, yb))
            errors = jnp.stack([objective.error(*pair).astype(first.dtype) for pair in pairs])
            return jnp.where(rows < num, errors, 0).sum(axis=1)

        errors = 100 * lax.map(batch, jnp.arange(-(-num // size), dtype=jnp.int32)).sum(axis=0) / num
        errors = objective.error_over_set(errors, y, None)
        mean, together, apart = (errors[0] + errors[1]) / 2, errors[2], errors[3]
        params = item.first["params"], item.second["params"]
        step = jax.tree.map(jnp.subtract, *params)
        norms = [jnp.sqrt(jnp.sqrt(tree_dot(p, p))) for p in params]
        return {
            "distance_ratio": jnp.sqrt(tree_dot(step, step)) / (norms[0] * norms[1]),
            "disagreement": apart,
            # Half an example more, so that two networks without an error have a ratio.
            "disagreement_ratio": apart / (mean + 50 / num),
            "ensemble_gain": together - mean,
        }

    return measure


def _predicted(objective: ObjectiveFunctions, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return what outputs predict, as targets: the likeliest class, which labels are there, or the outputs.

    A token that does not count does not count as a prediction either.
    """
    if objective.targets in ("class", "tokens"):
        likeliest = jnp.argmax(outputs, axis=-1).astype(jnp.int32)
        return jnp.where(targets >= 0, likeliest, targets) if objective.targets == "tokens" else likeliest
    if objective.targets in ("binary", "labels"):
        middle = 0.5 if objective.outputs == "probabilities" else 0
        return (outputs > middle).astype(targets.dtype).reshape(targets.shape)
    return outputs


#: Kernel -> its program.
BINDINGS = {"ensemble": Binding(make_ensemble)}
