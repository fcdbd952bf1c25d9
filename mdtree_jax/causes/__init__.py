"""From answers to causes: labels computed from a grid, the joint model over all causes, and its evaluation.

May import `trees` and every room below it, and no JAX. Start with `labels` (what a cause is), then `joint` (the model
that names one), `method_protocol` (what fits and predicts), then `evaluate` (accuracy against coverage).
"""
