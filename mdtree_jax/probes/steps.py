"""Training for a given number of steps: the loop below probes and short runs, and how a network is trained. JAX.

Everything is a pure function of one network's arrays, to be mapped over probes and networks. The step is that of
`mdtree_jax.training`; what differs between probes (learning rate, weight decay, knobs, number of steps) is traced, so
that one compiled step serves all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mdtree_jax.models import Model
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE
from mdtree_jax.training import Hyperparameters, ObjectiveLike, Trainer, TrainState, make_trainer
from mdtree_jax.training.arrays import num_rows
from mdtree_jax.training.optimizer import make_schedule
from mdtree_jax.training.train import Array

#: `rate_at(step)` of a scalar int32 counted from 0, and what stays the same: how the steps are taken.
HyperparametersAt = Callable[[jax.Array], Hyperparameters]
#: Warm-up of the optimizer's state: its share of the steps of training, and the fewest steps it takes.
WARM_UP_SHARE, LEAST_WARM_UP = 0.01, 10
#: The order of the examples in the warm-up, which no epoch of training has.
_WARM_UP_EPOCH = 2**30


@dataclass(frozen=True)
class TrainingSettings:
    """How networks were trained, as far as it is the same for all of them; hashable, a static argument.

    Attributes:
        batch_size: examples of a step.
        optimizer: a name of the knob `optimizer`, or `make(learning_rate, weight_decay) -> optax transform` of traced
            scalars, whose state has the same structure for all values.
        schedule: of the learning rate, a name of the knob `schedule`.
        momentum: as of the knob.
        objective: what is minimized.
        knobs: further static knobs with their values.
    """

    batch_size: int
    optimizer: str | Callable[[Any, Any], optax.GradientTransformation] = "sgd"
    schedule: str = "constant"
    momentum: float = 0.9
    objective: ObjectiveLike = DEFAULT_OBJECTIVE
    knobs: tuple[tuple[str, Any], ...] = ()

    def value(self, knob: str) -> Any:
        """Return what a static knob is set to, its default where it is not used."""
        return dict(self.knobs).get(knob, KNOBS[knob].default)

    def with_knob(self, knob: str, value: Any) -> TrainingSettings:
        """Return the same settings with one static knob at another value."""
        return dataclasses.replace(self, knobs=tuple({**dict(self.knobs), knob: value}.items()))


def constant_trainer(model: Model, settings: TrainingSettings) -> Trainer:
    """Return the trainer of a network whose learning rate is that of the hyperparameters at every step.

    Raises:
        UserError: an unknown optimizer or objective.
    """
    return make_trainer(
        model,
        batch_size=settings.batch_size,
        num_epochs=1,
        optimizer=settings.optimizer,
        momentum=settings.momentum,
        early_stop=False,
        objective=settings.objective,
        **dict(settings.knobs),
    )


def scaled_transform(
    transform: optax.GradientTransformation, learning_rate: float
) -> Callable[[Any, Any], optax.GradientTransformation]:
    """Return `make(learning_rate, weight_decay)` of a user's optax transform, as `TrainingSettings` takes it.

    Its updates are multiplied by the new learning rate over the one that it was built with; `weight_decay` comes on
    top, decoupled. Its state is the transform's own. A schedule inside it goes on.
    """

    def make(rate: Any, weight_decay: Any) -> optax.GradientTransformation:
        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            updates, state = transform.update(updates, state, params)
            scaled = jax.tree.map(lambda u, w: u * (rate / learning_rate) - rate * weight_decay * w, updates, params)
            return scaled, state

        return optax.GradientTransformation(transform.init, update)

    return make


def num_steps_of(trainer: Trainer, num_samples: Array, num_epochs: Array) -> jax.Array:
    """Return the steps of a training, int32; at least 1."""
    return jnp.maximum(trainer.steps_per_epoch(num_samples) * num_epochs, 1)


def share_of(num_steps: jax.Array, share: Any, least: int = 1) -> jax.Array:
    """Return a share of a number of steps, rounded to int32, at least `least`."""
    # 32 bits hold neither a product of large numbers exactly nor every share; a whole training must stay whole.
    part = jnp.round(num_steps.astype(jnp.float32) * jnp.float32(share)).astype(jnp.int32)
    return jnp.maximum(jnp.where(jnp.float32(share) == 1, num_steps, part), least)


def train_for(
    trainer: Trainer, state: TrainState, at: HyperparametersAt, num_steps: jax.Array, x: Any, y: Any
) -> TrainState:
    """Return the state after so many steps of a trainer, in epochs that are counted on from those of the state.

    Args:
        trainer: see `constant_trainer`.
        state: as `trainer.start` gives it; `state.record.epoch` says which orders of the examples come next.
        at: the hyperparameters of a step, of which only the learning rate depends on it.
        num_steps: scalar int32, may be traced. The last epoch may end early.
        x, y: the training set, of which the first `num_samples` are used.
    """
    hparams = at(jnp.int32(0))
    steps_per_epoch = jnp.maximum(jnp.int32(trainer.steps_per_epoch(hparams.num_samples)), 1)

    def epoch(carry: tuple[jax.Array, TrainState]) -> tuple[jax.Array, TrainState]:
        done, state = carry
        state = trainer.begin_epoch(state, hparams)
        number = jnp.minimum(steps_per_epoch, num_steps - done)

        def step(index: jax.Array, state: TrainState) -> TrainState:
            return trainer.step(state, at(done + index), x, y)

        state = lax.fori_loop(jnp.zeros_like(number), number, step, state)
        return done + number, state._replace(record=state.record._replace(epoch=state.record.epoch + 1))

    return lax.while_loop(lambda carry: carry[0] < num_steps, epoch, (jnp.zeros_like(num_steps), state))[1]


def started(
    trainer: Trainer, variables: Any, opt_state: Any, hparams: Hyperparameters, num_train: int, epoch: Any
) -> TrainState:
    """Return the state of a network before its next epoch, number `epoch` from 0, without a copy that is kept."""
    state = trainer.start(variables, hparams, num_train)
    opt_state = state.opt_state if opt_state is None else opt_state
    record = state.record._replace(epoch=jnp.int32(epoch))
    return state._replace(opt_state=opt_state, record=record, kept=())


def warm_up(trainer: Trainer, variables: Any, hparams: Hyperparameters, num_steps: jax.Array, x: Any, y: Any) -> Any:
    """Return the optimizer's state after so many steps at which weights and running averages stay as they are."""

    def frozen(state: TrainState, *arguments: Any) -> TrainState:
        return trainer.step(state, *arguments)._replace(variables=state.variables)

    num_train = num_rows(y)
    state = started(trainer, variables, None, hparams, num_train, _WARM_UP_EPOCH)
    return train_for(trainer._replace(step=frozen), state, lambda _: hparams, num_steps, x, y).opt_state


def rate_of_schedule(schedule: str, hparams: Hyperparameters, num_steps: Any) -> HyperparametersAt:
    """Return the hyperparameters of a step of a training whose schedule takes `num_steps`."""
    rate = make_schedule(schedule, hparams.learning_rate, num_steps)
    return lambda step: hparams._replace(learning_rate=rate(step))
