"""A fully connected network with BatchNorm: `mlp`. JAX, Flax Linen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdtree_jax.models.base import builds
from mdtree_jax.models.layers import BatchNorm, Linear
from mdtree_jax.models.permutations import permutes


class MLP(nn.Module):
    """`depth` hidden layers of `width` units, each with BatchNorm and ReLU, and a linear layer."""

    width: int
    num_classes: int
    depth: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (batch, classes) and named activations of images (batch, height, width, channels)."""
        intermediates = {}
        x = x.reshape(x.shape[0], -1).T
        for index in range(self.depth):
            x = Linear(self.width, self.dtype)(x)
            x = nn.relu(BatchNorm(dtype=self.dtype)(x, train))
            intermediates[f"hidden{index + 1}"] = x.T
        intermediates["features"] = x.T
        return Linear(self.num_classes, self.dtype, name="head")(x).T, intermediates


@builds("mlp")
def mlp(width: int, num_classes: int, dtype: Any) -> MLP:
    """Return a network of two hidden layers of `width` units."""
    return MLP(width, num_classes, dtype=dtype)


@permutes("mlp")
def mlp_permutations(params: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    """Return the groups of inputs and units of every layer: one for each hidden layer."""
    layers: dict[str, tuple[str | None, str | None]] = {}
    before = None
    for index in range(len(params) // 2):
        layers |= {f"Linear_{index}": (before, f"hidden{index + 1}")}
        before = f"hidden{index + 1}"
        layers |= {f"BatchNorm_{index}": (None, before)}
    return layers | {"head": (before, None)}
