"""The objectives: what training minimizes, and what counts as an error. No JAX.

`mdtree_jax.training.loss` binds two functions to each: `loss(outputs, targets) -> (batch,)`, which is minimized, and
`error(outputs, targets) -> (batch,)`, which is reported as training and test error.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table


@dataclass(frozen=True)
class Objective:
    """One objective.

    Attributes:
        name: identifier.
        meaning: one line for help and tables.
        unit: of the loss.
        error: the definition of the error of an example.
        error_unit: of the mean error over examples.
        chance: loss and error of a network that has learned nothing.
    """

    name: str
    meaning: str = ""
    unit: str = "1"
    error: str = ""
    error_unit: str = "1"
    chance: str = ""


DEFAULT_OBJECTIVE = "cross_entropy"

OBJECTIVES: Table[Objective] = Table(
    "objective",
    [
        Objective(
            DEFAULT_OBJECTIVE,
            "mean cross-entropy of the softmax of the logits, for one class of several",
            unit="nats",
            error="whether the largest logit is another class",
            error_unit="%",
            chance="a guess among c classes of equal size is wrong in 100 (1 - 1/c) % and has a loss of ln c nats",
        )
    ],
)
BINDERS[Objective] = in_table(OBJECTIVES, needs=("loss", "error"))
