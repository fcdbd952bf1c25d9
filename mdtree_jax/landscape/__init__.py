"""Measures of the loss landscape around trained networks. JAX.

Every kernel is constructed once with its options and is a pure function of arrays: `kernel(options)` returns
`estimate(arrays)`, which works under `jit`, `vmap` and `lax.map` and carries none of them. Nothing here knows of
models or data sets: a kernel takes a loss of the parameters, a product with vectors, or arrays.
"""

from mdtree_jax.landscape.eigen import (
    EigenEstimate,
    SpectralDensity,
    lanczos,
    power_iteration,
    smooth_density,
    spectral_density,
)
from mdtree_jax.landscape.low_rank_trace import xtrace
from mdtree_jax.landscape.preflight import check_apply, check_loss
from mdtree_jax.landscape.products import ggn, hvp
from mdtree_jax.landscape.sharpness import BallSharpness, ball_sharpness, scale_invariant_weights
from mdtree_jax.landscape.similarity import agreement, l2_distance, linear_cka, mean_over_pairs, mixup
from mdtree_jax.landscape.trace import TraceEstimate, hutchinson

default_trace = xtrace

__all__ = [
    "BallSharpness",
    "EigenEstimate",
    "SpectralDensity",
    "TraceEstimate",
    "agreement",
    "ball_sharpness",
    "check_apply",
    "check_loss",
    "default_trace",
    "ggn",
    "hutchinson",
    "hvp",
    "l2_distance",
    "lanczos",
    "linear_cka",
    "mean_over_pairs",
    "mixup",
    "power_iteration",
    "scale_invariant_weights",
    "smooth_density",
    "spectral_density",
    "xtrace",
]
