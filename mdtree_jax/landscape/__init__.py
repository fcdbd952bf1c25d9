"""Metrics of the loss landscape: pure functions of a loss, parameters and arrays; no model, data set or config. JAX."""

from mdtree_jax.landscape.barrier import LinearBarrier, linear_barrier
from mdtree_jax.landscape.batch_norm import recompute_batch_stats
from mdtree_jax.landscape.curves import (
    CurveResult,
    CurveState,
    CurveTraining,
    bezier,
    bezier_connectivity,
    curve_training,
)

__all__ = [
    "CurveResult",
    "CurveState",
    "CurveTraining",
    "LinearBarrier",
    "bezier",
    "bezier_connectivity",
    "curve_training",
    "linear_barrier",
    "recompute_batch_stats",
]
