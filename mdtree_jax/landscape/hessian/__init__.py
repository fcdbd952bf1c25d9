"""Curvature: Hessian products, traces, eigenvalues and spectra of a loss function. JAX only.

May import the base modules of `landscape`; knows no model, no data set and no configuration. Start with `products`
(`hvp`), then `trace` (Hutchinson), `xtrace` and `eigen`.
"""
