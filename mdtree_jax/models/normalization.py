"""Normalization of single examples and a bias, for networks whose first axis is the channels. JAX, Flax Linen.

Both normalizations do the same in training and evaluation mode, and keep no running averages. The variance has
denominator n.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_EPSILON = 1e-5


def _standardized(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    centred = x - x.mean(axes, keepdims=True)
    return centred * lax.rsqrt((centred * centred).mean(axes, keepdims=True) + _EPSILON)


class LayerNorm(nn.Module):
    """Layer normalization over the channels of each position (Ba et al., 2016), with scale and shift."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the normalized (channels, …, batch)."""
        return ScaleAndShift(dtype=self.dtype, name="affine")(_standardized(x, (0,)))


class GroupNorm(nn.Module):
    """Group normalization over pixels and the channels of a group (Wu and He, 2018), with scale and shift.

    There are `num_groups` groups of consecutive channels, or one for each channel if they do not divide evenly.
    """

    num_groups: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the normalized (channels, …, batch)."""
        channels = x.shape[0]
        groups = channels if channels % self.num_groups else self.num_groups
        grouped = x.reshape(groups, channels // groups, *x.shape[1:])
        normalized = _standardized(grouped, tuple(range(1, grouped.ndim - 1))).reshape(x.shape)
        return ScaleAndShift(dtype=self.dtype, name="affine")(normalized)


class ScaleAndShift(nn.Module):
    """A factor and a summand for each channel, or only the summand."""

    has_scale: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the scaled and shifted (channels, …, batch)."""
        per_channel = (x.shape[0],) + (1,) * (x.ndim - 1)
        if self.has_scale:
            x = x * self.param("scale", nn.initializers.ones, (x.shape[0],), self.dtype).reshape(per_channel)
        return x + self.param("bias", nn.initializers.zeros, (x.shape[0],), self.dtype).reshape(per_channel)
