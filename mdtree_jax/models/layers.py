"""Convolution and normalization, written for populations of small networks. JAX, Flax Linen.

Activations are (channels, height, width, batch): a narrow network has too few channels to fill a vector register,
a batch and an image row have enough, and every shift of an image is then a copy of long contiguous runs.

A 3x3 convolution is nine shifted slices and one matrix product where `mdtree_jax.lowering` says so: XLA's own, batched
over weights or inside a loop, is several times slower on CPU (`tests/benchmarks/training_throughput.py`).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mdtree_jax import lowering
from mdtree_jax.models.matrix_product import contract_first


def uniform_fan_in(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draw weights from U(-1/sqrt(n), 1/sqrt(n)), n the inputs of a unit: the start of the published networks.

    The last axis of `shape` counts the units. With BatchNorm the scale of a weight sets its effective learning rate,
    so it is part of the recipe. The variance 1/(3n) is that of He et al. (2015) with slope sqrt(5).
    """
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def shifted_slices(x: jax.Array, stride: int) -> jax.Array:
    """Return the nine 3x3 neighbours of every output pixel, zero outside the image.

    Args:
        x: (channels, height, width, batch).
        stride: 1 or more; output pixel (i, j) is centred on input pixel (stride i, stride j).

    Returns:
        (9, channels, ceil(height / stride), ceil(width / stride), batch), neighbours row by row.
    """
    _, height, width, _ = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    row_end, column_end = stride * (rows - 1) + 1, stride * (columns - 1) + 1
    return jnp.stack(
        [padded[:, i : i + row_end : stride, j : j + column_end : stride] for i in range(3) for j in range(3)]
    )


def convolve3x3(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Return the 3x3 cross-correlation of images with zero padding 1.

    Args:
        x: (channels, height, width, batch).
        kernel: (3, 3, channels, features).
        stride: of both axes.

    Returns:
        (features, ceil(height / stride), ceil(width / stride), batch).
    """
    if lowering.convolution() == "native":
        return lowering.in_factors(functools.partial(_native3x3, stride=stride), x, kernel)
    channels, height, width, batch = x.shape
    count = num_batch_parts(9 * channels * (height // stride) * (width // stride) * x.dtype.itemsize, batch)
    if count == 1:
        return _convolve3x3(x, kernel, stride)
    # The neighbours are recomputed in the backward pass: nine copies of the batch would not stay in the cache.
    parts = jnp.moveaxis(x.reshape(channels, height, width, count, batch // count), 3, 0)
    parts = lax.map(jax.checkpoint(lambda part: _convolve3x3(part, kernel, stride)), parts)
    return jnp.moveaxis(parts, 0, 3).reshape(*parts.shape[1:4], batch)


def num_batch_parts(bytes_per_image: int, batch: int) -> int:
    """Return into how many equal parts a batch is cut: 1, or so many that a part takes at most `part_bytes`.

    >>> num_batch_parts(2**12, 256), num_batch_parts(2**18, 256)
    (1, 64)
    """
    row = lowering.here()
    if row.whole_bytes is None or bytes_per_image * batch <= row.whole_bytes:
        return 1
    fitting = (n for n in range(1, batch + 1) if batch % n == 0 and bytes_per_image * batch <= n * row.part_bytes)
    return next(fitting, batch)


def _native3x3(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    dims = ("CHWN", "HWIO", "CHWN")
    return lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=dims)


def _convolve3x3(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    patches = shifted_slices(x, stride)
    rows, columns, batch = patches.shape[2:]
    product = contract_first(kernel.reshape(-1, kernel.shape[-1]), patches.reshape(-1, rows * columns * batch))
    return product.reshape(-1, rows, columns, batch)


class Conv3x3(nn.Module):
    """3x3 convolution without bias, zero padding 1: (c, h, w, b) -> (features, h / stride, w / stride, b)."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the features of images (channels, height, width, batch)."""
        kernel = self.param("kernel", uniform_fan_in, (3, 3, x.shape[0], self.features), self.dtype)
        return convolve3x3(x, kernel, self.stride)


class Conv1x1(nn.Module):
    """1x1 convolution without bias on every `stride`-th pixel."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the features of images (channels, height, width, batch)."""
        kernel = self.param("kernel", uniform_fan_in, (x.shape[0], self.features), self.dtype)
        x = x[:, :: self.stride, :: self.stride]
        return contract_first(kernel, x.reshape(x.shape[0], -1)).reshape(self.features, *x.shape[1:])


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the first (Ioffe and Szegedy, 2015), with scale and shift.

    Running averages: new = momentum * old + (1 - momentum) * batch, the variance with denominator n.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return `x` normalized: by the batch if `train`, which updates the running averages, else by those."""
        channels = (x.shape[0],)
        scale = self.param("scale", nn.initializers.ones, channels, self.dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, self.dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, self.dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, self.dtype)
        mean, var = running_mean.value, running_var.value
        if train:
            axes = tuple(range(1, x.ndim))
            mean = x.mean(axes)
            # One pass over the activations; rounding may leave a tiny negative number for a constant channel.
            var = jnp.maximum((x * x).mean(axes) - mean * mean, 0)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        factor = scale * lax.rsqrt(var + self.epsilon)
        shift = bias - mean * factor
        per_channel = (-1,) + (1,) * (x.ndim - 1)
        return x * factor.reshape(per_channel) + shift.reshape(per_channel)


class Linear(nn.Module):
    """Fully connected layer with bias: (inputs, batch) -> (features, batch)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the features, (features, batch)."""
        kernel = self.param("kernel", uniform_fan_in, (x.shape[0], self.features), self.dtype)
        bias = self.param("bias", self._bias, x.shape[0])
        return contract_first(kernel, x) + bias[:, None]

    def _bias(self, key: jax.Array, fan_in: int) -> jax.Array:
        return jax.random.uniform(key, (self.features,), self.dtype, -(fan_in**-0.5), fan_in**-0.5)
