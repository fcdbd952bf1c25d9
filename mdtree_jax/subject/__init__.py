"""The user's own network: read its checkpoints, check it, measure it, and diagnose it.

May import every room but `report` and the command lines. Start with `from_model` (`diagnose_model`), then `load`
(models and checkpoints named on a command line), `network` (what a network has to do) and `preflight` (faults that show
before anything is measured).
"""
