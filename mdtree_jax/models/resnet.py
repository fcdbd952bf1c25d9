"""Residual networks for small images (He et al., 2016): `resnet18`, `resnet8` and `resnet8_fine`. JAX, Flax Linen.

A 3x3 stem of k channels at stride 1 without pooling, stages of basic blocks of k, 2k, 4k, ... channels at strides
1, 2, 2, ...; a 1x1 convolution with BatchNorm where the shape changes; average pool; a linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdtree_jax.models.base import builds
from mdtree_jax.models.layers import BatchNorm, Conv1x1, Conv3x3, Linear
from mdtree_jax.models.permutations import permutes


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut."""

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the block's output for (channels, height, width, batch)."""
        y = Conv3x3(self.features, self.stride, self.dtype)(x)
        y = nn.relu(BatchNorm(dtype=self.dtype)(y, train))
        y = Conv3x3(self.features, 1, self.dtype)(y)
        y = BatchNorm(dtype=self.dtype)(y, train)
        if self.stride != 1 or x.shape[0] != self.features:
            x = Conv1x1(self.features, self.stride, self.dtype, name="shortcut")(x)
            x = BatchNorm(dtype=self.dtype, name="shortcut_norm")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network; `blocks[i]` basic blocks of `channels[i]` channels in stage i."""

    channels: tuple[int, ...]
    num_classes: int
    blocks: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (batch, classes) and named activations of images (batch, height, width, channels)."""
        intermediates = {}
        x = Conv3x3(self.channels[0], 1, self.dtype, name="stem")(x.transpose(3, 1, 2, 0))
        x = nn.relu(BatchNorm(dtype=self.dtype, name="stem_norm")(x, train))
        intermediates["stem"] = x.transpose(3, 1, 2, 0)
        for stage, (channels, num_blocks) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for index in range(num_blocks):
                name = f"stage{stage + 1}_block{index + 1}"
                stride = 2 if stage > 0 and index == 0 else 1
                x = BasicBlock(channels, stride, self.dtype, name=name)(x, train)
                intermediates[name] = x.transpose(3, 1, 2, 0)
        features = x.mean((1, 2))
        intermediates["features"] = features.T
        return Linear(self.num_classes, self.dtype, name="head")(features).T, intermediates


@builds("resnet18")
def resnet18(width: int, num_classes: int, dtype: Any) -> ResNet:
    """Return the CIFAR ResNet-18: four stages of two blocks."""
    return ResNet(_doubling(width, 4), num_classes, (2, 2, 2, 2), dtype)


@builds("resnet8")
def resnet8(width: int, num_classes: int, dtype: Any) -> ResNet:
    """Return a ResNet of three stages of one block, for images of about 10x10 pixels."""
    return ResNet(_doubling(width, 3), num_classes, (1, 1, 1), dtype)


@builds("resnet8_fine")
def resnet8_fine(width: int, num_classes: int, dtype: Any) -> ResNet:
    """Return a `resnet8` whose width counts the channels of the last stage: width / 4, width / 2, width, rounded up.

    `resnet8` of width k is that of width 4k, so there are four sizes where `resnet8` has one: a grid of many widths
    stays among networks that are cheap to train.
    """
    return ResNet((-(-width // 4), -(-width // 2), width), num_classes, (1, 1, 1), dtype)


def _doubling(width: int, num_stages: int) -> tuple[int, ...]:
    return tuple(width * 2**stage for stage in range(num_stages))


@permutes("resnet18", "resnet8", "resnet8_fine")
def resnet_permutations(params: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    """Return the groups of inputs and units of every layer: one for each residual stream, one inside each block.

    An identity shortcut adds a block's output to its input, so both are of one stream; a shortcut with a convolution
    starts a new one.
    """
    stream = "stem"
    layers: dict[str, tuple[str | None, str | None]] = {"stem": (None, stream), "stem_norm": (None, stream)}
    for name in sorted(name for name in params if name.startswith("stage")):
        inside, before = f"{name}_inside", stream
        if "shortcut" in params[name]:
            stream = name
            layers |= {f"{name}/shortcut": (before, stream), f"{name}/shortcut_norm": (None, stream)}
        layers |= {f"{name}/Conv3x3_0": (before, inside), f"{name}/BatchNorm_0": (None, inside)}
        layers |= {f"{name}/Conv3x3_1": (inside, stream), f"{name}/BatchNorm_1": (None, stream)}
    return layers | {"head": (stream, None)}
