"""How a cohort is executed: how many members a device steps at once, by a stated rule and a memory budget. JAX.

A device has one or more *lanes*, stepped together by `vmap`; a lane trains its members one after the other, so that
members with little data do not idle while others finish. With one lane the members of a device follow each other
(`map`), with as many lanes as members all go at once (`vmap`), in between the members go in `chunks`.

The rule. `mdtree_jax.lowering` says for the platform up to how many lanes a step of this size (`step_bytes`) still
gains: on CPU one of a network that fills a core, on an accelerator one that fills the device. As many as the memory
allows of those. Then the number of lanes is reduced until at least `MIN_BALANCE` of the lane steps are steps of a
member.

The budget covers what training and evaluation allocate (`mdtree_jax.population.memory`), data set on every device and
networks waiting included; the interpreter, JAX and its compiler come on top, some hundred megabytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mdtree_jax import lowering
from mdtree_jax.checks import UserError
from mdtree_jax.models import count_activations, count_parameters
from mdtree_jax.parallel import available_cores
from mdtree_jax.population.assignment import balance
from mdtree_jax.population.memory import memory_needs
from mdtree_jax.population.programs import input_of, model_of
from mdtree_jax.recipe.cohort import Cohort, Recipe

MIN_BALANCE = 0.92
#: Optimizers that keep two numbers for each parameter; the others keep one.
_TWO_MOMENTS = ("adam", "adamw", "muon")


@dataclass(frozen=True)
class ExecutorChoice:
    """How a cohort is executed; plain values, for the manifest.

    Attributes:
        kind: `map`, `vmap` or `chunks`; follows from the numbers.
        platform: of the devices, `cpu` or `gpu`.
        num_devices: over which the members are spread.
        lanes_per_device: members stepped together on a device.
        members_per_pass: members held in memory at once; the cohort takes as many passes as needed.
    """

    kind: str
    platform: str
    num_devices: int
    lanes_per_device: int
    members_per_pass: int


def configure_devices(num_cpu_devices: int | None = None, cache_dir: str | os.PathLike | None = None) -> None:
    """Give JAX one CPU device a core, or `num_cpu_devices`, and a persistent compilation cache.

    To be called before JAX is first used; later, the devices stay as they are.

    Raises:
        UserError: JAX is told to use devices that are not there.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", num_cpu_devices or available_cores())
    if cache_dir is not None:
        jax.config.update("jax_compilation_cache_dir", os.fspath(cache_dir))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if told := os.environ.get("JAX_PLATFORMS"):
        try:
            jax.devices()
        except (RuntimeError, AssertionError) as error:  # which of them depends on the name and the version
            raise UserError(
                f"JAX_PLATFORMS={told}: JAX finds no such device here; unset it, or set it to cpu"
            ) from error


def step_bytes(recipe: Recipe, cohort: Cohort, dtype: str = "float32") -> int:
    """Return the size of a training step of one network, by which lanes are chosen: parameters and activations.

    A measure of work, not of memory: an array counts whether or not it is ever written.
    """
    model = model_of(recipe, cohort, dtype)
    copies = 4 + (2 if cohort.value("optimizer") in _TWO_MOMENTS else 1)
    activations = count_activations(model, input_of(recipe, dtype), cohort.batch_size, dtype)
    return (copies * count_parameters(model) + 2 * activations) * np.dtype(dtype).itemsize


def choose_executor(
    recipe: Recipe,
    cohort: Cohort,
    memory_budget_bytes: int,
    devices: Sequence[Any] | None = None,
    dtype: str = "float32",
    num_train: int | None = None,
    num_test: int = 0,
) -> ExecutorChoice:
    """Return how to execute the cohort on the devices (all of this process by default) within a memory budget for all.

    `num_train` (the largest subset if it is None) and `num_test` are the images of the data set, which every device
    holds.

    Raises:
        UserError: not even one member fits.
    """
    devices = lowering.local_devices() if devices is None else list(devices)
    platform = devices[0].platform
    with lowering.as_on(platform):
        with lowering.side_by_side(2):  # an accelerator then writes convolutions in another way
            gaining = lowering.here().most_lanes(step_bytes(recipe, cohort, dtype))
        with lowering.side_by_side(gaining):
            needs = memory_needs(recipe, cohort, dtype, num_train, num_test)
    costs = [member.num_samples for member in cohort.members]
    smallest = needs.total(1, 1, 1)
    if smallest > memory_budget_bytes:
        raise UserError(
            f"memory budget {memory_budget_bytes} bytes is too small for one network of cohort {cohort.key}, which "
            f"takes about {smallest}"
        )
    num_devices = max(
        n for n in range(1, min(len(devices), len(costs)) + 1) if needs.total(n, 1, n) <= memory_budget_bytes
    )
    most = min(-(-len(costs) // num_devices), gaining)

    def fits(lanes: int) -> bool:
        return needs.total(num_devices, lanes, lanes * num_devices) <= memory_budget_bytes

    def is_good(lanes: int) -> bool:
        return lanes == 1 or (fits(lanes) and balance(costs, lanes * num_devices) >= MIN_BALANCE)

    lanes = max(filter(is_good, range(1, most + 1)))
    left = memory_budget_bytes - needs.total(num_devices, lanes, 0)
    held = min(len(costs), max(lanes * num_devices, left // needs.total(0, 0, 1)))
    kind = "map" if lanes == 1 else "vmap" if lanes * num_devices >= len(costs) else "chunks"
    return ExecutorChoice(kind, platform, num_devices, lanes, int(held))
