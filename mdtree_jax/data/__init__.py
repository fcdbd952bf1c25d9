"""Data sets as NumPy arrays: load, check, normalise, redraw labels. No JAX.

May import `registry` and the base modules. Start with `dataset` (`load_dataset`); a member of a population trains on a
prefix of the training arrays.
"""

from mdtree_jax.data.dataset import DATASETS, Dataset, DatasetShape, dataset_shape, load_dataset, redraw_labels

__all__ = ["DATASETS", "Dataset", "DatasetShape", "dataset_shape", "load_dataset", "redraw_labels"]
