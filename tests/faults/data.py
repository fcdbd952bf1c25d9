"""Data of the planted faults: scikit-learn's bundled sets and generators, each `(seed) -> Split`. NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.ndimage import zoom
from sklearn import datasets


class Split(NamedTuple):
    """Arrays of one data set: inputs (n, ...), targets (n,) int32 labels, (n, 1) float 0/1 or (n, d) float values."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def _split(x: np.ndarray, y: np.ndarray, num_train: int, seed: int) -> Split:
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order]
    return Split(x[:num_train], y[:num_train], x[num_train:], y[num_train:])


def _scaled(split: Split) -> Split:
    mean, deviation = split.x_train.mean(0), split.x_train.std(0) + 1e-6
    return split._replace(x_train=(split.x_train - mean) / deviation, x_test=(split.x_test - mean) / deviation)


def digit_images(seed: int = 0) -> Split:
    """3 500 and 1 500 images (14, 14, 1) of scikit-learn's digits, enlarged to 11 × 11 and put at a random place."""
    rng = np.random.default_rng(seed)
    images, labels = datasets.load_digits(return_X_y=True)
    images = np.clip(zoom(images.reshape(-1, 8, 8) / 16, (1, 11 / 8, 11 / 8), order=1), 0, 1)
    order = np.random.default_rng(0).permutation(len(images))
    sides = []
    for base, num in ((order[:1200], 3500), (order[1200:], 1500)):
        chosen, canvas = rng.choice(base, num), np.zeros((num, 14, 14, 1), np.float32)
        for i, (row, column) in enumerate(rng.integers(0, 4, (num, 2))):
            canvas[i, row : row + 11, column : column + 11, 0] = images[chosen[i]]
        sides += [canvas, labels[chosen].astype(np.int32)]
    return Split(*sides)


def digits(seed: int = 0) -> Split:
    """scikit-learn's digits as rows of 64 pixels in 0 to 1; 1 200 and 597."""
    x, y = datasets.load_digits(return_X_y=True)
    return _split(x / 16, y.astype(np.int32), 1200, seed)


def wine_raw(seed: int = 0) -> Split:
    """13 columns in their own units, three classes; 120 and 58 rows."""
    x, y = datasets.load_wine(return_X_y=True)
    return _split(x, y.astype(np.int32), 120, seed)


def wine(seed: int = 0) -> Split:
    return _scaled(wine_raw(seed))


def cancer_raw(seed: int = 0) -> Split:
    """30 columns in their own units, a label (n, 1) of 0 or 1; 400 and 169 rows."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return _split(x, y.astype(np.float32)[:, None], 400, seed)


def cancer(seed: int = 0) -> Split:
    return _scaled(cancer_raw(seed))


def diabetes(seed: int = 0) -> Split:
    """10 standardized columns; the progress of a disease in its own units, 25 to 346; 300 and 142 rows."""
    x, y = datasets.load_diabetes(return_X_y=True)
    return _scaled(_split(x, y.astype(np.float32)[:, None], 300, seed))


def diabetes_scaled(seed: int = 0) -> Split:
    """`diabetes` with standardized targets."""
    split = diabetes(seed)
    mean, deviation = split.y_train.mean(), split.y_train.std()
    return split._replace(y_train=(split.y_train - mean) / deviation, y_test=(split.y_test - mean) / deviation)


def table_raw(seed: int = 0, num: int = 1500, scaled: bool = False) -> Split:
    """11 columns with scales from .05 to 3 000 and a curved border between two classes of equal size; 1 000 and 500."""
    rng = np.random.default_rng(seed + 100)
    z = rng.standard_normal((num, 11))
    fixed = np.random.default_rng(5)
    score = z @ fixed.standard_normal(11) + 0.8 * z[:, 0] * z[:, 1]
    scales, offsets = np.geomspace(0.05, 3000, 11), fixed.uniform(0, 3, 11)
    y = (score > np.median(score)).astype(np.float32)[:, None]
    return _split(z if scaled else (z + offsets) * scales, y, 1000, seed)


def table(seed: int = 0) -> Split:
    return table_raw(seed, scaled=True)


def unbalanced(seed: int = 0) -> Split:
    """8 columns, a label of 1 in a quarter of the rows, that depends on products; 600 and 600 rows."""
    rng = np.random.default_rng(seed + 200)
    x = rng.standard_normal((1200, 8))
    score = x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3] + 0.7 * x[:, 4]
    return _split(x, (score > np.quantile(score, 0.75)).astype(np.float32)[:, None], 600, seed)


def corners(seed: int = 0) -> Split:
    """Exclusive or: points near the corners of the unit square, label (n, 1); 40 and 200."""
    rng = np.random.default_rng(seed + 300)
    bits = rng.choice(4, 240, p=(0.15, 0.3, 0.3, 0.25))
    corner = np.stack([bits // 2, bits % 2], -1)
    x = corner + 0.1 * rng.standard_normal(corner.shape)
    return _split(x, (corner[:, :1] ^ corner[:, 1:]).astype(np.float32), 40, seed)


def line(seed: int = 0) -> Split:
    """One input from -20 to 60, target 1.8 x + 32 plus noise; 160 and 100."""
    rng = np.random.default_rng(seed + 400)
    x = rng.uniform(-20, 60, (260, 1))
    return _split(x, (1.8 * x + 32 + rng.standard_normal(x.shape)).astype(np.float32), 160, seed)


def short_line(seed: int = 0) -> Split:
    """One input from 0 to 10, target 3 x + 4 plus noise; 160 and 100."""
    rng = np.random.default_rng(seed + 500)
    x = rng.uniform(0, 10, (260, 1))
    return _split(x, (3 * x + 4 + 0.5 * rng.standard_normal(x.shape)).astype(np.float32), 160, seed)


def teacher(seed: int = 0) -> Split:
    """6 standard normal columns, values of a random tanh network with little noise, deviation near 1; 800 and 600."""
    rng, fixed = np.random.default_rng(seed + 600), np.random.default_rng(6)
    x = rng.standard_normal((1400, 6))
    hidden = np.tanh(x @ fixed.standard_normal((6, 8)) / 1.5)
    return _split(x, (hidden @ fixed.standard_normal((8, 1)) / 2).astype(np.float32), 800, seed)


def teacher_offset(seed: int = 0) -> Split:
    """`teacher` with 4 added to every target."""
    split = teacher(seed)
    return split._replace(y_train=split.y_train + 4, y_test=split.y_test + 4)


def restoration(seed: int = 0) -> Split:
    """Digits (64) from the means of their 2 × 2 fields (16), pixels in 0 to 1; 1 100 and 600."""
    images = datasets.load_digits(return_X_y=True)[0].reshape(-1, 8, 8) / 16
    means = images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
    split = _split(means, images.reshape(-1, 64).astype(np.float32), 1100, seed)
    return split._replace(x_test=split.x_test[:600], y_test=split.y_test[:600])


DATA: dict[str, Callable[[int], Split]] = {
    function.__name__: function
    for function in (
        digit_images,
        digits,
        wine_raw,
        wine,
        cancer_raw,
        cancer,
        diabetes,
        diabetes_scaled,
        table_raw,
        table,
        unbalanced,
        corners,
        line,
        short_line,
        teacher,
        teacher_offset,
        restoration,
    )
}
