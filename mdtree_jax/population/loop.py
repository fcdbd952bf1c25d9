"""The compiled program that trains a population: lanes of members, stepped together, each with a queue. JAX.

One call runs every device for a given number of steps, then gives the state back (donated, so in place). Devices run
on their own, without talking to each other. A lane that ends an epoch applies the early-stop rule and draws the next
order; one whose member is done writes its network to the slot it came from and starts the next of its queue.

There are two forms of the loop (`mdtree_jax.lowering`). A CPU steps exactly until the next lane is due, and ends its
epoch alone. An accelerator steps in blocks of a length the compiler knows, in which lanes that reach the end of their
epoch stand still, and all lanes that are due end it together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from mdtree_jax import lowering
from mdtree_jax.population.assignment import Block
from mdtree_jax.population.history import History, Recorder, record_epoch, record_epochs, start_history
from mdtree_jax.training import Hyperparameters, Trainer, TrainState
from mdtree_jax.training.early_stop import EarlyStop
from mdtree_jax.training.train import Array

AXIS = "population"


class PopulationState(NamedTuple):
    """A population under training; every array has lanes, slots or devices as first axis, split over the devices.

    Attributes:
        lanes: training state of the member of every lane.
        slot: slot, on its device, of the lane's member; -1 before the first.
        position: next entry of the lane's queue.
        is_idle: whether the lane's queue is done.
        variables: networks by slot: initial before, chosen by the early-stop rule after training.
        records: early-stop records by slot, at the end of training.
        steps: steps each device has run.
        history: points of the learning curves by slot; empty where none are recorded.
    """

    lanes: TrainState
    slot: Array
    position: Array
    is_idle: Array
    variables: Any
    records: EarlyStop
    steps: Array
    history: History | tuple[()] = ()


def start_population(
    trainer: Trainer,
    variables: Any,
    hparams: Hyperparameters,
    queue: Array,
    num_train: int,
    num_devices: int,
    recorder: Recorder | None = None,
    validation: tuple[Any, ...] = (),
) -> PopulationState:
    """Return the state before the first step.

    Args:
        trainer: of one network.
        variables: initial networks by slot, (num_devices * slots, ...).
        hparams: by slot.
        queue: (num_devices * lanes, length) slots on the lane's device in order, -1 where none follows.
        num_train: size of the training set.
        num_devices: over which the first axes are split, in equal parts.
        recorder: of the learning curves, None for none.
        validation: images and labels of the validation set, or their shapes.
    """
    num_lanes, num_slots = queue.shape[0], hparams.num_samples.shape[0]
    first = jax.tree.map(lambda leaf: leaf[0], (variables, hparams))
    lane = jax.eval_shape(lambda v, h: trainer.start(v, h, num_train), *first)

    # The first turn of a lane discards what is in it. NumPy, because each small JAX operation would be compiled.
    def zeros(tree: Any, count: int) -> Any:
        return jax.tree.map(lambda leaf: np.zeros((count, *leaf.shape), leaf.dtype), tree)

    return PopulationState(
        lanes=zeros(lane, num_lanes),
        slot=np.full(num_lanes, -1, np.int32),
        position=np.zeros(num_lanes, np.int32),
        is_idle=np.zeros(num_lanes, bool),
        variables=variables,
        records=zeros(lane.record, num_slots),
        steps=np.zeros(num_devices, np.int32),
        history=() if recorder is None else start_history(recorder, first[0], num_slots, validation),
    )


def make_run(
    trainer: Trainer, mesh: Mesh, recorder: Recorder | None = None, block: Block | None = None
) -> Callable[..., PopulationState]:
    """Return `run(state, hparams, queue, x_train, y_train, max_steps) -> state`, to be compiled once per cohort.

    Each device runs until it has done `max_steps` more steps or its lanes are idle. Where the recorder evaluates,
    images and labels of the validation set are two more arguments. With a `block`, steps go in loops of this length,
    and a device may do up to a block more.
    """
    turn = _turn if block is None else _turn_together
    split, whole = PartitionSpec(AXIS), PartitionSpec()

    def run(
        state: PopulationState,
        hparams: Hyperparameters,
        queue: jax.Array,
        x_train: jax.Array,
        y_train: jax.Array,
        max_steps: jax.Array,
        *validation: jax.Array,
    ) -> PopulationState:
        last = state.steps[0] + max_steps

        def body(state: PopulationState) -> PopulationState:
            state = lax.while_loop(
                lambda s: jnp.any(_is_due(trainer, s, hparams)),
                lambda s: turn(trainer, s, hparams, queue, recorder, validation),
                state,
            )
            if block is not None:
                return _advance_block(trainer, state, hparams, x_train, y_train, block)
            left = jnp.where(state.is_idle, last, _steps_left(trainer, state, hparams)).min()
            left = jnp.where(state.is_idle.all(), 0, jnp.minimum(left, last - state.steps[0]))
            return _advance(trainer, state, hparams, x_train, y_train, left)

        return lax.while_loop(lambda s: (s.steps[0] < last) & ~s.is_idle.all(), body, state)

    num_whole = 3 if recorder is None or recorder.evaluate is None else 5
    in_specs = (split, split, split, *[whole] * num_whole)
    return jax.shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False)


def _steps_left(trainer: Trainer, state: PopulationState, hparams: Hyperparameters) -> jax.Array:
    num_samples = hparams.num_samples[jnp.maximum(state.slot, 0)]
    return jnp.where(state.slot < 0, 0, trainer.steps_per_epoch(num_samples) - state.lanes.step)


def _is_due(trainer: Trainer, state: PopulationState, hparams: Hyperparameters) -> jax.Array:
    return (_steps_left(trainer, state, hparams) <= 0) & ~state.is_idle


def _advance(
    trainer: Trainer,
    state: PopulationState,
    hparams: Hyperparameters,
    x_train: jax.Array,
    y_train: jax.Array,
    num_steps: jax.Array,
) -> PopulationState:
    """Step all lanes `num_steps` times; none of them reaches beyond the end of its epoch."""
    hparams = jax.tree.map(lambda leaf: leaf[jnp.maximum(state.slot, 0)], hparams)
    step, lanes = trainer.step, state.lanes
    if state.slot.shape[0] == 1:  # without vmap the program is smaller and the products are not batched
        hparams, lanes = jax.tree.map(lambda leaf: leaf[0], (hparams, lanes))
    else:
        step = jax.vmap(step, in_axes=(0, 0, None, None))
    lanes = lax.fori_loop(
        jnp.zeros_like(num_steps), num_steps, lambda _, lanes: step(lanes, hparams, x_train, y_train), lanes
    )
    if state.slot.shape[0] == 1:
        lanes = jax.tree.map(lambda leaf: leaf[None], lanes)
    return state._replace(lanes=lanes, steps=state.steps + num_steps)


def _advance_block(
    trainer: Trainer,
    state: PopulationState,
    hparams: Hyperparameters,
    x_train: jax.Array,
    y_train: jax.Array,
    block: Block,
) -> PopulationState:
    """Step all lanes as often as a block is long, each until the end of its epoch: beyond, its state stays as it is.

    Where a block is exact, none gets there but lanes that are idle, whose state means nothing.
    """
    num_lanes = state.slot.shape[0]
    left = jnp.where(state.is_idle, 0, _steps_left(trainer, state, hparams))
    hparams = jax.tree.map(lambda leaf: leaf[jnp.maximum(state.slot, 0)], hparams)

    def step(index: jax.Array, lane: TrainState, left: jax.Array, hparams: Hyperparameters) -> TrainState:
        stepped = trainer.step(lane, hparams, x_train, y_train)
        return stepped if block.is_exact else _select(index < left, stepped, lane)

    lanes = state.lanes
    if num_lanes == 1:  # as in `_advance`
        left, hparams, lanes = jax.tree.map(lambda leaf: leaf[0], (left, hparams, lanes))
    else:
        step = jax.vmap(step, in_axes=(None, 0, 0, 0))
    with lowering.side_by_side(num_lanes):
        lanes = lax.fori_loop(0, block.length, lambda index, lanes: step(index, lanes, left, hparams), lanes)
    if num_lanes == 1:
        lanes = jax.tree.map(lambda leaf: leaf[None], lanes)
    return state._replace(lanes=lanes, steps=state.steps + block.length)


def _select(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _next_slot(queue: jax.Array, position: Array, slot: Array, is_done: jax.Array) -> tuple[Any, Any]:
    """Return the slot that follows in a lane's queue (-1: none), and the slot that the lane goes on with."""
    length = queue.shape[0]
    following = lax.dynamic_index_in_dim(queue, jnp.minimum(position, length - 1), keepdims=False)
    following = jnp.where(position < length, following, -1)
    return following, jnp.where(is_done & (following >= 0), following, slot)


