"""Metrics of the loss landscape: pure functions of a loss, parameters and arrays; no model, data set or config. JAX."""

from mdtree_jax.landscape.alignment import PermutationSpec, align, apply_permutation, match_weights
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
from mdtree_jax.landscape.surface import filter_normalized_directions, loss_surface

__all__ = [
    "CurveResult",
    "CurveState",
    "CurveTraining",
    "LinearBarrier",
    "PermutationSpec",
    "align",
    "apply_permutation",
    "bezier",
    "bezier_connectivity",
    "curve_training",
    "filter_normalized_directions",
    "linear_barrier",
    "loss_surface",
    "match_weights",
    "recompute_batch_stats",
]
