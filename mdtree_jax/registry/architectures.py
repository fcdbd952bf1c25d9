"""The architectures: networks that a sweep can train and a diagnosis can load. No JAX.

Builders, and the rules of permutation alignment, are bound to an entry by `mdtree_jax.models`; how a builder is called
stands in `mdtree_jax.models.base`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: identifier, as grids, manifests and command lines hold it.
        meaning: one line for help and tables; says what the knob `width` counts.
        title: what people call it; the name where it is empty.
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
            "resnet8 in finer steps; width: channels of the last of its three stages",
            "ResNet-8",
        ),
    ],
)
BINDERS[Architecture] = in_table(ARCHITECTURES, needs=("build",), may_have=("permutations",))

#: Those of the package, which its tests check; what others add is checked before it is trained.
BUILT_IN = frozenset(ARCHITECTURES)