def _turn(
    trainer: Trainer,
    state: PopulationState,
    hparams: Hyperparameters,
    queue: jax.Array,
    recorder: Recorder | None,
    validation: tuple[jax.Array, ...],
) -> PopulationState:
    """End the epoch of the first lane that is due, and begin its next one, of this member or of the next in its queue.

    One lane at a time, and only rows are read and written: an epoch's end costs the same however many members there
    are, and the population is never copied.
    """

    def take(tree: Any, row: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, row, keepdims=False), tree)

    def put(tree: Any, value: Any, row: jax.Array) -> Any:
        return jax.tree.map(lambda leaf, new: lax.dynamic_update_index_in_dim(leaf, new, row, 0), tree, value)

    index = jnp.argmax(_is_due(trainer, state, hparams)).astype(jnp.int32)
    slot, position, lane = take((state.slot, state.position, state.lanes), index)
    row = jnp.maximum(slot, 0)
    lane = trainer.end_epoch(lane, take(hparams, row))
    history = state.history
    if recorder is not None and isinstance(history, History):
        history = record_epoch(recorder, history, lane, slot, validation)
    is_done = lane.record.is_done | (slot < 0)
    is_written = is_done & (slot >= 0)
    stored = take((state.variables, state.records), row)
    stored = _select(is_written, (lane.kept, lane.record), stored)
    variables, records = put((state.variables, state.records), stored, row)

    following, new_slot = _next_slot(take(queue, index), position, slot, is_done)
    new_row = jnp.maximum(new_slot, 0)
    new_hparams = take(hparams, new_row)
    fresh = trainer.start(take(variables, new_row), new_hparams, lane.order.shape[0])
    lane = trainer.begin_epoch(_select(is_done, fresh, lane), new_hparams)
    return state._replace(
        lanes=put(state.lanes, lane, index),
        slot=put(state.slot, new_slot, index),
        position=put(state.position, position + is_done.astype(jnp.int32), index),
        is_idle=put(state.is_idle, is_done & (following < 0), index),
        variables=variables,
        records=records,
        history=history,
    )


