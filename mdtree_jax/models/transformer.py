"""Tiny transformers: `vit` for images, `char_transformer` for sequences of tokens. JAX, Flax Linen.

Activations are (units, tokens, batch), as everywhere in these networks: a projection is one matrix product, and a copy
of long contiguous runs is never needed. Blocks begin with LayerNorm (Xiong et al., 2020) and have two heads of
attention where the width is even.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdtree_jax.models.base import builds
from mdtree_jax.models.layers import Linear
from mdtree_jax.models.normalization import LayerNorm

DEPTH = 2
MOST_PATCHES = 25
_POSITIONS = nn.initializers.normal(0.1)


class Tokenwise(nn.Module):
    """A linear layer applied to every token: (inputs, tokens, batch) -> (features, tokens, batch)."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the features of every token."""
        product = Linear(self.features, self.dtype, name="linear")(x.reshape(x.shape[0], -1))
        return product.reshape(self.features, *x.shape[1:])


class Attention(nn.Module):
    """Self-attention (Vaswani et al., 2017); if `is_causal`, a token sees itself and those before it only."""

    is_causal: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return what every token gathers, of the shape of `x`, (units, tokens, batch)."""
        units, tokens, batch = x.shape
        heads = 1 if units % 2 else 2
        query, key, value = Tokenwise(3 * units, self.dtype, name="project")(x).reshape(3, heads, -1, tokens, batch)
        scores = jnp.einsum("hctb,hcsb->hbts", query, key) * (units // heads) ** -0.5
        if self.is_causal:
            is_seen = jnp.tril(jnp.ones((tokens, tokens), bool))
            scores = jnp.where(is_seen, scores, jnp.finfo(scores.dtype).min)
        gathered = jnp.einsum("hbts,hcsb->hctb", jax.nn.softmax(scores), value)
        return Tokenwise(units, self.dtype, name="output")(gathered.reshape(units, tokens, batch))


class Block(nn.Module):
    """Attention and two linear layers with GELU between them, each added to what it is given."""

    is_causal: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the block's output for (units, tokens, batch)."""
        x = x + Attention(self.is_causal, self.dtype)(LayerNorm(self.dtype)(x))
        inside = nn.gelu(Tokenwise(2 * x.shape[0], self.dtype)(LayerNorm(self.dtype)(x)))
        return x + Tokenwise(x.shape[0], self.dtype)(inside)


class VisionTransformer(nn.Module):
    """Square patches of an image as tokens, blocks, LayerNorm, mean over tokens, a linear layer (Dosovitskiy, 2021)."""

    width: int
    num_outputs: int
    patch: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return outputs (batch, outputs) and named activations of images (batch, height, width, channels)."""
        intermediates = {}
        x = Tokenwise(self.width, self.dtype, name="embed")(cut_patches(x, self.patch))
        x = x + self.param("positions", _POSITIONS, (*x.shape[:2], 1), self.dtype)
        for index in range(DEPTH):
            x = Block(False, self.dtype)(x)
            intermediates[f"block{index + 1}"] = x.transpose(2, 1, 0)
        features = LayerNorm(self.dtype)(x).mean(1)
        intermediates["features"] = features.T
        return Linear(self.num_outputs, self.dtype, name="head")(features).T, intermediates


def cut_patches(x: jax.Array, patch: int) -> jax.Array:
    """Return images (batch, height, width, channels) as tokens (patch · patch · channels, patches, batch)."""
    batch, height, width, channels = x.shape
    rows, columns = height // patch, width // patch
    parts = x.reshape(batch, rows, patch, columns, patch, channels).transpose(2, 4, 5, 1, 3, 0)
    return parts.reshape(patch * patch * channels, rows * columns, batch)


def patch_size(height: int, width: int) -> int:
    """Return the smallest side of square patches that divide an image into at most `MOST_PATCHES`.

    >>> patch_size(10, 10), patch_size(12, 12), patch_size(7, 7)
    (2, 3, 7)
    """
    common = (p for p in range(1, min(height, width) + 1) if height % p == 0 and width % p == 0)
    sizes = list(common)
    return next((p for p in sizes if (height // p) * (width // p) <= MOST_PATCHES), sizes[-1])


class CharTransformer(nn.Module):
    """A causal language model: tokens and positions are embedded, blocks, LayerNorm, a linear layer on every token."""

    width: int
    num_outputs: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (batch, tokens, vocabulary) and named activations of token ids (batch, tokens).

        The outputs at a token are for the one after it; ids are 0 … `num_outputs` - 1.
        """
        intermediates = {}
        # A product with the indicator, because the gradient of a gather is a scatter, which is slow on CPU.
        x = jax.nn.one_hot(x.T, self.num_outputs, dtype=self.dtype, axis=0)
        x = Tokenwise(self.width, self.dtype, name="embed")(x)
        x = x + self.param("positions", _POSITIONS, (*x.shape[:2], 1), self.dtype)
        for index in range(DEPTH):
            x = Block(True, self.dtype)(x)
            intermediates[f"block{index + 1}"] = x.transpose(2, 1, 0)
        x = LayerNorm(self.dtype)(x)
        intermediates["features"] = x.transpose(2, 1, 0)
        return Tokenwise(self.num_outputs, self.dtype, name="head")(x).transpose(2, 1, 0), intermediates


@builds("vit")
def vit(width: int, num_outputs: int, input_shape: tuple[int, ...], dtype: Any) -> VisionTransformer:
    """Return a transformer of patches of `width` units for images."""
    return VisionTransformer(width, num_outputs, patch_size(*input_shape[:2]), dtype)


@builds("char_transformer")
def char_transformer(width: int, num_outputs: int, dtype: Any) -> CharTransformer:
    """Return a causal transformer of `width` units over a vocabulary of `num_outputs` tokens."""
    return CharTransformer(width, num_outputs, dtype)
