"""Measures of the loss landscape around trained networks: pure functions of a loss, parameters and arrays. JAX.

A kernel is constructed once with its options: `kernel(options)` returns `estimate(arrays)`, which works under `jit`,
`vmap` and `lax.map` but does not apply them itself. Kernels do not depend on particular models or data sets.
"""

from mdtree_jax.landscape.batch_norm import recompute_batch_stats
from mdtree_jax.landscape.hessian.eigen import (
    EigenEstimate,
    SpectralDensity,
    lanczos,
    power_iteration,
    smooth_density,
    spectral_density,
)
from mdtree_jax.landscape.hessian.products import ggn, hvp
from mdtree_jax.landscape.hessian.trace import TraceEstimate, hutchinson
from mdtree_jax.landscape.hessian.xtrace import xtrace
from mdtree_jax.landscape.paths.alignment import PermutationSpec, align, apply_permutation, match_weights
from mdtree_jax.landscape.paths.barrier import LinearBarrier, linear_barrier
from mdtree_jax.landscape.paths.curves import (
    CurveResult,
    CurveState,
    CurveTraining,
    bezier,
    bezier_connectivity,
    curve_training,
)
from mdtree_jax.landscape.paths.surface import filter_normalized_directions, loss_surface
from mdtree_jax.landscape.preflight import check_apply, check_loss
from mdtree_jax.landscape.sharpness import BallSharpness, ball_sharpness, scale_invariant_weights
from mdtree_jax.landscape.similarity import agreement, draw_mixup, l2_distance, linear_cka, mean_over_pairs, mixup

#: The trace estimator of choice: less variance than `hutchinson` at the same number of products.
default_trace = xtrace

__all__ = [
    "BallSharpness",
    "CurveResult",
    "CurveState",
    "CurveTraining",
    "EigenEstimate",
    "LinearBarrier",
    "PermutationSpec",
    "SpectralDensity",
    "TraceEstimate",
    "agreement",
    "align",
    "apply_permutation",
    "ball_sharpness",
    "bezier",
    "bezier_connectivity",
    "check_apply",
    "check_loss",
    "curve_training",
    "default_trace",
    "draw_mixup",
    "filter_normalized_directions",
    "ggn",
    "hutchinson",
    "hvp",
    "l2_distance",
    "lanczos",
    "linear_barrier",
    "linear_cka",
    "loss_surface",
    "match_weights",
    "mean_over_pairs",
    "mixup",
    "power_iteration",
    "recompute_batch_stats",
    "scale_invariant_weights",
    "smooth_density",
    "spectral_density",
    "xtrace",
]