def _turn_together(
    trainer: Trainer,
    state: PopulationState,
    hparams: Hyperparameters,
    queue: jax.Array,
    recorder: Recorder | None,
    validation: tuple[jax.Array, ...],
) -> PopulationState:
    """End the epoch of all lanes that are due, and begin the next ones; as `_turn`, whose numbers these are.

    A lane that is not due is computed too, and keeps what it has.
    """
    is_due, slot, num_slots = _is_due(trainer, state, hparams), state.slot, hparams.num_samples.shape[0]
    rows = jax.tree.map(lambda leaf: leaf[jnp.maximum(slot, 0)], hparams)
    with lowering.side_by_side(slot.shape[0]):
        lanes = jax.vmap(trainer.end_epoch)(state.lanes, rows)
        history = state.history
        if recorder is not None and isinstance(history, History):
            history = record_epochs(recorder, history, lanes, jnp.where(is_due, slot, -1), validation)
    is_done = lanes.record.is_done | (slot < 0)
    # Every lane has slots of its own. One that writes nothing is sent beyond the end, where it is dropped.
    places = jnp.where(is_due & is_done & (slot >= 0), slot, num_slots)
    stored = jax.tree.map(
        lambda leaf, new: leaf.at[places].set(new, mode="drop"),
        (state.variables, state.records),
        (lanes.kept, lanes.record),
    )
    variables, records = stored
    following, new_slot = jax.vmap(_next_slot)(queue, state.position, slot, is_done)
    new_rows = jnp.maximum(new_slot, 0)

    def begin(variables: Any, hparams: Hyperparameters, is_done: jax.Array, lane: TrainState) -> TrainState:
        fresh = trainer.start(variables, hparams, lane.order.shape[0])
        return trainer.begin_epoch(_select(is_done, fresh, lane), hparams)

    of_next = jax.tree.map(lambda leaf: leaf[new_rows], (variables, hparams))
    lanes = jax.vmap(begin)(of_next[0], of_next[1], is_done, lanes)
    new = lanes, new_slot, state.position + is_done.astype(jnp.int32), is_done & (following < 0)
    old = state.lanes, slot, state.position, state.is_idle
    lanes, slot, position, is_idle = jax.vmap(_select)(is_due, new, old)
    return state._replace(
        lanes=lanes,
        slot=slot,
        position=position,
        is_idle=is_idle,
        variables=variables,
        records=records,
        history=history,
    )
