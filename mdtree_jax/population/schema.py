"""Schemas of `conf/sweep.yaml` and `conf/grid/*.yaml`. No JAX, so `--help` is fast.

What is under `grid` decides the numbers and is compared when a run is continued; the rest says how and where to run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from mdtree_jax.population.cohort import Recipe
from mdtree_jax.population.grid import AXES, Grid


@dataclass
class GridConfig:
    """A grid: its axes (lists), its seeds, and the recipe all its members share."""

    name: str = MISSING
    dataset: str = "digits"
    model: str = "resnet8"
    width: list[int] = MISSING
    batch_size: list[int] = MISSING
    data_fraction: list[float] = field(default_factory=lambda: [1.0])
    learning_rate: list[float] = field(default_factory=lambda: [0.05])
    weight_decay: list[float] = field(default_factory=lambda: [5e-4])
    train_epochs: list[int] = field(default_factory=lambda: [50])
    num_seeds: int = 1
    seed: int = 0
    label_noise_fraction: float = 0.0
    label_noise_seed: int = 0
    optimizer: str = "sgd"
    momentum: float = 0.9
    schedule: str = "constant"
    early_stop: bool = True
    early_stop_min_epoch: int = 30
    early_stop_patience: int = 5
    early_stop_tolerance: float = 1e-4
    augment: bool = False
    eval_batch_size: int = 512
    dtype: str = "float32"


@dataclass
class SweepConfig:
    """One invocation of `python -m mdtree_jax.sweep`."""

    grid: GridConfig = MISSING
    out: str = "runs/${grid.name}"
    data_dir: str | None = None
    data_file: str | None = None
    dry_run: bool = False
    keep: str = "all"
    checkpoint_minutes: float = 15.0
    memory_gb: float | None = None
    num_devices: int | None = None
    csv: bool = False
    tensorboard: bool = False
    export_to: str | None = None
    import_from: str | None = None


def make_grid(config: GridConfig) -> Grid:
    """Return the frozen axes of `config`; raises `UserError` for values out of range."""
    axes = {axis: tuple(getattr(config, axis)) for axis in AXES}
    return Grid(**axes, num_seeds=config.num_seeds, seed=config.seed)


def make_recipe(config: GridConfig, num_classes: int, image_shape: tuple[int, int, int]) -> Recipe:
    """Return the frozen recipe of `config` for images of `image_shape` (height, width, channels)."""
    shared = {name: getattr(config, name) for name in Recipe.__dataclass_fields__ if hasattr(config, name)}
    return Recipe(**shared, num_classes=num_classes, image_shape=image_shape)
