"""What is trained: the recipe of a grid, and cohorts of members that share every static setting. No JAX.

A static knob (width, batch size, number of epochs, optimizer …) changes shapes, loop lengths or the program, so it cuts
the grid into cohorts; a batched one (data fraction, learning rate …) and the seed go along the population axis.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE, Objective

#: Knobs with their values, in the order of the table; hashable.
Values = tuple[tuple[str, Any], ...]


#: How a network's products are computed in float32 arithmetic; `mdtree_jax.lowering` says what a platform has of them.
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
#: Points of a learning curve that a run records at most.
MOST_HISTORY_POINTS = 32


@dataclass(frozen=True)
class Recipe:
    """Everything that is the same for a whole grid and is no knob.

    `num_classes` is the number of a network's outputs (for a sequence, at each place), `image_shape` the shape of one
    input, for images (height, width, channels), `target_shape` that of one target; arrays of kind `float` are computed
    in the arithmetic's type, those of kind `int` are int32. The early-stop snapshot is the first epoch ≥
    `early_stop_min_epoch` after `early_stop_patience` consecutive changes of the mean training loss ≤
    `early_stop_tolerance` (in its unit); else the epoch of lowest training loss; else the last. Of each network's
    learning curve, `history_points` are recorded; None is all that can be where there is a validation set, else none.
    `precision`, of `PRECISIONS`, is that of the products and convolutions of a network.
    """

    dataset: str
    model: str
    num_classes: int
    image_shape: tuple[int, ...]
    early_stop: bool = True
    early_stop_min_epoch: int = 30
    early_stop_patience: int = 5
    early_stop_tolerance: float = 1e-4
    eval_batch_size: int = 512
    objective: str | Objective = DEFAULT_OBJECTIVE
    input_kind: str = "float"
    target_shape: tuple[int, ...] = ()
    target_kind: str = "int"
    history_points: int | None = None
    precision: str = PRECISIONS[0]

    def recorded_points(self, *, has_validation: bool) -> int:
        """Return how many points of a learning curve are recorded at most, 0 for none."""
        if self.history_points is None:
            return MOST_HISTORY_POINTS if has_validation else 0
        return self.history_points


class _WithKnobs:
    """What has values of knobs: fields for those that every grid has, `knobs` for the others."""

    knobs: Values

    def value(self, name: str) -> Any:
        """Return what a knob is set to: its default where the grid does not use it.

        >>> Cohort(width=8, batch_size=64, train_epochs=50, members=()).value("optimizer")
        'sgd'
        """
        return getattr(self, name) if name in vars(self) else dict(self.knobs).get(name, KNOBS[name].default)


@dataclass(frozen=True)
class Member(_WithKnobs):
    """One network of a population: what is batched along the population axis.

    `index` is the configuration's row in the grid, the same for all seeds; `num_samples` is the length of the prefix
    of the training set it sees; `knobs` are further batched knobs that the grid uses.
    """

    index: int
    seed: int
    num_samples: int
    data_fraction: float
    learning_rate: float
    weight_decay: float
    knobs: Values = ()


@dataclass(frozen=True)
class Cohort(_WithKnobs):
    """Members of one static shape: they train in one compiled program.

    `knobs` are further static knobs that the grid uses.
    """

    width: int
    batch_size: int
    train_epochs: int
    members: tuple[Member, ...]
    knobs: Values = ()

    @property
    def key(self) -> str:
        """The cohort's name in run folders; a further knob is in it where it is not at its default.

        So a cohort keeps its name when its grid gets another axis.

        >>> Cohort(width=8, batch_size=64, train_epochs=50, members=()).key
        'w8-b64-e50'
        >>> Cohort(8, 64, 50, (), (("optimizer", "adamw"), ("momentum", 0.9))).key
        'w8-b64-e50-oadamw'
        """
        known = (("width", self.width), ("batch_size", self.batch_size), ("train_epochs", self.train_epochs))
        changed = ((name, value) for name, value in self.knobs if value != KNOBS[name].default)
        return "-".join((KNOBS[name].prefix or name) + _text(value) for name, value in (*known, *changed))

    @property
    def shape(self) -> Cohort:
        """The cohort without its members: what its programs depend on beside the recipe."""
        return dataclasses.replace(self, members=())

    @property
    def batched(self) -> tuple[str, ...]:
        """The further batched knobs that the grid uses."""
        return tuple(name for name, _ in self.members[0].knobs)


def _text(value: Any) -> str:
    """Return a value as a part of a file's name, different for different values.

    >>> _text(64), _text(0.1), _text(True), _text("step")
    ('64', '0.1', '1', 'step')
    """
    if not isinstance(value, float):
        return str(int(value) if isinstance(value, bool) else value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
