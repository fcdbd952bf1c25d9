"""The networks under diagnosis: from a user's functions, arrays and files to a row of metrics. JAX."""
