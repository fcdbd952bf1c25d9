"""One diagnosis of a trained network: from evidence to probabilities, gains, an action, and words.

May import `causes`, `trees`, `collection` and what lies below them, and no JAX; pages are written by `report`. Start
with `from_metrics` (`diagnose_metrics`) and `result` (what it returns); the sentences are in `words`. `findings` are
the faults that a preflight saw.
"""
