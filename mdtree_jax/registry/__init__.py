"""Tables of the known measurements, knobs, causes, findings, questions, objectives, architectures and data sets.

May import the base modules (`checks`) only, and no JAX: kernels, losses and builders are bound to an entry by its name,
in the room that runs them. Start with `table` (how an entry is added), then read the table that you want to extend.
"""
