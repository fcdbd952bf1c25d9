"""From answers to causes: the labels that a grid gives, the joint model over all causes, and how well they answer.

May import `trees` and every room below it, and no JAX. Start with `labels` (what a cause is), then `joint` (the model
that names one), then `evaluate` (accuracy against coverage).
"""
