"""The embedded data set: scikit-learn's 1797 handwritten digits, made larger and harder by seeded transformations.

The 8 × 8 scans are split between training and test first. Every image is then one scan, placed on a 10 × 10 canvas,
rotated by up to ±15°, scaled by .85 to 1.15, shifted by up to ±1 pixel in each direction (all uniform), with
Gaussian pixel noise of s.d. 0.15 (ink is 1, paper 0). The scans of a side are gone through in a shuffled order,
again and again, each time with fresh transformations, so a short prefix holds as many different scans as it can.

Pixels are rounded to 1/255: the last bit of a sine, which differs between machines, cannot reach the result.
Source of the scans: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdtree_jax.data.source import RawDataset, Source

_SEED = 20240610
_CANVAS = 10
_NUM_TRAIN_SCANS, _NUM_TRAIN, _NUM_TEST = 1000, 3200, 5120
_MAX_ANGLE_DEGREES, _MAX_SHIFT_PIXELS, _NOISE = 15.0, 1.0, 0.15
_SCALES = (0.85, 1.15)
_MEAN, _STD = 0.196, 0.326  # of the training images


def load_digits(source: Source) -> RawDataset:
    """Make 3200 training and 5120 test images of 10 × 10 × 1, 10 classes; the same on every machine."""
    del source  # embedded: there is nothing to find
    from sklearn.datasets import load_digits as load_scans

    found: Any = load_scans(return_X_y=True)
    scans, labels = found
    scans = scans.reshape(-1, 8, 8) / 16.0
    rng = np.random.default_rng(_SEED)
    order = rng.permutation(len(scans))
    sides = []
    for chosen, number in ((order[:_NUM_TRAIN_SCANS], _NUM_TRAIN), (order[_NUM_TRAIN_SCANS:], _NUM_TEST)):
        repeats = -(-number // len(chosen))
        index = np.concatenate([rng.permutation(chosen) for _ in range(repeats)])[:number]
        sides += [(_transform(scans[index], rng) - _MEAN) / _STD, labels[index].astype(np.int64)]
    x_train, y_train, x_test, y_test = sides
    return RawDataset(x_train, y_train, x_test, y_test, 10)


def _transform(scans: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the scans (n, 8, 8), ink in [0, 1], as noisy images (n, 10, 10, 1) in steps of 1/255."""
    from scipy.ndimage import map_coordinates

    n = len(scans)
    angle = np.deg2rad(rng.uniform(-_MAX_ANGLE_DEGREES, _MAX_ANGLE_DEGREES, n))[:, None, None]
    scale = rng.uniform(*_SCALES, n)[:, None, None]
    shift = rng.uniform(-_MAX_SHIFT_PIXELS, _MAX_SHIFT_PIXELS, (2, n))[..., None, None]
    # For each pixel of the canvas, the point of the scan it shows: shift, rotation and scale undone about the centre.
    canvas = np.arange(_CANVAS) - (_CANVAS - 1) / 2
    row, column = canvas[None, :, None] - shift[0], canvas[None, None, :] - shift[1]
    source_row = (np.cos(angle) * row + np.sin(angle) * column) / scale + 3.5
    source_column = (np.cos(angle) * column - np.sin(angle) * row) / scale + 3.5
    image = np.broadcast_to(np.arange(n)[:, None, None], source_row.shape)
    # One paper pixel around each scan, so that interpolation fades out; images do not mix, their index is an integer.
    padded = np.pad(scans, ((0, 0), (1, 1), (1, 1)))
    ink = map_coordinates(padded, [image, source_row + 1, source_column + 1], order=1, mode="constant")
    noisy = ink + _NOISE * rng.standard_normal(ink.shape)
    return (np.round(noisy * 255) / 255)[..., None]
