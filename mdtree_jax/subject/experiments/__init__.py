"""Small experiments from the user's own networks: probes that go on with the training, and races from scratch.

May import what `subject` may. Start with `gather` (what is seen, as a row of columns), then `plan` (what will be run,
and whether it may), `probing` and `race` (what is run), `spending` (what it may cost).
"""
