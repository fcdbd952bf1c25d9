"""Run folders: manifests, finished cohorts as table parts, collection tables, checkpoints.

`checkpoint` is JAX and the one importer of Orbax; everything else is pandas and pyarrow and imports no JAX.
"""
