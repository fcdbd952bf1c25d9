"""What a sweep will cost: parameters, floating-point operations, bytes on disk and time, before it starts. No JAX.

Floating-point operations count a multiplication and an addition as two. A training step costs three forward passes
(one forward, two backward) of its batch; at the end each network is evaluated once on its subset and the test set, and
before, at every point of its learning curve that is recorded, on the validation set.
Early stopping can only make it less.

Measuring is counted in forward passes of one image (`MeasureCost`), which take as long as in a training step of 128.

Time. A training step of one network on one device takes a constant, the overhead of some hundred small operations,
plus the bytes of its activations over a bandwidth (a smaller one for what exceeds the shared cache), plus its
operations over the rate of a device: see `Machine`. A step of evaluation takes a third, a cohort adds
`COHORT_SECONDS`. The constants of `cpu_machine` are fitted to the 29 sizes of
tests/benchmarks/results/training_throughput.md: root mean square error 20 %, at most a factor 1.6.

Where the run folder holds finished cohorts, the training time is scaled by what they took over their own estimates,
averaged with weights 1 / (0.1 + squared distance in log width and log batch size): so other load on the machine and
early stopping enter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.measuring.flops import MeasureCost
from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.recipe.measure_settings import MeasureSettings
from mdtree_jax.store.parts import Parts

MEASURE_COMPILE_SECONDS = 45.0  # of the programs of one width
COHORT_SECONDS = 7.0  # compile, initialise, write; less when the compilation cache knows the cohort


class ModelCost(NamedTuple):
    """One network: parameters, bytes of all its variables; operations and bytes of one image's forward pass."""

    num_parameters: int
    num_bytes: int
    forward_flops: float
    activation_bytes: float


class Machine(NamedTuple):
    """What time on a machine depends on.

    Attributes:
        num_devices: over which members are spread.
        flops_per_second: of one device, while training.
        step_seconds: of a training step of no size.
        bytes_per_second: of activations, per device.
        far_bytes_per_second: how much more the bytes of a step beyond `near_bytes` take.
        near_bytes: what fits the cache.
    """

    num_devices: int
    flops_per_second: float
    step_seconds: float
    bytes_per_second: float
    far_bytes_per_second: float = np.inf
    near_bytes: float = 0.0

    def step(self, cost: ModelCost, batch_size: int) -> float:
        """Return the seconds of one training step of one network on one device."""
        num_bytes = cost.activation_bytes * batch_size
        far = max(0.0, num_bytes - self.near_bytes) / self.far_bytes_per_second
        flops = 3.0 * cost.forward_flops * batch_size
        return self.step_seconds + num_bytes / self.bytes_per_second + far + flops / self.flops_per_second


def cpu_machine(core_flops: float, num_devices: int) -> Machine:
    """Return a machine with a core for each device, which does `core_flops` operations/s in a large matrix product."""
    return Machine(num_devices, 0.67 * core_flops, 1.1e-4, 2.9e10, 1.2e10, 2**25)


def cohort_flops(cohort: Cohort, forward_flops: float, num_test: int) -> float:
    """Return the operations to train all members of `cohort` for all epochs and to evaluate them once."""
    images = 0
    for member in cohort.members:
        per_epoch = member.num_samples // cohort.batch_size * cohort.batch_size
        images += 3 * per_epoch * cohort.train_epochs + member.num_samples + num_test
    return float(forward_flops) * images


class Left(NamedTuple):
    """What is left to do of a cohort: the share of its members that are to be trained, and to be measured by metric."""

    train: float = 1.0
    measure: Mapping[str, float] = MappingProxyType({})

    def to_measure(self, metric: str) -> float:
        """Return the share of the members of which a metric is to be measured."""
        return self.measure.get(metric, 1.0)


def left_to_do(parts: Parts, cohorts: Iterable[Cohort], metrics: Collection[str]) -> dict[str, Left]:
    """Return what is left to do of every cohort in a run folder."""
    found = {}
    for cohort in cohorts:
        key, number = cohort.key, len(cohort.members)
        known = parts.measured.get(key)
        unmeasured = 1.0 if known is None else 1.0 - len(known.networks) / number
        measure = {m: unmeasured if known is not None and m in known.metrics else 1.0 for m in metrics}
        found[key] = Left(len(parts.missing(key)) / number, measure)
    return found


