"""Small convolutional networks: `cnn`, `cnn_bn`, `cnn_gn` for images, `cnn1d` for sequences. JAX, Flax Linen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdtree_jax.models.base import builds
from mdtree_jax.models.layers import BatchNorm, Conv3x3, Linear, uniform_fan_in
from mdtree_jax.models.matrix_product import contract_first
from mdtree_jax.models.normalization import GroupNorm, ScaleAndShift
from mdtree_jax.models.permutations import permutes


class CNN(nn.Module):
    """Three 3x3 convolutions of width, 2 width and 2 width channels at strides 1, 2, 2, mean over pixels, linear layer.

    After each convolution come `norm` (`batch`, `group`, or `none`: a bias alone) and ReLU.
    """

    width: int
    num_outputs: int
    norm: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return outputs (batch, outputs) and named activations of images (batch, height, width, channels)."""
        intermediates = {}
        x = x.transpose(3, 1, 2, 0)
        for index, (factor, stride) in enumerate(((1, 1), (2, 2), (2, 2))):
            x = Conv3x3(factor * self.width, stride, self.dtype)(x)
            x = nn.relu(self._normalized(x, train))
            intermediates[f"conv{index + 1}"] = x.transpose(3, 1, 2, 0)
        features = x.mean((1, 2))
        intermediates["features"] = features.T
        return Linear(self.num_outputs, self.dtype, name="head")(features).T, intermediates

    def _normalized(self, x: jax.Array, train: bool) -> jax.Array:
        if self.norm == "batch":
            return BatchNorm(dtype=self.dtype)(x, train)
        if self.norm == "group":
            return GroupNorm(dtype=self.dtype)(x)
        return ScaleAndShift(has_scale=False, dtype=self.dtype)(x)


def convolve_1d(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Return the cross-correlation of sequences with zero padding of half the kernel's length.

    Args:
        x: (channels, length, batch).
        kernel: (taps, channels, features), an odd number of taps.
        stride: of the output's positions.

    Returns:
        (features, ceil(length / stride), batch).
    """
    taps, channels, features = kernel.shape
    length, batch = x.shape[1:]
    positions = -(-length // stride)
    padded = jnp.pad(x, ((0, 0), (taps // 2, taps // 2), (0, 0)))
    end = stride * (positions - 1) + 1
    neighbours = jnp.stack([padded[:, tap : tap + end : stride] for tap in range(taps)])
    product = contract_first(kernel.reshape(-1, features), neighbours.reshape(taps * channels, positions * batch))
    return product.reshape(features, positions, batch)


class CNN1D(nn.Module):
    """Three convolutions of 5 taps at stride 2, of width, 2 width and 2 width channels, with ReLU, and a linear layer.

    The positions that are left stay apart: the linear layer has an input for each of them and each channel.
    """

    width: int
    num_outputs: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return outputs (batch, outputs) and named activations of sequences (batch, length, …), … being channels."""
        intermediates = {}
        x = x.reshape(*x.shape[:2], -1).transpose(2, 1, 0)
        for index, factor in enumerate((1, 2, 2)):
            shape = (5, x.shape[0], factor * self.width)
            kernel = self.param(f"conv{index + 1}", uniform_fan_in, shape, self.dtype)
            x = nn.relu(ScaleAndShift(has_scale=False, dtype=self.dtype)(convolve_1d(x, kernel, 2)))
            intermediates[f"conv{index + 1}"] = x.transpose(2, 1, 0)
        features = x.reshape(-1, x.shape[-1])
        intermediates["features"] = features.T
        return Linear(self.num_outputs, self.dtype, name="head")(features).T, intermediates


@builds("cnn")
def cnn(width: int, num_outputs: int, dtype: Any) -> CNN:
    """Return a convolutional network without normalization."""
    return CNN(width, num_outputs, "none", dtype)


@builds("cnn_bn")
def cnn_bn(width: int, num_outputs: int, dtype: Any) -> CNN:
    """Return a convolutional network with BatchNorm."""
    return CNN(width, num_outputs, "batch", dtype)


@builds("cnn_gn")
def cnn_gn(width: int, num_outputs: int, dtype: Any) -> CNN:
    """Return a convolutional network with GroupNorm."""
    return CNN(width, num_outputs, "group", dtype)


@builds("cnn1d")
def cnn1d(width: int, num_outputs: int, dtype: Any) -> CNN1D:
    """Return a convolutional network for sequences."""
    return CNN1D(width, num_outputs, dtype)


@permutes("cnn", "cnn_bn")
def cnn_permutations(params: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    """Return the groups of inputs and units of every layer: one for the channels of each convolution."""
    layers: dict[str, tuple[str | None, str | None]] = {}
    before = None
    for index in range(sum(name.startswith("Conv3x3_") for name in params)):
        units = f"conv{index + 1}"
        layers |= {f"Conv3x3_{index}": (before, units)}
        layers |= dict.fromkeys((f"BatchNorm_{index}", f"ScaleAndShift_{index}"), (None, units))
        before = units
    return layers | {"head": (before, None)}
