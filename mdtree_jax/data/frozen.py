"""Data sets of other packages that are included as arrays: `mnist5k` and `mnist1d`.

`files/SOURCES.md` says where they are from and under which licence; `sweeps/freeze_data.py` made them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdtree_jax.data.source import RawDataset, Source

_FOLDER = Path(__file__).resolve().parent / "files"


def _arrays(name: str) -> list[np.ndarray]:
    with np.load(_FOLDER / f"{name}.npz", allow_pickle=False) as archive:
        return [archive[key] for key in ("x_train", "y_train", "x_test", "y_test")]


def load_mnist5k(source: Source) -> RawDataset:
    """Return 1000 training and 4000 test images of handwritten digits, 14 × 14 × 1, 10 classes."""
    del source  # included: there is nothing to find
    x_train, y_train, x_test, y_test = _arrays("mnist5k")
    mean, std = x_train.mean(dtype=np.float64), x_train.std(dtype=np.float64)
    images = [((x - mean) / std).astype(np.float32)[..., None] for x in (x_train, x_test)]
    return RawDataset(images[0], y_train.astype(np.int64), images[1], y_test.astype(np.int64), 10)


def load_mnist1d(source: Source) -> RawDataset:
    """Return 2000 training and 6000 test sequences of 40 numbers, digits drawn as curves, 10 classes."""
    del source  # included: there is nothing to find
    x_train, y_train, x_test, y_test = _arrays("mnist1d")
    # Bytes stand for -4 to 4 standard deviations.
    sequences = [(x / 255 * 8 - 4).astype(np.float32) for x in (x_train, x_test)]
    return RawDataset(sequences[0], y_train.astype(np.int64), sequences[1], y_test.astype(np.int64), 10)