def make_plan(
    cohorts: Iterable[Cohort],
    model_cost: Callable[[Cohort], ModelCost],
    *,
    num_test: int,
    keep_checkpoints: bool,
    machine: Machine,
    eval_batch_size: int = 512,
    finished: pd.DataFrame | None = None,
    left: Mapping[str, Left] = MappingProxyType({}),
    measure: MeasureSettings | None = None,
    train: bool = True,
    history_points: int = 0,
    num_validation: int = 0,
) -> pd.DataFrame:
    """Return one row per cohort: its shape, members, costs, and whether it is finished.

    `model_cost` gives the cost of one network of a cohort, `finished` is the per-seed table of the run folder, if any,
    `left` what is left to do of its cohorts; `measure` says what is measured, None for nothing, and `train` whether
    anything is trained. Of learning curves, `history_points` are recorded on `num_validation` images, which are among
    `num_test`. Columns: cohort, width, batch_size, train_epochs, num_members, num_parameters (one network),
    train_flops, measure_flops and checkpoint_bytes (all members), estimated_seconds of what is left to do, finished.
    """
    rows = []
    for cohort in cohorts:
        cost, to_do = model_cost(cohort), left.get(cohort.key, Left())
        of_cohort = None if measure is None else measure.of_cohort(cohort)
        each = [] if of_cohort is None else [of_cohort.with_metrics((metric,)) for metric in of_cohort.metrics]
        training = cohort.batch_size, cohort.train_epochs
        costs = [MeasureCost(s, cost.forward_flops, num_test, *training) for s in each]
        passes = {one.settings.metrics[0]: one.cohort_passes(cohort) for one in costs}
        num_held_out = num_test + min(history_points, cohort.train_epochs) * num_validation
        passes_left = sum(to_do.to_measure(metric) * number for metric, number in passes.items())
        rows.append(
            {
                "cohort": cohort.key,
                "width": cohort.width,
                "batch_size": cohort.batch_size,
                "train_epochs": cohort.train_epochs,
                "num_members": len(cohort.members),
                "num_parameters": cost.num_parameters,
                "train_flops": cohort_flops(cohort, cost.forward_flops, num_held_out),
                "measure_flops": sum(passes.values()) * cost.forward_flops,
                "checkpoint_bytes": cost.num_bytes * len(cohort.members) if keep_checkpoints else 0,
                "training": training_seconds(cohort, cost, machine),
                "evaluation": evaluation_seconds(cohort, cost, machine, num_held_out, eval_batch_size),
                "measuring": passes_left * machine.step(cost, 128) / (3 * 128) / machine.num_devices,
                "untrained": to_do.train if train else 0.0,
                "is_unmeasured": any(to_do.to_measure(metric) > 0 for metric in passes),
            }
        )
    plan = pd.DataFrame(rows)
    took = pd.Series(dtype=float) if finished is None else finished.groupby("cohort")["train_seconds"].sum()
    trained = plan["cohort"].map({key: 1.0 - to_do.train for key, to_do in left.items()}).astype(float)
    untrained, is_unmeasured = plan.pop("untrained"), plan.pop("is_unmeasured")
    seconds = (plan.pop("evaluation") + plan["training"] * _scale(plan, took, trained)) * untrained
    seconds += np.where(untrained > 0, COHORT_SECONDS, 0.0)
    seconds += plan["measuring"] + np.where(is_unmeasured & ~plan["width"].duplicated(), MEASURE_COMPILE_SECONDS, 0.0)
    plan = plan.drop(columns=["training", "measuring"])
    return plan.assign(estimated_seconds=seconds, finished=(untrained == 0) & ~is_unmeasured)


def training_seconds(cohort: Cohort, cost: ModelCost, machine: Machine) -> float:
    """Return the estimated time to train all members of `cohort` for all epochs."""
    steps = sum(member.num_samples // cohort.batch_size for member in cohort.members) * cohort.train_epochs
    return steps * machine.step(cost, cohort.batch_size) / min(machine.num_devices, len(cohort.members))


def evaluation_seconds(cohort: Cohort, cost: ModelCost, machine: Machine, num_test: int, batch_size: int) -> float:
    """Return the estimated time to evaluate all members of `cohort` on their subsets and the test set."""
    steps = sum(-(-count // batch_size) for m in cohort.members for count in (m.num_samples, num_test))
    return steps * machine.step(cost, batch_size) / 3 / min(machine.num_devices, len(cohort.members))


def _scale(plan: pd.DataFrame, took: pd.Series, trained: pd.Series) -> np.ndarray:
    """Return for every cohort what to multiply its training time with.

    `took` holds the seconds that the training of cohorts, or of the share `trained` of their members, took.
    """
    is_known = plan["cohort"].isin(took.index) & (trained > 0)
    known = plan[is_known]
    if not len(known):
        return np.ones(len(plan))
    estimates = (known["training"] * trained[is_known]).to_numpy()
    ratios = np.log(took[known["cohort"]].clip(lower=1e-9).to_numpy() / estimates)
    places, known_places = (np.log(table[["width", "batch_size"]].to_numpy(float)) for table in (plan, known))
    scales = []
    for some in np.array_split(places, -(-len(places) // 256)):  # all by all is too much of many cohorts
        weights = 1 / (0.1 + ((some[:, None] - known_places[None]) ** 2).sum(-1))
        scales.append(weights @ ratios / weights.sum(1))
    return np.exp(np.concatenate(scales))
