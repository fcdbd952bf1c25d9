"""Files of a run: manifests, locks, table parts, Orbax checkpoints, and records of finished grids.

May import `recipe`, `provenance` and the base modules; `checkpoint` is the one module here that imports JAX. Start
with `folder` (a run folder), then `parts` (what of it is finished), `grids` (what it was extended from) and `tables`
(the collection table).
"""
