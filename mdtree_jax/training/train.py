"""One network's training as pure functions of arrays: `make_trainer(model, ...) -> Trainer`. JAX.

The functions do not apply `jit` or `vmap`; the population layer applies both. Static settings (shapes, optimizer,
rule, static knobs) are arguments of the constructor; learning rate, weight decay, subset size, key and further batched
knobs are arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from mdtree_jax import lowering
from mdtree_jax.models import Model
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE
from mdtree_jax.training.arrays import num_rows
from mdtree_jax.training.early_stop import EarlyStop, update_early_stop
from mdtree_jax.training.knobs import by_function, change_gradients, change_inputs, change_losses
from mdtree_jax.training.loss import ObjectiveFunctions, ObjectiveLike, objective_functions
from mdtree_jax.training.optimizer import make_optimizer

#: On the host, a population is NumPy's.
Array = jax.Array | np.ndarray


class Hyperparameters(NamedTuple):
    """Settings that may differ between members of a population; scalars, or arrays with the members as first axis.

    Attributes:
        key: raw key data, (2,) uint32; all of the member's randomness.
        num_samples: size of the training subset, a prefix of the training set; int32.
        learning_rate: of the first step.
        weight_decay: applied to every parameter.
        knobs: further batched knobs that are used, by name (`mdtree_jax.training.knobs`).
    """

    key: Array
    num_samples: Array
    learning_rate: Array
    weight_decay: Array
    knobs: dict[str, Array] = {}  # noqa: RUF012 (never written to)


class TrainState(NamedTuple):
    """The state of one network during training.

    Attributes:
        variables: `{"params", "batch_stats"}`.
        opt_state: of the optax optimizer.
        order: the epoch's permutation of the training subset, (training set,) int32; entries from `num_samples` on
            are not used.
        step: steps done in this epoch.
        loss_sum: sum of the batch losses of this epoch.
        record: the early-stop record.
        kept: variables of the epoch kept so far.
    """

    variables: Any
    opt_state: Any
    order: jax.Array
    step: jax.Array
    loss_sum: jax.Array
    record: EarlyStop
    kept: Any


class Trainer(NamedTuple):
    """Pure functions that train one network.

    Attributes:
        start: `start(variables, hparams, num_train) -> TrainState`, ready for `begin_epoch`.
        begin_epoch: `begin_epoch(state, hparams) -> TrainState` with a new permutation.
        step: `step(state, hparams, x_train, y_train) -> TrainState` after one batch.
        end_epoch: `end_epoch(state, hparams) -> TrainState` with the rule applied; `state.record.is_done` says whether
            training is over.
        steps_per_epoch: `steps_per_epoch(num_samples)`; the last short batch is dropped.
    """

    start: Callable[..., TrainState]
    begin_epoch: Callable[..., TrainState]
    step: Callable[..., TrainState]
    end_epoch: Callable[..., TrainState]
    steps_per_epoch: Callable[[Any], Any]


def init_key(key: jax.Array) -> jax.Array:
    """Return the key of the initial weights, from raw key data."""
    return jax.random.fold_in(jax.random.wrap_key_data(key), 0)


def make_trainer(
    model: Model,
    *,
    batch_size: int,
    num_epochs: int,
    optimizer: str | Callable[[Any, Any], optax.GradientTransformation] = "sgd",
    schedule: str = "constant",
    momentum: float = 0.9,
    early_stop: bool = True,
    early_stop_min_epoch: int = 30,
    early_stop_patience: int = 5,
    early_stop_tolerance: float = 1e-4,
    objective: ObjectiveLike = DEFAULT_OBJECTIVE,
    **knobs: Any,
) -> Trainer:
    """Return the functions that train `model` on batches of `batch_size` for at most `num_epochs` epochs.

    The loss is the objective's mean over a batch with BatchNorm in training mode, modified by the knobs (static ones
    are given here, by name). It does not include weight decay, which the optimizer applies. `optimizer` is a name, or
    `make(learning_rate, weight_decay) -> optax transform`; `schedule` and `momentum` are of a named one.

    Raises:
        UserError: an unknown optimizer, schedule or objective.
    """

    static = _Static(
        model=model,
        batch_size=batch_size,
        num_epochs=num_epochs,
        make_optimizer=(lambda rate, decay, num_steps: optimizer(rate, decay))
        if callable(optimizer)
        else functools.partial(make_optimizer, optimizer, schedule, momentum),
        update_early_stop=functools.partial(
            update_early_stop,
            num_epochs=num_epochs,
            enabled=early_stop,
            min_epoch=early_stop_min_epoch,
            patience=early_stop_patience,
            tolerance=early_stop_tolerance,
        ),
        knobs=by_function(knobs),
        objective=objective_functions(objective),
    )
    static.make_optimizer(0.1, 0.0, 1)  # a wrong name is refused now, not at the first step
    step, end_epoch = functools.partial(_step, static), functools.partial(_end_epoch, static)
    return Trainer(functools.partial(_start, static), _begin_epoch, step, end_epoch, static.steps_per_epoch)


class _Static(NamedTuple):
    """What the functions of a trainer share."""

    model: Model
    batch_size: int
    num_epochs: int
    make_optimizer: Callable[..., optax.GradientTransformation]
    update_early_stop: Callable[..., tuple[EarlyStop, jax.Array]]
    knobs: dict[str, Any]
    objective: ObjectiveFunctions

    def steps_per_epoch(self, num_samples: Any) -> Any:
        return num_samples // self.batch_size

    def optimizer(self, hparams: Hyperparameters) -> optax.GradientTransformation:
        num_steps = jnp.maximum(self.steps_per_epoch(hparams.num_samples) * self.num_epochs, 1)
        return self.make_optimizer(hparams.learning_rate, hparams.weight_decay, num_steps)


def _start(static: _Static, variables: Any, hparams: Hyperparameters, num_train: int) -> TrainState:
    dtype = jax.tree.leaves(variables["params"])[0].dtype
    return TrainState(
        variables=variables,
        opt_state=static.optimizer(hparams).init(variables["params"]),
        order=jnp.zeros(num_train, jnp.int32),
        step=jnp.zeros((), jnp.int32),
        loss_sum=jnp.zeros((), dtype),
        record=EarlyStop.start(dtype),
        kept=variables,
    )


def _begin_epoch(state: TrainState, hparams: Hyperparameters) -> TrainState:
    key = _epoch_key(hparams, state.record.epoch)
    order = random_order(key, hparams.num_samples, state.order.shape[0])
    return state._replace(order=order, step=jnp.zeros_like(state.step), loss_sum=jnp.zeros_like(state.loss_sum))


def _step(static: _Static, state: TrainState, hparams: Hyperparameters, x_train: Any, y_train: jax.Array) -> TrainState:
    rows = lax.dynamic_slice_in_dim(state.order, state.step * static.batch_size, static.batch_size)
    x, y = jax.tree.map(lambda a: a.at[rows].get(mode="promise_in_bounds"), (x_train, y_train))
    knobs = static.knobs | hparams.knobs

    def step_key() -> jax.Array:
        return jax.random.fold_in(_epoch_key(hparams, state.record.epoch), 1 + state.step)

    x = change_inputs(x, step_key, knobs)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.variables["batch_stats"]}
        logits, _, batch_stats = static.model.apply(variables, x, True)
        losses = change_losses(static.objective.loss(logits, y), logits, y, knobs)
        return static.objective.over_set(losses.mean(), y), batch_stats

    params = state.variables["params"]
    (value, batch_stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    gradient = change_gradients(gradient, params, knobs)
    updates, opt_state = static.optimizer(hparams).update(gradient, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}
    return state._replace(
        variables=variables, opt_state=opt_state, step=state.step + 1, loss_sum=state.loss_sum + value
    )


def _end_epoch(static: _Static, state: TrainState, hparams: Hyperparameters) -> TrainState:
    num_steps = jnp.maximum(static.steps_per_epoch(hparams.num_samples), 1)
    record, keep = static.update_early_stop(state.record, state.loss_sum / num_steps.astype(state.loss_sum.dtype))
    kept = jax.tree.map(lambda new, old: jnp.where(keep, new, old), state.variables, state.kept)
    return state._replace(record=record, kept=kept)


def _epoch_key(hparams: Hyperparameters, epoch: jax.Array) -> jax.Array:
    key = jax.random.wrap_key_data(hparams.key)  # pyright: ignore[reportArgumentType] - it takes NumPy arrays too
    return jax.random.fold_in(key, epoch + 1)


def random_order(key: jax.Array, num_samples: Array, length: int) -> jax.Array:
    """Return a uniform permutation of 0 ... num_samples - 1, followed by the other indices; (length,) int32.

    Sorts by 31 random bits; equal ones keep their order, an excess of less than 1e-5 at 50 000 entries.
    """
    bits = jax.random.bits(key, (length,), jnp.uint32) >> 1
    index = jnp.arange(length, dtype=jnp.int32)
    bits = jnp.where(index < num_samples, bits, jnp.uint32(2**32 - 1))
    return lax.sort((bits, index), num_keys=1, is_stable=True)[1]


def evaluate(
    model: Model,
    variables: Any,
    x: Any,
    y: jax.Array,
    num_samples: jax.Array,
    batch_size: int,
    objective: ObjectiveLike = DEFAULT_OBJECTIVE,
) -> tuple[jax.Array, jax.Array]:
    """Return mean loss and sum of errors over the first `num_samples` examples, BatchNorm in eval mode.

    Errors that are counted come as int32: as a percentage in float32, equal error rates of different networks could
    come out unequal. Of all objectives, the error in percent is 100 times the sum over `num_samples`.

    Args:
        model: the network.
        variables: of one network.
        x: inputs, an array or a pytree of arrays (n, ...).
        y: targets (n, ...).
        num_samples: how many count, from 1 to n.
        batch_size: examples at a time.
        objective: whose loss and errors.
    """
    functions = objective_functions(objective)
    size = num_rows(x)
    batch_size = min(batch_size, size)
    dtype = jax.tree.leaves(variables["params"])[0].dtype

    def body(index: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # The last batch is moved back to fit; what an earlier batch has counted is masked out.
        first = jnp.minimum(index * batch_size, size - batch_size)
        rows = first + jnp.arange(batch_size, dtype=jnp.int32)
        mask = (rows >= index * batch_size) & (rows < num_samples)
        xb, yb = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, first, batch_size), (x, y))
        logits, _, _ = model.apply(variables, xb, False)
        loss = jnp.where(mask, functions.loss(logits, yb), 0).sum()
        if functions.counts:
            return sums[0] + loss, sums[1] + (mask & functions.error(logits, yb)).sum(dtype=jnp.int32)
        return sums[0] + loss, sums[1] + jnp.where(mask, functions.error(logits, yb), 0).sum(dtype=dtype)

    num_batches = -(-num_samples // batch_size)
    zeros = jnp.zeros((), dtype), jnp.zeros((), jnp.int32 if functions.counts else dtype)
    loss, errors = lax.fori_loop(jnp.zeros_like(num_batches), num_batches, body, zeros)
    is_counted = jnp.arange(size, dtype=jnp.int32) < num_samples if functions.has_scale else None
    loss = functions.over_set(loss / jnp.asarray(num_samples).astype(dtype), y, is_counted)
    return loss, functions.error_over_set(errors, y, is_counted)


def train_single(
    trainer: Trainer, variables: Any, hparams: Hyperparameters, x_train: Any, y_train: jax.Array
) -> TrainState:
    """Return the state after training one network completely: the plain loop with which the population must agree."""
    step = lowering.jit(trainer.step)
    state = trainer.start(variables, hparams, num_rows(x_train))
    while not state.record.is_done:
        state = trainer.begin_epoch(state, hparams)
        for _ in range(int(trainer.steps_per_epoch(hparams.num_samples))):
            state = step(state, hparams, x_train, y_train)
        state = trainer.end_epoch(state, hparams)
    return state
