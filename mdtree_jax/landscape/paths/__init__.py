"""Paths between networks: barriers of straight lines, trained curves, planes, and alignment of units. JAX only.

May import the base modules of `landscape`; knows no model, no data set and no configuration. Start with `barrier`,
then `curves`.
"""
