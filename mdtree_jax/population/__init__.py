"""Grids of configurations, cut into cohorts of equal static shape, trained as populations.

`cohort`, `grid`, `plan` and `run` are NumPy and import no JAX; the trainer (`train`) is JAX.
"""
