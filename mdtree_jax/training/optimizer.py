"""Optimizer and learning-rate schedule from optax, with learning rate and weight decay as traced values. JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mdtree_jax.registry.knobs import KNOBS


def make_optimizer(
    optimizer: str,
    schedule: str,
    momentum: float,
    learning_rate: Any,
    weight_decay: Any,
    num_steps: Any,
) -> optax.GradientTransformation:
    """Return the gradient transformation of one network.

    - `sgd`: g + weight_decay * w enters the momentum buffer (no damping, no Nesterov), which is multiplied by the
      learning rate; the decay acts on every parameter, as in PyTorch.
    - `adamw`: decoupled decay (Loshchilov and Hutter, 2019), `momentum` is beta1, beta2 = 0.999.

    Args:
        optimizer: `sgd` or `adamw`.
        schedule: `constant`; `step`, multiplied by 0.1 after 1/2 and 3/4 of the steps; or `cosine`, down to 0.
        momentum: static.
        learning_rate: scalar, may be traced; of the first step.
        weight_decay: scalar, may be traced.
        num_steps: scalar, may be traced; length of the schedule.

    Raises:
        UserError: an unknown optimizer or schedule.
    """
    KNOBS["optimizer"].check(optimizer)
    KNOBS["schedule"].check(schedule)
    rate = make_schedule(schedule, learning_rate, num_steps)
    if optimizer == "adamw":
        return optax.adamw(rate, b1=momentum, weight_decay=weight_decay)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=momentum))


def make_schedule(schedule: str, learning_rate: Any, num_steps: Any) -> optax.Schedule:
    """Return the learning rate by step; arguments as of `make_optimizer`."""

    def rate(count: Any) -> jax.Array:
        dtype = jnp.result_type(learning_rate)
        done = count.astype(dtype) / jnp.asarray(num_steps).astype(dtype)
        if schedule == "constant":
            return jnp.asarray(learning_rate)
        if schedule == "step":
            return learning_rate * 0.1 ** ((done >= 0.5).astype(dtype) + (done >= 0.75).astype(dtype))
        return learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * done))

    return rate
