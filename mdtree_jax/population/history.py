"""Learning curves: points of every network's training, recorded inside the compiled program. JAX.

A point is an epoch: its mean training loss, and the network at its end evaluated on the validation set. Recording reads
the state of training and writes beside it, so the networks are the same bit for bit with and without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mdtree_jax.models import Model
from mdtree_jax.recipe.cohort import Cohort, Recipe
from mdtree_jax.training import TrainState, evaluate
from mdtree_jax.training.train import Array


class Recorder(NamedTuple):
    """What is recorded of a network.

    Attributes:
        epochs: recorded ones, from 1, increasing; the last epoch trained is recorded in addition, in the place of those
            after it.
        evaluate: `evaluate(variables, x, y) -> (mean loss, errors)` on the validation set; None without one.
    """

    epochs: tuple[int, ...]
    evaluate: Callable[..., tuple[jax.Array, jax.Array]] | None


class History(NamedTuple):
    """Points of learning curves; arrays (networks, points), of which those after the last epoch trained mean nothing.

    Attributes:
        train_loss: mean over the epoch's batches, as the optimizer saw it.
        validation: loss and errors on the validation set; empty without one.
    """

    train_loss: Array
    validation: tuple[Array, ...]


def recorded_epochs(num_epochs: int, num_points: int) -> tuple[int, ...]:
    """Return at most `num_points` of the epochs 1 … `num_epochs`, evenly spread, the last one among them.

    >>> recorded_epochs(10, 4), recorded_epochs(3, 32)
    ((3, 5, 8, 10), (1, 2, 3))
    """
    number = min(num_epochs, num_points)
    return tuple(-(-num_epochs * point // number) for point in range(1, number + 1))


def make_recorder(recipe: Recipe, cohort: Cohort, model: Model, *, has_validation: bool) -> Recorder | None:
    """Return what is recorded of the networks of a cohort, None for nothing."""
    num_points = recipe.recorded_points(has_validation=has_validation)
    if num_points == 0:
        return None

    def on_validation(variables: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return evaluate(model, variables, x, y, jnp.int32(y.shape[0]), recipe.eval_batch_size, recipe.objective)

    epochs = recorded_epochs(cohort.train_epochs, num_points)
    return Recorder(epochs, on_validation if has_validation else None)


def start_history(recorder: Recorder, variables: Any, num_slots: int, validation: tuple[Any, ...]) -> History:
    """Return the history before training, of zeros (NumPy); `variables` are of one network, and may be shapes."""
    dtype = jax.tree.leaves(variables["params"])[0].dtype
    found = [] if recorder.evaluate is None else jax.eval_shape(recorder.evaluate, variables, *validation)
    zeros = functools.partial(np.zeros, (num_slots, len(recorder.epochs)))
    return History(zeros(dtype), tuple(zeros(leaf.dtype) for leaf in found))


def record_epoch(
    recorder: Recorder, history: History, lane: TrainState, slot: jax.Array, validation: tuple[jax.Array, ...]
) -> History:
    """Return the history with the epoch that the network of `slot` has just ended, if it is one to record.

    A slot of -1 is none.
    """
    epochs = jnp.array(recorder.epochs, jnp.int32)
    epoch = lane.record.epoch
    place = jnp.minimum((epochs < epoch).sum(dtype=jnp.int32), len(recorder.epochs) - 1)
    is_recorded = (slot >= 0) & (lane.record.is_done | (epochs[place] == epoch))

    def write(history: History) -> History:
        found = () if recorder.evaluate is None else recorder.evaluate(lane.variables, *validation)
        return jax.tree.map(
            lambda leaf, value: leaf.at[slot, place].set(value), history, History(lane.record.last_loss, tuple(found))
        )

    return lax.cond(is_recorded, write, lambda history: history, history)


def record_epochs(
    recorder: Recorder, history: History, lanes: TrainState, slots: jax.Array, validation: tuple[jax.Array, ...]
) -> History:
    """Return the history with the epochs that networks of several lanes have ended together, as `record_epoch`.

    `slots` has one for every lane, -1 for one that has not ended an epoch.
    """
    epochs, epoch = jnp.array(recorder.epochs, jnp.int32), lanes.record.epoch
    places = jnp.minimum((epochs < epoch[:, None]).sum(1, dtype=jnp.int32), len(recorder.epochs) - 1)
    is_recorded = (slots >= 0) & (lanes.record.is_done | (epochs[places] == epoch))
    rows = jnp.where(is_recorded, slots, history.train_loss.shape[0])  # beyond the end is dropped

    def write(history: History) -> History:
        found = ()
        if recorder.evaluate is not None:
            found = jax.vmap(lambda variables: recorder.evaluate(variables, *validation))(lanes.variables)  # pyright: ignore[reportOptionalCall]
        new = History(lanes.record.last_loss, tuple(found))
        return jax.tree.map(lambda leaf, values: leaf.at[rows, places].set(values, mode="drop"), history, new)

    return lax.cond(is_recorded.any(), write, lambda history: history, history)


def curves(
    recorder: Recorder, history: dict[str, np.ndarray], num_epochs: np.ndarray, steps_per_epoch: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the points that were recorded, one below the other: `member`, `epoch`, `step` and what `history` holds.

    Args:
        recorder: that recorded.
        history: name -> (members, points).
        num_epochs: trained, (members,).
        steps_per_epoch: (members,).
    """
    epochs, last = np.array(recorder.epochs), num_epochs[:, None]
    is_before = epochs < last
    # The point after the last epoch that was passed is the one training ended at.
    is_last = np.arange(len(epochs)) == is_before.sum(1, keepdims=True)
    member, place = np.nonzero(is_before | is_last)
    epoch = np.minimum(epochs[place], num_epochs[member])
    return {
        "member": member,
        "epoch": epoch,
        "step": epoch * steps_per_epoch[member],
        **{name: values[member, place] for name, values in history.items()},
    }
