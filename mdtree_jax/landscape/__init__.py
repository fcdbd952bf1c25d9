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
from mdtree_jax.landscape.similarity import agreement, l2_distance, linear_cka, mean_over_pairs, mixup

__all__ = [
    "CurveResult",
    "CurveState",
    "CurveTraining",
    "LinearBarrier",
    "agreement",
    "bezier",
    "bezier_connectivity",
    "curve_training",
    "l2_distance",
    "linear_barrier",
    "linear_cka",
    "mean_over_pairs",
    "mixup",
    "recompute_batch_stats",
]
