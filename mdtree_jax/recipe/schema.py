"""Schemas of `conf/sweep.yaml` and `conf/grid/*.yaml`. No JAX, so `--help` is fast.

Settings under `grid` determine the results and are compared when a run is resumed; the others say how and where to run.
The schema of a grid has a key for every knob (`mdtree_jax.registry.knobs`), so `sweep_schema` creates it when a
configuration is composed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, make_dataclass
from math import inf
from typing import Any

from omegaconf import MISSING, BooleanNode, FloatNode, IntegerNode, StringNode
from omegaconf.errors import ValidationError

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.recipe.axes import Grid
from mdtree_jax.recipe.cohort import MOST_HISTORY_POINTS, PRECISIONS, Recipe
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.recipe.setting import setting
from mdtree_jax.registry.datasets import DATASETS, DatasetShape
from mdtree_jax.registry.kernels import PAIR_CHOICES
from mdtree_jax.registry.knobs import KNOBS, Knob
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE, find_objective

DTYPES = ("float32", "float64")
KEEP = ("all", "metrics_only")
STAGES = ("train", "measure")
#: Devices of one process.
MOST_DEVICES = 1024
#: What runs the cohorts: `local` is this process, one after the other.
ENGINES = ("local",)


#: Settings of a grid that came after runs without them -> the value that those have.
ADDED_LATER: dict[str, Any] = {
    "objective": DEFAULT_OBJECTIVE,
    "validation_fraction": 0.0,
    "precision": PRECISIONS[0],
}
#: Knobs that took one value before they could be axes: one value is shown and recorded as it was then, without a list.
_ONE_VALUE = ("optimizer", "momentum", "schedule", "augment")
#: Columns of the tables of a sweep (`mdtree_jax.store.tables`) that are neither knobs nor measurements.
COLUMNS = ("configuration", "seed", "seed_a", "seed_b", "layer", "status", "cohort", "stop_epoch", "train_seconds")
COLUMNS += ("train_flops", "num_finite", "num_not_measurable", "num_not_converged")
_NODES = {int: IntegerNode, float: FloatNode, str: StringNode, bool: BooleanNode}


class GridConfig:
    """A grid: its seeds, and what all its members share; `grid_schema` adds a key for every knob.

    A plain class, because a dataclass would put its fields before those of the dataclass that is made of it.
    """

    name: str = setting("name of the grid and of its run folder")
    dataset: str = setting("data set: one of those below, or your own package.module:function", "digits")
    model: str = setting("architecture: one of those below, or your own package.module:function", "resnet8")
    objective: str = setting(
        "what training minimizes: one of those below, or your own package.module:name", DEFAULT_OBJECTIVE
    )
    num_seeds: int = setting("networks per configuration; connectivity and similarity need two or more", 1)
    seed: int = setting("seed of the first network; the others use the following seeds", 0)
    label_noise_fraction: float = setting(
        "fraction of the training labels that are redrawn uniformly over all classes", 0.0
    )
    label_noise_seed: int = setting("seed for redrawing labels, which are the same for all networks", 0)
    validation_fraction: float = setting(
        "fraction of the test set, drawn by a fixed seed, that becomes the validation set instead", 0.0
    )
    history_points: int | None = setting(
        "points of each network's learning curve that are recorded, at most 32; null: 32 with a validation set, else 0",
        None,
    )
    early_stop: bool = setting("keep the network of the epoch at which the loss has converged, not the last one", True)
    early_stop_min_epoch: int = setting("earliest epoch that can be kept", 30)
    early_stop_patience: int = setting("the loss has converged after this many consecutive changes of its mean …", 5)
    early_stop_tolerance: float = setting("… of at most this amount, in nats", 1e-4)
    eval_batch_size: int = setting("batch size for evaluating errors", 512)
    dtype: str = setting("float32 | float64", "float32")
    precision: str = setting(
        "float32 | tensorfloat32 | bfloat16: of the factors of a network's products, on accelerators that have it; "
        "training and measuring alike",
        PRECISIONS[0],
    )
    measure: MeasureConfig = field(default_factory=MeasureConfig)


def grid_schema() -> type[GridConfig]:
    """Return the dataclass of a grid, with the knobs that there are now after `model`; each takes a list or one value.

    Raises:
        UserError: a knob that has the name of another setting, or of another column of a sweep's tables.
    """
    for name in KNOBS:
        for taken, what in ((GridConfig.__annotations__, "setting"), ((*COLUMNS, *MEASUREMENTS), "column of a sweep")):
            if name in taken:
                raise UserError(f"the knob '{name}' has the name of another {what}; choose another")
    fields = [(name, kind, getattr(GridConfig, name)) for name, kind in GridConfig.__annotations__.items()]
    place = 1 + list(GridConfig.__annotations__).index("model")
    fields[place:place] = [(name, Any, _knob_setting(knob)) for name, knob in KNOBS.items()]
    return make_dataclass("GridConfig", fields, bases=(GridConfig,), namespace={"__module__": __name__})


def _knob_setting(knob: Knob) -> Any:
    if knob.default is None:
        return setting(f"axis: {knob.meaning}")
    return setting(f"axis: {knob.meaning}", knob.default if knob.name in _ONE_VALUE else [knob.default])


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
    explorer: bool = True
    engine: str = "local"
    shard: str | None = None
    cohorts: list[str] | None = None
    merge: list[str] | None = None
    check_files: bool = False
    export_to: str | None = None
    import_from: str | None = None
    verify: int | None = None
    verify_seed: int = 0
    plugins: list[str] = field(default_factory=list)


def sweep_schema() -> type[SweepConfig]:
    """Return the schema of a sweep, with the knobs that there are now."""
    grid = ("grid", grid_schema(), field(default=MISSING))
    return make_dataclass("SweepConfig", [grid], bases=(SweepConfig,), namespace={"__module__": __name__})


def make_grid(config: GridConfig) -> Grid:
    """Return the frozen axes of `config`; raises `UserError` for values of another type or out of range."""
    axes = {name: _values(knob, getattr(config, name)) for name, knob in KNOBS.items() if hasattr(config, name)}
    return Grid(**axes, num_seeds=config.num_seeds, seed=config.seed)


def _values(knob: Knob, given: Any) -> tuple[Any, ...]:
    """Return the values of an axis, given as a list or as one value; raises `UserError` for another type."""
    values = given if isinstance(given, (list, tuple)) else [given]
    try:
        return tuple(_NODES[knob.kind](value, is_optional=False)._value() for value in values)
    except ValidationError as error:
        shown = f"[{','.join(map(str, values))}]" if values is given else given
        kind = knob.kind.__name__
        raise UserError(
            f"grid.{knob.name}={shown} has the wrong type: grid.{knob.name} must be list[{kind}], or one {kind}"
        ) from error


def recipe_of(config: GridConfig, shape: DatasetShape) -> Recipe:
    """Return the frozen recipe of `config` for a data set of this shape."""
    of_data = {name: getattr(shape, name) for name in ("input_kind", "target_shape", "target_kind")}
    return make_recipe(config, shape.num_outputs, shape.image_shape, **of_data)


def make_recipe(config: GridConfig, num_classes: int, image_shape: tuple[int, ...], **of_data: Any) -> Recipe:
    """Return the frozen recipe of `config` for inputs of `image_shape`, for images (height, width, channels).

    `of_data` are the further fields of `Recipe` that say what the data are.
    """
    shared = {name: getattr(config, name) for name in Recipe.__dataclass_fields__ if hasattr(config, name)}
    return Recipe(**shared, num_classes=num_classes, image_shape=image_shape, **of_data)


def resolved_config(config: GridConfig) -> dict[str, Any]:
    """Return what decides the trained networks of a run, as plain values: the grid without name and measurement.

    A knob that the grid does not use is left out unless grids have always held it, so that a run that was begun before
    there was such a knob can go on. So is a setting of `ADDED_LATER` at the value there. How much of the learning
    curves is recorded decides nothing.
    """
    grid = make_grid(config)
    left_out = {"name", "measure", "history_points"}
    left_out |= {name for name, value in ADDED_LATER.items() if getattr(config, name) == value}
    values = {name: getattr(config, name) for name in GridConfig.__annotations__ if name not in left_out}
    for name, axis in grid.axes.items():
        if name in _ONE_VALUE and len(axis) == 1:
            values[name] = axis[0]
        elif name in grid.used or name in _ONE_VALUE:
            values[name] = list(axis)
    return values


def check_settings(config: SweepConfig) -> None:
    """Raise `UserError` for a choice that does not exist or a number out of range."""
    grid = config.grid
    if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", grid.name):
        raise UserError(f"grid.name='{grid.name}' is not a valid name; use letters, digits and . + - _")
    _check_objective(grid)
    check_choice("dtype", grid.dtype, DTYPES)
    check_choice("precision", grid.precision, PRECISIONS)
    if grid.dtype == "float64" and grid.precision != PRECISIONS[0]:
        raise UserError(f"grid.precision={grid.precision} cuts float32, and grid.dtype=float64; leave one of them out")
    check_choice("keep", config.keep, KEEP)
    check_choice("engine", config.engine, ENGINES)
    for stage in config.stages:
        check_choice("stage", stage, STAGES)
    if not config.stages:
        raise UserError(f"stages=[] does nothing; available: {', '.join(STAGES)}")
    if "measure" in config.stages:
        of_pairs = [metric for metric in resolve(grid.measure).metrics if metric in PAIR_CHOICES]
        if of_pairs and grid.num_seeds < 2:
            raise UserError(
                f"grid.num_seeds={grid.num_seeds} trains one network a configuration, and the metrics "
                f"{', '.join(of_pairs)} compare two; set grid.num_seeds=2 or more, or grid.measure.metrics="
                "[hessian,sharpness], or stages=[train]"
            )
    _check_combined(config)
    if config.verify is not None and set(config.stages) != set(STAGES):
        raise UserError(f"verify={config.verify} needs both stages, and stages={config.stages} leaves one out")
    if config.verify is None and config.verify_seed != SweepConfig.verify_seed:
        raise UserError(f"verify_seed={config.verify_seed} is of no use without verify=, the number of configurations")
    _check_files(config)
    points, whole = grid.history_points or 0, "at least 1 and below 2^31"
    for name, value, good, wanted in (
        ("grid.early_stop_min_epoch", grid.early_stop_min_epoch, 1 <= grid.early_stop_min_epoch < 2**31, whole),
        ("grid.early_stop_patience", grid.early_stop_patience, 1 <= grid.early_stop_patience < 2**31, whole),
        ("grid.early_stop_tolerance", grid.early_stop_tolerance, grid.early_stop_tolerance >= 0.0, "0 or above"),
        ("grid.label_noise_fraction", grid.label_noise_fraction, 0.0 <= grid.label_noise_fraction <= 1.0, "in [0, 1]"),
        ("grid.label_noise_seed", grid.label_noise_seed, 0 <= grid.label_noise_seed < 2**32, "0 to 2^32 - 1"),
        ("grid.validation_fraction", grid.validation_fraction, 0.0 <= grid.validation_fraction < 1.0, "in [0, 1)"),
        ("grid.history_points", points, 0 <= points <= MOST_HISTORY_POINTS, f"0 to {MOST_HISTORY_POINTS}"),
        ("grid.eval_batch_size", grid.eval_batch_size, 1 <= grid.eval_batch_size < 2**31, whole),
        ("checkpoint_minutes", config.checkpoint_minutes, config.checkpoint_minutes > 0.0, "above 0"),
        ("memory_gb", config.memory_gb, config.memory_gb is None or 0.0 < config.memory_gb < inf, "above 0, finite"),
        ("verify_seed", config.verify_seed, 0 <= config.verify_seed < 2**32, "0 to 2^32 - 1"),
        (
            "num_devices",
            config.num_devices,
            config.num_devices is None or 1 <= config.num_devices <= MOST_DEVICES,
            f"1 to {MOST_DEVICES}",
        ),
    ):
        if not good:
            raise UserError(f"{name}={value:g} is out of range; it must be {wanted}")


def _check_combined(config: SweepConfig) -> None:
    """Raise `UserError` for two settings that each say what to do in place of a plain run, or for an empty `merge=`."""
    asked = {"dry_run=true": config.dry_run, "verify=": config.verify is not None}
    asked |= {"import_from= or export_to=": config.import_from is not None or config.export_to is not None}
    asked |= {"merge=": config.merge is not None}
    if config.shard is not None or config.cohorts is not None:
        asked.pop("dry_run=true")
        asked |= {"shard=": config.shard is not None, "cohorts=": config.cohorts is not None}
    if sum(asked.values()) > 1:
        raise UserError(
            f"{' and '.join(name for name, given in asked.items() if given)} cannot be combined; give only one"
        )
    if config.merge == []:
        raise UserError("merge=[] joins nothing; write merge=[folder,folder]")


def _check_objective(config: GridConfig) -> None:
    """Raise `UserError` for an unknown objective, and for settings that mean nothing without classes."""
    objective, grid = find_objective(config.objective), make_grid(config)
    if objective.has_classes:
        return
    if grid.axes["label_smoothing"] != (0.0,):
        raise UserError(
            f"grid.label_smoothing={list(grid.axes['label_smoothing'])} spreads probability over classes, and "
            f"grid.objective={config.objective} has none; leave it out"
        )


def _check_files(config: SweepConfig) -> None:
    """Raise `UserError` for a file or folder that the data set does not take; of a user's function its loading says."""
    dataset = config.grid.dataset
    takes = DATASETS[dataset].takes if dataset in DATASETS else None
    if takes is not None and config.data_file is not None and takes != "data_file":
        raise UserError(f"data_file='{config.data_file}' is for grid.dataset=npz, but the data set is '{dataset}'")
    if takes is not None and config.data_dir is not None and takes != "data_dir":
        raise UserError(f"data_dir='{config.data_dir}' is given, but the data set '{dataset}' takes no folder")
