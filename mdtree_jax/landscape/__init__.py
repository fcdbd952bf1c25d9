"""Landscape metrics as pure functions of arrays; they know no model, data set or configuration. JAX."""

from mdtree_jax.landscape.similarity import agreement, l2_distance, linear_cka, mean_over_pairs, mixup

__all__ = ["agreement", "l2_distance", "linear_cka", "mean_over_pairs", "mixup"]
