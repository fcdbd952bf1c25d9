"""Fully connected networks. JAX, Flax Linen.

`mlp` has BatchNorm; `mlp_relu`, `mlp_tanh` and `mlp_gelu` have no normalization; `mlp_layernorm` is a residual network
of blocks that begin with LayerNorm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdtree_jax.models.base import builds
from mdtree_jax.models.layers import BatchNorm, Linear
from mdtree_jax.models.normalization import LayerNorm
from mdtree_jax.models.permutations import permutes


class MLP(nn.Module):
    """`depth` hidden layers of `width` units, each with BatchNorm if `normalizes`, activation, and a linear layer."""

    width: int
    num_classes: int
    depth: int = 2
    dtype: Any = jnp.float32
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    normalizes: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return outputs (batch, outputs) and named activations of examples (batch, …)."""
        intermediates = {}
        x = x.reshape(x.shape[0], -1).T
        for index in range(self.depth):
            x = Linear(self.width, self.dtype)(x)
            x = self.activation(BatchNorm(dtype=self.dtype)(x, train) if self.normalizes else x)
            intermediates[f"hidden{index + 1}"] = x.T
        intermediates["features"] = x.T
        return Linear(self.num_classes, self.dtype, name="head")(x).T, intermediates


class ResidualMLP(nn.Module):
    """A linear layer, `depth` blocks x + Linear(gelu(Linear(LayerNorm(x)))), LayerNorm, and a linear layer.

    Every layer but the last has `width` units.
    """

    width: int
    num_outputs: int
    depth: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return outputs (batch, outputs) and named activations of examples (batch, …)."""
        intermediates = {}
        x = Linear(self.width, self.dtype, name="stem")(x.reshape(x.shape[0], -1).T)
        for index in range(self.depth):
            inside = Linear(self.width, self.dtype)(LayerNorm(self.dtype)(x))
            x = x + Linear(self.width, self.dtype)(nn.gelu(inside))
            intermediates[f"block{index + 1}"] = x.T
        x = LayerNorm(self.dtype)(x)
        intermediates["features"] = x.T
        return Linear(self.num_outputs, self.dtype, name="head")(x).T, intermediates


@builds("mlp")
def mlp(width: int, num_classes: int, dtype: Any) -> MLP:
    """Return a network of two hidden layers of `width` units."""
    return MLP(width, num_classes, dtype=dtype)


def _plain(width: int, num_outputs: int, dtype: Any, activation: Callable[[jax.Array], jax.Array]) -> MLP:
    return MLP(width, num_outputs, dtype=dtype, activation=activation, normalizes=False)


for _name, _activation in {"mlp_relu": nn.relu, "mlp_tanh": jnp.tanh, "mlp_gelu": nn.gelu}.items():
    builds(_name)(functools.partial(_plain, activation=_activation))


@builds("mlp_layernorm")
def mlp_layernorm(width: int, num_outputs: int, dtype: Any) -> ResidualMLP:
    """Return a residual network of two blocks of `width` units."""
    return ResidualMLP(width, num_outputs, dtype=dtype)


@permutes("mlp", "mlp_relu", "mlp_tanh", "mlp_gelu")
def mlp_permutations(params: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    """Return the groups of inputs and units of every layer: one for each hidden layer."""
    layers: dict[str, tuple[str | None, str | None]] = {}
    before = None
    for index in range(sum(name.startswith("Linear_") for name in params)):
        layers |= {f"Linear_{index}": (before, f"hidden{index + 1}")}
        before = f"hidden{index + 1}"
        layers |= {f"BatchNorm_{index}": (None, before)}
    return layers | {"head": (before, None)}
