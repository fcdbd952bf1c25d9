"""Small experiments from a checkpoint, and short trainings from a fresh initialization, as pure functions. JAX.

May import `population`, `training`, `models`, `landscape` and what lies below them; what is moved, and by how much,
stands in `mdtree_jax.registry.probes`. Start with `run` (all probes of one network), then `steps` (training for a given
number of steps), `race` (short runs) and `outcome` (loss and error before and after on the same examples).
"""
