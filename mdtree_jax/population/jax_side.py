"""What the command line needs of JAX: devices, the compilation cache, the cost of a network, the trainer. JAX."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import pandas as pd

from mdtree_jax.checks import check_choice
from mdtree_jax.data import DatasetShape
from mdtree_jax.models import build_model, count_flops, count_parameters, model_names
from mdtree_jax.population.cohort import Cohort, Recipe
from mdtree_jax.population.executor import ExecutorChoice, choose_executor, configure_devices
from mdtree_jax.population.measure import measure_cohort
from mdtree_jax.population.measure_settings import resolve
from mdtree_jax.population.plan import ModelCost, make_plan, measure_peak_flops
from mdtree_jax.population.run import Measurer, Trainer
from mdtree_jax.population.schema import GridConfig, SweepConfig
from mdtree_jax.population.train import train_cohort


def set_up_jax(config: SweepConfig) -> None:
    """Set devices, precision and compilation cache, and check the model's name, before the first computation.

    Compiled programs are kept in `$JAX_COMPILATION_CACHE_DIR`, else under the user's cache folder. Raises `UserError`
    for an unknown model.
    """
    import pooch

    check_choice("model", config.grid.model, model_names())
    jax.config.update("jax_enable_x64", config.grid.dtype == "float64")
    cache = jax.config.jax_compilation_cache_dir or pooch.os_cache("mdtree_jax") / "compiled"
    configure_devices(config.num_devices, cache)


def memory_budget_bytes(config: SweepConfig) -> int:
    """Return what a cohort's training may take: `memory_gb`, else half the free memory (accelerators: most of it)."""
    if config.memory_gb is not None:
        return int(config.memory_gb * 1e9)
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.devices()]
    if all(limits):
        return int(0.8 * sum(limits))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def jax_trainer(config: SweepConfig) -> Trainer:
    """Return the trainer that `run_sweep` calls."""
    dtype, seconds = config.grid.dtype, 60.0 * config.checkpoint_minutes

    def choose(recipe: Recipe, cohort: Cohort) -> ExecutorChoice:
        return choose_executor(recipe, cohort, memory_budget_bytes(config), dtype=dtype)

    def decode(values: dict[str, Any]) -> ExecutorChoice | None:
        choice, devices = ExecutorChoice(**values), jax.devices()
        fits = choice.platform == devices[0].platform and choice.num_devices <= len(devices)
        return choice if fits else None

    train = functools.partial(train_cohort, dtype=dtype, checkpoint_seconds=seconds)
    return Trainer(choose=choose, train=train, encode=dataclasses.asdict, decode=decode)


def jax_measurer(config: SweepConfig) -> Measurer:
    """Return the measurer that `run_sweep` calls; raises `UserError` for settings out of range."""
    settings = resolve(config.grid.measure)

    def measure(*arguments: Any, **options: Any) -> Any:
        return measure_cohort(
            *arguments,
            settings,
            memory_budget_bytes=memory_budget_bytes(config),
            dtype=config.grid.dtype,
            checkpoint_seconds=60.0 * config.checkpoint_minutes,
            **options,
        )

    return Measurer(config=dataclasses.asdict(settings), measure=measure)


def describe_devices() -> list[str]:
    """Return the kind of every device, for the manifest."""
    return [device.device_kind for device in jax.devices()]


def model_cost(grid: GridConfig, shape: DatasetShape, width: int) -> ModelCost:
    """Return parameters, stored bytes and forward operations of one network, computing none of them."""
    model = build_model(grid.model, width, shape.num_classes, tuple(shape.image_shape), grid.dtype)
    leaves = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
    num_bytes = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)
    return ModelCost(count_parameters(model), num_bytes, count_flops(model, tuple(shape.image_shape), grid.dtype))


def _peak_flops(size: int = 4096) -> float:
    """Return the rate of a float32 matrix product, operations/s: of the processor, or of all accelerators together."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return measure_peak_flops()
    matrix = jax.device_put(np.ones((size, size), np.float32), devices[0])
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    start = time.perf_counter()
    for _ in range(10):
        result = product(matrix)
    result.block_until_ready()
    return 10 * 2.0 * size**3 / (time.perf_counter() - start) * len(devices)


def plan_here(
    config: SweepConfig, cohorts: Iterable[Cohort], shape: DatasetShape, finished: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the plan of the sweep on this machine; see `make_plan`."""
    costs = {width: model_cost(config.grid, shape, width) for width in config.grid.width}
    return make_plan(
        cohorts,
        costs.__getitem__,
        num_test=shape.num_test,
        keep_checkpoints=config.keep == "all",
        peak_flops=_peak_flops(),
        finished=finished,
    )
