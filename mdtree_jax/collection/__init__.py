"""Tables of measured configurations: columns, axes, room for improvement, labels, and the published files.

May import `registry`, `recipe` and the base modules; NumPy and pandas, no JAX. Start with `load` (`load_collection`),
then `columns` (what a table may hold) and `grid` (the configurations as a grid).
"""
