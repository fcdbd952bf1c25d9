"""The small Linen network of the planted faults, and its losses and errors. JAX."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

HIDDEN: dict[str, Callable] = {"relu": nn.relu, "tanh": jnp.tanh, "sigmoid": nn.sigmoid, "gelu": nn.gelu}
LAST: dict[str, Callable] = {
    "linear": lambda x: x,
    "softmax": nn.softmax,
    "sigmoid": nn.sigmoid,
    "relu": nn.relu,
    "tanh": jnp.tanh,
}


def _kernel_init(name: str) -> Callable:
    """Return an initializer: `lecun`, `zero`, `normal0.05` or `lecun*8`, the deviation of lecun times 8."""
    if name == "zero":
        return nn.initializers.zeros
    if name.startswith("normal"):
        return nn.initializers.normal(float(name[6:]))
    factor = float(name.partition("*")[2] or 1)
    return nn.initializers.variance_scaling(factor**2, "fan_in", "truncated_normal")


class Net(nn.Module):
    """3 × 3 convolutions with pooling (as shifted slices and one matrix product), then dense layers."""

    hidden: tuple[int, ...]
    outputs: int
    activation: str = "relu"
    last: str = "linear"
    channels: tuple[int, ...] = ()
    norm: bool = False
    bias: bool = True
    kernels: str = "lecun"
    first_bias: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        act, kernel_init = HIDDEN[self.activation], _kernel_init(self.kernels)
        for width in self.channels:
            padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            rows, columns = x.shape[1:3]
            slices = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
            x = nn.Dense(width, kernel_init=kernel_init, bias_init=nn.initializers.constant(self.first_bias))(
                jnp.concatenate(slices, -1)
            )
            x = act(x)[:, : rows // 2 * 2, : columns // 2 * 2]
            x = x.reshape(len(x), rows // 2, 2, columns // 2, 2, width).max((2, 4))
        x = x.reshape(len(x), -1)
        for number, width in enumerate(self.hidden):
            bias = self.first_bias if not number and not self.channels else 0.0
            x = nn.Dense(width, use_bias=self.bias, kernel_init=kernel_init, bias_init=nn.initializers.constant(bias))(
                x
            )
            if self.norm:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = act(x)
        return LAST[self.last](nn.Dense(self.outputs, use_bias=self.bias, kernel_init=kernel_init)(x))


def _one_hot(y, outputs):
    return jax.nn.one_hot(y, outputs.shape[-1], dtype=outputs.dtype)


def _clipped(p):
    return jnp.clip(p, 1e-7, 1 - 1e-7)


#: Name -> `loss(outputs, targets) -> (batch,)`. `*_p` take probabilities.
LOSSES: dict[str, Callable] = {
    "cross_entropy": lambda o, y: -(jax.nn.log_softmax(o) * _one_hot(y, o)).sum(-1),
    "cross_entropy_p": lambda o, y: (
        -(jnp.log(_clipped(o / (o.sum(-1, keepdims=True) + 1e-12))) * _one_hot(y, o)).sum(-1)
    ),
    "binary_cross_entropy_p": lambda o, y: -(y * jnp.log(_clipped(o)) + (1 - y) * jnp.log(_clipped(1 - o))).mean(-1),
    "squared_error": lambda o, y: jnp.square(o - y).mean(-1),
    "absolute_error": lambda o, y: jnp.abs(o - y).mean(-1),
}


def wrong_class(outputs, targets):
    return outputs.argmax(-1) != targets


def wrong_label(outputs, targets):
    return ((outputs > 0.5) != (targets > 0.5)).mean(-1)


def unexplained(variance: float) -> Callable:
    """Return the squared error over the variance of the targets, for every example."""
    return lambda outputs, targets: jnp.square(outputs - targets).mean(-1) / variance
