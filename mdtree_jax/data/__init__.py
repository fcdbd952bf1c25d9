"""Data sets as NumPy arrays: load, check, normalise, redraw labels. No JAX.

May import `registry` and the base modules. Start with `dataset` (`load_dataset`); a member of a population trains on a
prefix of the training arrays.
"""

from mdtree_jax.data.dataset import (
    LoadedDataset,
    call_loader,
    dataset_shape,
    find_loader,
    load_dataset,
    redraw_labels,
)
from mdtree_jax.registry.datasets import DatasetShape

__all__ = [
    "DatasetShape",
    "LoadedDataset",
    "call_loader",
    "dataset_shape",
    "find_loader",
    "load_dataset",
    "redraw_labels",
]
