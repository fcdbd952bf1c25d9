"""The architectures: networks that a sweep can train and a diagnosis can load. No JAX.

Builders, and the rules of permutation alignment, are bound to an entry by `mdtree_jax.models`; how a builder is called
stands in `mdtree_jax.models.base`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdtree_jax.registry.table import Table


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: identifier, as grids, manifests and command lines hold it.
        meaning: one line for help and tables.
        title: what people call it; the name where it is empty.
        width: what the knob `width` counts of it.
    """

    name: str
    meaning: str = ""
    title: str = ""
    width: str = "channels of the first stage"


ARCHITECTURES: Table[Architecture] = Table(
    "model",
    [
        Architecture(
            "mlp",
            "fully connected, two hidden layers with BatchNorm",
            "MLP",
            width="units of a hidden layer",
        ),
        Architecture(
            "resnet18",
            "residual network for images of about 32 x 32 pixels, four stages of two blocks",
            "ResNet-18",
        ),
        Architecture(
            "resnet8",
            "residual network for images of about 10 x 10 pixels, three stages of one block",
            "ResNet-8",
        ),
        Architecture(
            "resnet8_fine",
            "resnet8 in steps of a quarter of its width",
            "ResNet-8",
            width="channels of the last stage",
        ),
    ],
)

#: Those of the package, which its tests check; what others add is checked before it is trained.
BUILT_IN = frozenset(ARCHITECTURES)
