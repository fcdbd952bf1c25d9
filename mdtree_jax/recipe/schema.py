"""Schemas of `conf/sweep.yaml` and `conf/grid/*.yaml`. No JAX, so `--help` is fast.

What is under `grid` decides the numbers and is compared when a run is continued; the rest says how and where to run.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

from omegaconf import MISSING

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.recipe.axes import AXES, Grid
from mdtree_jax.recipe.cohort import Recipe
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.recipe.setting import setting
from mdtree_jax.registry.datasets import DATASETS
from mdtree_jax.registry.kernels import PAIR_CHOICES

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "step", "cosine")
DTYPES = ("float32", "float64")
KEEP = ("all", "metrics_only")
STAGES = ("train", "measure")


@dataclass
class GridConfig:
    """A grid: its axes (lists), its seeds, and the recipe all its members share."""

    name: str = setting("of the grid, and of its run folder")
    dataset: str = setting("data set, one of those below, or a function of your own", "digits")
    model: str = setting("architecture, one of those below, or a function of your own", "resnet8")
    width: list[int] = setting("axis: channels of the first stage (resnet8_fine: the last; mlp: units of a layer)")
    batch_size: list[int] = setting("axis: images of a training step")
    data_fraction: list[float] = setting("axis: share of the training set, in (0, 1]; its first images", [1.0])
    learning_rate: list[float] = setting("axis: at the start of the schedule", [0.05])
    weight_decay: list[float] = setting("axis: on every parameter", [5e-4])
    train_epochs: list[int] = setting("axis: passes over the subset", [50])
    num_seeds: int = setting("networks of each configuration; two or more for connectivity and similarity", 1)
    seed: int = setting("of the first; the others count up", 0)
    label_noise_fraction: float = setting("share of the training labels that are drawn anew from all classes", 0.0)
    label_noise_seed: int = setting("which labels; the same for all networks", 0)
    optimizer: str = setting("sgd | adamw", "sgd")
    momentum: float = setting("of sgd; beta1 of adamw", 0.9)
    schedule: str = setting("of the learning rate: constant | step | cosine", "constant")
    early_stop: bool = setting("keep the network of the epoch where the loss has settled, not the last", True)
    early_stop_min_epoch: int = setting("not before this epoch", 30)
    early_stop_patience: int = setting("settled: so many changes of the mean loss in a row …", 5)
    early_stop_tolerance: float = setting("… are at most this, nats", 1e-4)
    augment: bool = setting("random crops and flips", False)
    eval_batch_size: int = setting("images at a time when errors are measured", 512)
    dtype: str = setting("float32 | float64", "float32")
    measure: MeasureConfig = field(default_factory=MeasureConfig)


@dataclass
class SweepConfig:
    """One invocation of `python -m mdtree_jax.sweep`."""

    grid: GridConfig = MISSING
    stages: list[str] = field(default_factory=lambda: list(STAGES))
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
    verify: int | None = None
    verify_seed: int = 0
    plugins: list[str] = field(default_factory=list)


def make_grid(config: GridConfig) -> Grid:
    """Return the frozen axes of `config`; raises `UserError` for values out of range."""
    axes = {axis: tuple(getattr(config, axis)) for axis in AXES}
    return Grid(**axes, num_seeds=config.num_seeds, seed=config.seed)


def make_recipe(config: GridConfig, num_classes: int, image_shape: tuple[int, int, int]) -> Recipe:
    """Return the frozen recipe of `config` for images of `image_shape` (height, width, channels)."""
    shared = {name: getattr(config, name) for name in Recipe.__dataclass_fields__ if hasattr(config, name)}
    return Recipe(**shared, num_classes=num_classes, image_shape=image_shape)


def resolved_config(config: GridConfig) -> dict[str, Any]:
    """Return what decides the trained networks of a run, as plain values: the grid without name and measurement."""
    values = asdict(config)
    del values["name"], values["measure"]
    return values


def check_settings(config: SweepConfig) -> None:
    """Raise `UserError` for a choice that does not exist or a number out of range; the axes check themselves."""
    grid = config.grid
    if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", grid.name):
        raise UserError(f"grid.name='{grid.name}' is no name; wanted letters, digits and . + - _")
    check_choice("optimizer", grid.optimizer, OPTIMIZERS)
    check_choice("schedule", grid.schedule, SCHEDULES)
    check_choice("dtype", grid.dtype, DTYPES)
    check_choice("keep", config.keep, KEEP)
    for stage in config.stages:
        check_choice("stage", stage, STAGES)
    if not config.stages:
        raise UserError(f"stages=[] does nothing; there are: {', '.join(STAGES)}")
    if "measure" in config.stages:
        of_pairs = [metric for metric in resolve(grid.measure).metrics if metric in PAIR_CHOICES]
        if of_pairs and grid.num_seeds < 2:
            raise UserError(
                f"grid.num_seeds={grid.num_seeds} trains one network a configuration, and the metrics "
                f"{', '.join(of_pairs)} compare two; set grid.num_seeds=2 or more, or grid.measure.metrics="
                "[hessian,sharpness], or stages=[train]"
            )
    asked = {"dry_run=true": config.dry_run, "verify=": config.verify is not None}
    asked |= {"import_from= or export_to=": config.import_from is not None or config.export_to is not None}
    if sum(asked.values()) > 1:
        raise UserError(f"{' and '.join(name for name, given in asked.items() if given)} exclude each other; give one")
    if config.verify is not None and set(config.stages) != set(STAGES):
        raise UserError(f"verify={config.verify} needs both stages, and stages={config.stages} leaves one out")
    _check_files(config)
    for name, value, good, wanted in (
        ("grid.momentum", grid.momentum, 0.0 <= grid.momentum < 1.0, "in [0, 1)"),
        ("grid.early_stop_min_epoch", grid.early_stop_min_epoch, grid.early_stop_min_epoch >= 1, "at least 1"),
        ("grid.early_stop_patience", grid.early_stop_patience, grid.early_stop_patience >= 1, "at least 1"),
        ("grid.early_stop_tolerance", grid.early_stop_tolerance, grid.early_stop_tolerance >= 0.0, "0 or above"),
        ("grid.label_noise_fraction", grid.label_noise_fraction, 0.0 <= grid.label_noise_fraction <= 1.0, "in [0, 1]"),
        ("grid.label_noise_seed", grid.label_noise_seed, grid.label_noise_seed >= 0, "0 or above"),
        ("grid.eval_batch_size", grid.eval_batch_size, grid.eval_batch_size >= 1, "at least 1"),
        ("checkpoint_minutes", config.checkpoint_minutes, config.checkpoint_minutes > 0.0, "above 0"),
        ("memory_gb", config.memory_gb, config.memory_gb is None or 0.0 < config.memory_gb < inf, "above 0, finite"),
        ("verify_seed", config.verify_seed, config.verify_seed >= 0, "0 or above"),
        ("num_devices", config.num_devices, config.num_devices is None or config.num_devices >= 1, "at least 1"),
    ):
        if not good:
            raise UserError(f"{name}={value:g} is out of range; wanted {wanted}")


def _check_files(config: SweepConfig) -> None:
    """Raise `UserError` for a file or folder that the data set does not take; of a user's function its loading says."""
    dataset = config.grid.dataset
    takes = DATASETS[dataset].takes if dataset in DATASETS else None
    if takes is not None and config.data_file is not None and takes != "data_file":
        raise UserError(f"data_file='{config.data_file}' is for grid.dataset=npz, but the data set is '{dataset}'")
    if takes is not None and config.data_dir is not None and takes != "data_dir":
        raise UserError(f"data_dir='{config.data_dir}' is given, but the data set '{dataset}' takes no folder")
