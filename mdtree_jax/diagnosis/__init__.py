"""Collections, labels, diagnostic trees, baselines and experiments. NumPy, pandas and scikit-learn; no JAX."""
