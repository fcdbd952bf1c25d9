"""What is trained: the recipe of a grid, and cohorts of members that share every static shape. No JAX.

Width, batch size and the number of epochs change shapes or loop lengths, so they cut the grid into cohorts; seed,
data fraction, learning rate and weight decay are batched along the population axis.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Everything that is the same for a whole grid.

    `image_shape` is (height, width, channels); `optimizer` is sgd or adamw; `schedule` is constant, step or cosine.
    The early-stop snapshot is the first epoch ≥ `early_stop_min_epoch` after `early_stop_patience` consecutive changes
    of the mean training loss ≤ `early_stop_tolerance` (nats); else the epoch of lowest training loss; else the last.
    """

    dataset: str
    model: str
    num_classes: int
    image_shape: tuple[int, int, int]
    optimizer: str = "sgd"
    momentum: float = 0.9
    schedule: str = "constant"
    early_stop: bool = True
    early_stop_min_epoch: int = 30
    early_stop_patience: int = 5
    early_stop_tolerance: float = 1e-4
    augment: bool = False
    eval_batch_size: int = 512


@dataclass(frozen=True)
class Member:
    """One network of a population: what is batched along the population axis.

    `index` is the configuration's row in the grid, the same for all seeds; `num_samples` is the length of the prefix
    of the training set it sees.
    """

    index: int
    seed: int
    num_samples: int
    data_fraction: float
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Cohort:
    """Members of one static shape: they train in one compiled program."""

    width: int
    batch_size: int
    train_epochs: int
    members: tuple[Member, ...]

    @property
    def key(self) -> str:
        """The cohort's name in run folders.

        >>> Cohort(width=8, batch_size=64, train_epochs=50, members=()).key
        'w8-b64-e50'
        """
        return f"w{self.width}-b{self.batch_size}-e{self.train_epochs}"
