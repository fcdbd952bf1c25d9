"""Short runs: a network trained from a fresh initialization for a share of its steps, its schedule compressed. JAX.

They are the racers of a race between moves: every candidate trains for the same share, and only their ranking is used.
"""

from __future__ import annotations

from typing import Any

import jax

from mdtree_jax.models import Model
from mdtree_jax.probes.steps import (
    TrainingSettings,
    constant_trainer,
    num_steps_of,
    rate_of_schedule,
    share_of,
    started,
    train_for,
)
from mdtree_jax.training import Hyperparameters
from mdtree_jax.training.arrays import num_rows


def short_run(
    model: Model,
    settings: TrainingSettings,
    variables: Any,
    hparams: Hyperparameters,
    num_epochs: jax.Array,
    share: Any,
    x: Any,
    y: Any,
) -> tuple[Any, jax.Array]:
    """Return the variables after a short run, and its steps.

    With `share` 1 that is the training itself: the same examples in the same order, the same learning rates.

    Args:
        model: the network; of another width, where width is the move.
        settings: batch size, optimizer and static knobs of the racer.
        variables: initial, as `model.init` gives them.
        hparams: of the racer: learning rate, weight decay, size of the subset, further traced knobs.
        num_epochs: of a whole training; scalar int32, may be traced.
        share: of the steps of a whole training, in (0, 1]; may be traced.
        x, y: the training set.
    """
    trainer = constant_trainer(model, settings)
    num_steps = share_of(num_steps_of(trainer, hparams.num_samples, num_epochs), share)
    state = started(trainer, variables, None, hparams, num_rows(y), 0)
    at = rate_of_schedule(settings.schedule, hparams, num_steps)
    return train_for(trainer, state, at, num_steps, x, y).variables, num_steps
