"""What a sweep will cost: parameters, floating-point operations, bytes on disk and time, before it starts. No JAX.

Floating-point operations count a multiplication and an addition as two. A training step costs three forward passes
(one forward, two backward) of its batch; at the end each network is evaluated once on its subset and the test set.
Early stopping can only make it less.

Time is operations over the rate of this machine. Where the run folder holds finished cohorts, the rate is that of the
finished cohort nearest in log width and log batch size. Otherwise it is the measured float32 matrix-product peak of
this machine's processor times an efficiency that grows with the width, `EFFICIENCY` · min(1, width / 8)^0.75, as
measured with `resnet8` on 2 cores. Either way a cohort adds `COMPILE_SECONDS` (less when the cache knows it).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.population.cohort import Cohort

EFFICIENCY = 0.35
COMPILE_SECONDS = 10.0


class ModelCost(NamedTuple):
    """One network: parameters, bytes of all its stored variables, operations of a forward pass of one image."""

    num_parameters: int
    num_bytes: int
    forward_flops: float


def measure_peak_flops(size: int = 1024, repeats: int = 5) -> float:
    """Return this machine's rate (operations/s) at a float32 matrix product of `size`, the best of `repeats`."""
    matrix = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    seconds = []
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(seconds)


def cohort_flops(cohort: Cohort, forward_flops: float, num_test: int) -> float:
    """Return the operations to train all members of `cohort` for all epochs and to evaluate them once."""
    images = 0
    for member in cohort.members:
        per_epoch = member.num_samples // cohort.batch_size * cohort.batch_size
        images += 3 * per_epoch * cohort.train_epochs + member.num_samples + num_test
    return float(forward_flops) * images


def make_plan(
    cohorts: Iterable[Cohort],
    model_cost: Callable[[int], ModelCost],
    *,
    num_test: int,
    keep_checkpoints: bool,
    peak_flops: float,
    finished: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return one row per cohort: its shape, members, costs, and whether it is finished.

    `model_cost` gives the cost of one network by width; `finished` is the per-seed table of the run folder, if any.
    Columns: cohort, width, batch_size, train_epochs, num_members, num_parameters (one network), train_flops and
    checkpoint_bytes (all members), estimated_seconds, finished.
    """
    rates = _recorded_rates(finished)
    rows = []
    for cohort in cohorts:
        cost = model_cost(cohort.width)
        flops = cohort_flops(cohort, cost.forward_flops, num_test)
        rows.append(
            {
                "cohort": cohort.key,
                "width": cohort.width,
                "batch_size": cohort.batch_size,
                "train_epochs": cohort.train_epochs,
                "num_members": len(cohort.members),
                "num_parameters": cost.num_parameters,
                "train_flops": flops,
                "checkpoint_bytes": cost.num_bytes * len(cohort.members) if keep_checkpoints else 0,
                "estimated_seconds": _seconds(cohort, flops, peak_flops, rates),
                "finished": rates is not None and cohort.key in rates.index,
            }
        )
    return pd.DataFrame(rows)


def _recorded_rates(members: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return width, batch size and operations/s of every finished cohort, by key; None without any."""
    if members is None or not len(members):
        return None
    sums = members.groupby("cohort").agg(
        {"width": "first", "batch_size": "first", "train_flops": "sum", "train_seconds": "sum"}
    )
    return sums.assign(rate=sums["train_flops"] / sums["train_seconds"].clip(lower=1e-9))


def _seconds(cohort: Cohort, flops: float, peak_flops: float, rates: pd.DataFrame | None) -> float:
    """Return the estimated time of one cohort; the module says how."""
    if rates is None:
        efficiency = EFFICIENCY * min(1.0, cohort.width / 8) ** 0.75
        return COMPILE_SECONDS + flops / (efficiency * peak_flops)
    distance = np.hypot(np.log(rates["width"] / cohort.width), np.log(rates["batch_size"] / cohort.batch_size))
    return COMPILE_SECONDS + flops / float(rates["rate"].iloc[int(np.argmin(distance))])
