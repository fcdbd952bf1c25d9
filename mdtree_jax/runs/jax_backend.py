"""What the command line needs of JAX: devices, the compilation cache, the cost of a network, the trainer. JAX."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from mdtree_jax import lowering
from mdtree_jax.data import DatasetShape
from mdtree_jax.measuring.measure import measure_cohort
from mdtree_jax.measuring.programs import check_kernels
from mdtree_jax.models import check_widths, count_activations, count_flops, count_parameters, variables_hash
from mdtree_jax.population.executor import ExecutorChoice, choose_executor, configure_devices
from mdtree_jax.population.programs import abstract_examples, input_of, model_of
from mdtree_jax.population.train import prepare_cohort, train_cohort
from mdtree_jax.recipe.axes import make_cohorts
from mdtree_jax.recipe.cohort import Cohort, Recipe
from mdtree_jax.recipe.measure_settings import ADDED_LATER, resolve
from mdtree_jax.recipe.schema import SweepConfig, make_grid, recipe_of
from mdtree_jax.registry.architectures import BUILT_IN
from mdtree_jax.runs.plan import Machine, ModelCost, cpu_machine, left_to_do, make_plan
from mdtree_jax.runs.run import Measurer, Trainer
from mdtree_jax.store.parts import Parts


def set_up_jax(config: SweepConfig) -> None:
    """Set devices, precision and compilation cache before the first computation, then check the model's name.

    Compiled programs are kept in `$JAX_COMPILATION_CACHE_DIR`, else under the user's cache folder. Raises `UserError`
    for an unknown model.
    """
    jax.config.update("jax_enable_x64", config.grid.dtype == "float64")
    set_up_devices(config.num_devices)
    for precision in {config.grid.precision, config.grid.measure.precision or config.grid.precision}:
        lowering.check_precision(precision, is_built_in=config.grid.model in BUILT_IN)
    check_widths(
        config.grid.model, make_grid(config.grid).axes["width"]
    )  # imports a module of the user's, which may compute


def model_identity(config: SweepConfig, shape: DatasetShape) -> dict[str, str]:
    """Return by what a run folder knows a model again that is not the package's, and so can change between two runs."""
    if config.grid.model in BUILT_IN:
        return {}
    recipe, cohorts = _recipe_and_cohorts(config, shape)
    smallest = min(cohorts, key=lambda cohort: cohort.width)
    return {"model_hash": variables_hash(model_of(recipe, smallest, config.grid.dtype))}


def _recipe_and_cohorts(config: SweepConfig, shape: DatasetShape) -> tuple[Recipe, tuple[Cohort, ...]]:
    return _recipe(config, shape), make_cohorts(make_grid(config.grid), shape.num_train)


def _recipe(config: SweepConfig, shape: DatasetShape) -> Recipe:
    return recipe_of(config.grid, shape)


def set_up_devices(num_devices: int | None = None) -> None:
    """Set devices (None: all there are) and the compilation cache before the first computation.

    Raises `UserError` where `JAX_PLATFORMS` asks for a device that is not there.
    """
    configure_devices(num_devices, _cache_folder())
    lowering.local_devices()  # a platform that is not there is refused now


def keep_programs() -> None:
    """Keep compiled programs from now on where a sweep does, unless the user has chosen a folder; no device is set."""
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", os.fspath(_cache_folder()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cache_folder() -> str | os.PathLike:
    import pooch

    # The stub of JAX does not list this setting.
    given = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    return given or pooch.os_cache("mdtree_jax") / "compiled"


def memory_budget_bytes(config: SweepConfig) -> int:
    """Return what a cohort's training may take: `memory_gb`, else as `device_memory_bytes`."""
    return device_memory_bytes() if config.memory_gb is None else int(config.memory_gb * 1e9)


def device_memory_bytes() -> int:
    """Return what a computation may take of the devices together: most of accelerators, half of what the host has."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in lowering.local_devices()]
    if all(limits):
        return int(0.8 * sum(limits))
    return available_host_bytes() // 2


def available_host_bytes(proc: Path = Path("/proc"), control: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that new programs can have: what the system says, within the limit of a container.

    Pages that only cache files count as free. Where the system says nothing, half of all memory is taken.
    """
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with contextlib.suppress(OSError, ValueError, KeyError):
        available = 1024 * _numbers(proc / "meminfo")["MemAvailable:"]
    with contextlib.suppress(OSError, ValueError, KeyError):  # "max" where there is no limit
        limit, used = (int((control / f"memory.{name}").read_text()) for name in ("max", "current"))
        available = min(available, limit - used + _numbers(control / "memory.stat")["inactive_file"])
    return max(available, 0)


def _numbers(path: Path) -> dict[str, int]:
    return {words[0]: int(words[1]) for line in path.read_text().splitlines() if len(words := line.split()) > 1}


