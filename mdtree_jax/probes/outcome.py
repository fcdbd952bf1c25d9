"""What a network does on given examples, and how that changed: losses, errors, paired standard errors. JAX.

An example whose outputs or loss are not finite counts as if all outputs were 0, those of a network that has learned
nothing. So a probe that diverges has an outcome, and a table a number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mdtree_jax.landscape.batch_norm import recompute_batch_stats
from mdtree_jax.landscape.pytrees import tree_dot
from mdtree_jax.models import Model
from mdtree_jax.training import ObjectiveFunctions
from mdtree_jax.training.arrays import num_rows, take_rows
from mdtree_jax.training.train import Array

#: Relative movement of a network that diverged, and the most that is told.
MOST_MOVEMENT = 1e6


class Outcome(NamedTuple):
    """Losses and errors of a network on each of n examples, (n,) each.

    Attributes:
        loss: of the objective.
        error: of the objective, a share or 0 and 1.
        is_counted: whether the example counts.
    """

    loss: jax.Array
    error: jax.Array
    is_counted: jax.Array


class Estimate(NamedTuple):
    """A mean over examples and its standard error, scalars."""

    mean: jax.Array
    standard_error: jax.Array


def outcome_of(
    model: Model,
    objective: ObjectiveFunctions,
    variables: Any,
    x: Any,
    y: Any,
    count: jax.Array,
    batch_size: int,
) -> Outcome:
    """Return losses and errors of a network in evaluation mode; the first `count` of the examples count.

    Args:
        model: the network.
        objective: its losses and errors; those relative to a set (of a regression the variance) are divided by its
            scale, so that their mean is that of the set.
        variables: of one network.
        x, y: pytrees of arrays (n, …).
        count: from 1 to n.
        batch_size: examples at a time.
    """
    num = num_rows(y)
    size = min(batch_size, num)
    num_batches = -(-num // size)
    dtype = jax.tree.leaves(variables["params"])[0].dtype

    def batch(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jnp.minimum(index * size + jnp.arange(size, dtype=jnp.int32), num - 1)
        xb, yb = take_rows((x, y), rows)
        outputs = model.apply(variables, xb, False)[0]
        nothing = jax.tree.map(jnp.zeros_like, outputs)
        found, none = ([f(o, yb).astype(dtype) for f in objective[:2]] for o in (outputs, nothing))
        finite = [jnp.isfinite(o).reshape(size, -1).all(axis=1) for o in jax.tree.leaves(outputs)]
        is_finite = jnp.stack(finite).all(axis=0) & jnp.isfinite(found[0]) & jnp.isfinite(found[1])
        loss, error = (jnp.where(is_finite, a, b) for a, b in zip(found, none, strict=True))
        return loss, error

    losses, errors = lax.map(batch, jnp.arange(num_batches, dtype=jnp.int32))
    is_counted = jnp.arange(num, dtype=jnp.int32) < count
    losses = objective.over_set(losses.reshape(-1)[:num], y, is_counted)
    return Outcome(losses, objective.error_over_set(errors.reshape(-1)[:num], y, is_counted), is_counted)


def estimate(values: jax.Array, is_counted: jax.Array) -> Estimate:
    """Return the mean of the values that count and its standard error, NaN for a single one; (n,), (n,) bool."""
    number = is_counted.sum().astype(values.dtype)
    mean = jnp.where(is_counted, values, 0).sum() / number
    squares = jnp.where(is_counted, (values - mean) ** 2, 0).sum()
    return Estimate(mean, jnp.sqrt(squares / (number - 1) / number))


def paired_change(after: Outcome, before: Outcome) -> tuple[Estimate, Estimate]:
    """Return the change of loss and error from `before` to `after`, two outcomes on the same examples.

    The standard errors are those of the mean difference over examples: what both networks do alike has no part in them.
    """
    differences = (after.loss - before.loss, after.error - before.error)
    loss, error = (estimate(difference, after.is_counted) for difference in differences)
    return loss, error


def refreshed(
    model: Model, variables: Any, x: Any, num_samples: Array, batch_size: int, most: int | None = None
) -> Any:
    """Return the variables with running averages recomputed over the first `num_samples` examples, at most `most`.

    They are means over whole batches of `batch_size` examples, of which a smaller set has one that starts over.
    """
    stats = variables["batch_stats"]
    if not jax.tree.leaves(stats):
        return variables
    count = jnp.asarray(num_samples) if most is None else jnp.minimum(num_samples, most)
    rows = jnp.arange(batch_size, dtype=jnp.int32)

    def draw(index: jax.Array) -> Any:
        return take_rows(x, (index * batch_size + rows) % count)

    def apply_train(variables: Any, x: Any) -> tuple[Any, Any]:
        outputs, _, stats = model.apply(variables, x, True)
        return outputs, {"batch_stats": stats}

    num_batches = jnp.maximum(count // batch_size, 1)
    return variables | {"batch_stats": recompute_batch_stats(apply_train, variables, draw, num_batches)}


def movement(params: Any, before: Any) -> jax.Array:
    """Return the distance between two pytrees of parameters over the norm of the second, at most `MOST_MOVEMENT`."""
    step = jax.tree.map(lambda a, b: a - b, params, before)
    moved = jnp.sqrt(tree_dot(step, step)) / jnp.sqrt(tree_dot(before, before))
    return jnp.where(moved < MOST_MOVEMENT, moved, jnp.asarray(MOST_MOVEMENT, moved.dtype))


def is_finite(params: Any) -> jax.Array:
    """Return whether all entries of a pytree are finite, a boolean scalar."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
