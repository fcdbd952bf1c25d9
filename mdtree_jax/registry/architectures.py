"""The architectures: networks that a sweep can train and a diagnosis can load. No JAX.

`mdtree_jax.models` binds builders and the rules for permutation alignment to the entries; `mdtree_jax.models.base`
documents how a builder is called.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: identifier, as used in grids, manifests and commands.
        meaning: one line for help and tables; says what the knob `width` counts.
        title: display name; defaults to `name`.
    """

    name: str
    meaning: str = ""
    title: str = ""


ARCHITECTURES: Table[Architecture] = Table(
    "model",
    [
        Architecture(
            "mlp",
            "fully connected, two hidden layers with BatchNorm; width: units of a hidden layer",
            "MLP",
        ),
        Architecture(
            "resnet18",
            "residual network for images of about 32 x 32 pixels; width: channels of the first of its four stages",
            "ResNet-18",
        ),
        Architecture(
            "resnet8",
            "residual network for images of about 10 x 10 pixels; width: channels of the first of its three stages",
            "ResNet-8",
        ),
        Architecture(
            "resnet8_fine",
            "resnet8 with finer steps of width; width: channels of the last of its three stages",
            "ResNet-8",
        ),
        Architecture(
            "mlp_relu",
            "fully connected, two hidden layers with ReLU, no normalization; width: units of a hidden layer",
            "MLP, ReLU",
        ),
        Architecture(
            "mlp_tanh",
            "fully connected, two hidden layers with tanh, no normalization; width: units of a hidden layer",
            "MLP, tanh",
        ),
        Architecture(
            "mlp_gelu",
            "fully connected, two hidden layers with GELU, no normalization; width: units of a hidden layer",
            "MLP, GELU",
        ),
        Architecture(
            "mlp_layernorm",
            "fully connected, two residual blocks that begin with LayerNorm; width: units of every layer",
            "residual MLP",
        ),
        Architecture(
            "cnn",
            "three 3 x 3 convolutions without normalization; width: channels of the first, half of the others'",
            "CNN",
        ),
        Architecture("cnn_bn", "as cnn, with BatchNorm", "CNN, BatchNorm"),
        Architecture("cnn_gn", "as cnn, with GroupNorm of four groups", "CNN, GroupNorm"),
        Architecture(
            "cnn1d",
            "three convolutions of 5 taps for sequences; width: channels of the first, half of the others'",
            "1-D CNN",
        ),
        Architecture(
            "vit",
            "transformer of at most 25 square patches, two blocks; width: units of a token",
            "ViT",
        ),
        Architecture(
            "char_transformer",
            "causal transformer for token ids, two blocks; width: units of a token",
            "character transformer",
        ),
    ],
)
BINDERS[Architecture] = in_table(ARCHITECTURES, needs=("build",), may_have=("permutations",))

#: The architectures of the package, covered by its tests; those added by others are checked before training.
BUILT_IN = frozenset(ARCHITECTURES)