def jax_trainer(config: SweepConfig, shape: DatasetShape) -> Trainer:
    """Return the trainer that `run_sweep` calls with a data set of this shape."""
    dtype, seconds = config.grid.dtype, 60.0 * config.checkpoint_minutes

    def choose(recipe: Recipe, cohort: Cohort) -> ExecutorChoice:
        budget, num_train, num_test = memory_budget_bytes(config), shape.num_train, shape.num_test
        return choose_executor(recipe, cohort, budget, dtype=dtype, num_train=num_train, num_test=num_test)

    def decode(values: dict[str, Any]) -> ExecutorChoice | None:
        choice, devices = ExecutorChoice(**values), lowering.local_devices()
        fits = choice.platform == devices[0].platform and choice.num_devices <= len(devices)
        return choice if fits else None

    train = functools.partial(train_cohort, dtype=dtype, checkpoint_seconds=seconds)
    prepare = functools.partial(prepare_cohort, dtype=dtype)
    return Trainer(choose=choose, train=train, encode=dataclasses.asdict, decode=decode, prepare=prepare)


def jax_measurer(config: SweepConfig, shape: DatasetShape) -> Measurer:
    """Return the measurer that `run_sweep` calls with a data set of this shape.

    Raises `UserError` for settings out of range, and for features to compare that the model does not have.
    """
    settings = resolve(config.grid.measure)
    recipe, cohorts = _recipe_and_cohorts(config, shape)
    model = model_of(recipe, cohorts[0], config.grid.dtype)
    check_kernels(model, settings, abstract_examples(recipe, 2, config.grid.dtype), recipe.objective)

    def measure(recipe: Recipe, cohort: Cohort, data: Any, variables: Any, is_finite: Any, **options: Any) -> Any:
        return measure_cohort(
            recipe,
            cohort,
            data,
            variables,
            is_finite,
            settings,
            memory_budget_bytes=memory_budget_bytes(config),
            dtype=config.grid.dtype,
            checkpoint_seconds=60.0 * config.checkpoint_minutes,
            **options,
        )

    return Measurer(config=settings.recorded(), measure=measure, earlier=ADDED_LATER)


def describe_devices() -> list[str]:
    """Return the kind of every device, for the manifest."""
    return [device.device_kind for device in lowering.local_devices()]


def model_cost(recipe: Recipe, cohort: Cohort, dtype: str) -> ModelCost:
    """Return parameters, stored bytes and forward operations of one network of a cohort, computing none of them."""
    model = model_of(recipe, cohort, dtype)
    leaves = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
    num_bytes = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)
    one = input_of(recipe, dtype)
    activations = count_activations(model, one, 1, dtype) * np.dtype(dtype).itemsize
    return ModelCost(count_parameters(model), num_bytes, count_flops(model, one, dtype), activations)


def this_machine(dtype: str) -> Machine:
    """Return what time depends on here; an accelerator's rates are measured too, but were never checked in training."""
    devices, slower = lowering.local_devices(), np.dtype(dtype).itemsize / 4
    if devices[0].platform == "cpu":
        return cpu_machine(_product_flops(512) / slower, len(devices))
    size = 4096
    num_bytes = 2.0 * 4 * size**2 / _best_seconds(lambda a: a + 1, size)
    return Machine(len(devices), 0.35 * _product_flops(size) / slower, 0.0, num_bytes)


def _product_flops(size: int) -> float:
    """Return the operations/s of one device in a float32 matrix product."""
    return 2.0 * size**3 / _best_seconds(lambda a: a @ a, size)


def _best_seconds(function: Callable[[jax.Array], jax.Array], size: int, patience: float = 0.3) -> float:
    """Return the least time that a function of a square matrix takes.

    On CPU the processor's time counts, not the clock on the wall: other load must not pass for a slow machine.
    """
    device = lowering.local_devices()[0]
    clock = time.process_time if device.platform == "cpu" else time.perf_counter
    matrix = jax.device_put(np.ones((size, size), np.float32), device)
    compiled = jax.jit(function, compiler_options=lowering.compiler_options(device.platform))
    compiled(matrix).block_until_ready()
    best, end, turns = math.inf, time.perf_counter() + patience, 0
    while turns < 5 or time.perf_counter() < end:
        start = clock()
        compiled(matrix).block_until_ready()
        best, turns = min(best, clock() - start), turns + 1
    return best


def plan_here(
    config: SweepConfig, cohorts: Sequence[Cohort], shape: DatasetShape, parts: Parts | None = None
) -> pd.DataFrame:
    """Return the plan of the sweep on this machine, where a run folder has `parts`; see `make_plan`."""
    measure = resolve(config.grid.measure) if "measure" in config.stages else None
    done = {}
    if parts is not None:
        done["finished"] = parts.joined_members()
        done["left"] = left_to_do(parts, cohorts, () if measure is None else measure.metrics)
    recipe = _recipe(config, shape)
    costs: dict[Any, ModelCost] = {}

    def cost(cohort: Cohort) -> ModelCost:
        model = model_of(recipe, cohort, config.grid.dtype)  # the same of many cohorts
        if model not in costs:
            costs[model] = model_cost(recipe, cohort, config.grid.dtype)
        return costs[model]

    return make_plan(
        cohorts,
        cost,
        num_test=shape.num_test,
        keep_checkpoints=config.keep == "all",
        machine=this_machine(config.grid.dtype),
        eval_batch_size=config.grid.eval_batch_size,
        measure=measure,
        train="train" in config.stages,
        history_points=recipe.recorded_points(has_validation=config.grid.validation_fraction > 0.0),
        num_validation=round(config.grid.validation_fraction * shape.num_test),
        **done,
    )
