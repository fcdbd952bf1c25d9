"""A cohort trained in compiled programs over all local devices: lanes of networks, stepped together. JAX.

May import `store`, `training`, `models`, `recipe` and what lies below them. Start with `train`, then `loop` (the
compiled program) and `memory` (how many networks fit).
"""
