"""Optimizer and learning-rate schedule from optax, with learning rate and weight decay as traced values. JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from mdtree_jax.registry.knobs import KNOBS

#: Share of the steps over which `warmup_cosine` raises the rate.
WARM_UP = 0.05
#: Root mean square of the orthogonal updates of `muon`, over the rate; about that of Adam's.
MUON_RMS = 0.2


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
    - `adam`: g + weight_decay * w enters both moments, as in PyTorch; `momentum` is beta1, beta2 = 0.999.
    - `adamw`: decoupled decay (Loshchilov and Hutter, 2019), `momentum` is beta1, beta2 = 0.999.
    - `lion`: decoupled decay (Chen et al., 2023), `momentum` is beta1, beta2 = 0.99.
    - `muon`: decoupled decay (Jordan et al., 2024); a matrix's momentum is made orthogonal and scaled to a root mean
      square of `MUON_RMS` (Liu et al., 2025), so that one learning rate suits matrices and everything else, which is
      trained with Adam with Nesterov momentum; `momentum` is that of the matrices and beta1.

    Args:
        optimizer: `sgd`, `adam`, `adamw`, `lion` or `muon`.
        schedule: `constant`; `step`, multiplied by 0.1 after 1/2 and 3/4 of the steps; `cosine`, down to 0; `linear`,
            down to 0; or `warmup_cosine`, up over the first 5 % of the steps, then down to 0 by cosine.
        momentum: static.
        learning_rate: scalar, may be traced; of the first step, or the highest for `warmup_cosine`.
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
    if optimizer == "adam":
        return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(rate, b1=momentum))
    if optimizer == "lion":
        return optax.lion(rate, b1=momentum, weight_decay=weight_decay)
    if optimizer == "muon":
        return _muon(rate, momentum, weight_decay)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=momentum))


def _muon(rate: optax.Schedule, momentum: float, weight_decay: Any) -> optax.GradientTransformation:
    return optax.chain(
        contrib.muon(1.0, beta=momentum, adam_b1=momentum),
        optax.stateless(lambda updates, _: jax.tree.map(_muon_direction, updates)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def _muon_direction(update: jax.Array) -> jax.Array:
    if update.ndim != 2:
        return -update
    # By its own size, because versions of optax scale by different functions of the shape.
    tiny = jnp.finfo(update.dtype).tiny
    return update * (-MUON_RMS * jax.lax.rsqrt(jnp.maximum((update * update).mean(), tiny)))


def make_schedule(schedule: str, learning_rate: Any, num_steps: Any) -> optax.Schedule:
    """Return the learning rate by step; arguments as of `make_optimizer`."""

    def rate(count: Any) -> jax.Array:
        dtype = jnp.result_type(learning_rate)
        done = count.astype(dtype) / jnp.asarray(num_steps).astype(dtype)
        if schedule == "constant":
            return jnp.asarray(learning_rate)
        if schedule == "step":
            return learning_rate * 0.1 ** ((done >= 0.5).astype(dtype) + (done >= 0.75).astype(dtype))
        if schedule == "linear":
            return learning_rate * (1 - done)
        if schedule == "warmup_cosine":
            # The first step has a rate above 0: it counts as done while it is taken.
            up = (count.astype(dtype) + 1) / (WARM_UP * jnp.asarray(num_steps).astype(dtype))
            down = jnp.maximum(done - WARM_UP, 0) / (1 - WARM_UP)
            return learning_rate * jnp.minimum(up, 1) * 0.5 * (1 + jnp.cos(jnp.pi * down))
        return learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * done))

    return rate
