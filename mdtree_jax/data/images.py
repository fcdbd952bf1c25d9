"""Generated images of 12 × 12 pixels: `shapes` and `gratings`.

Each is made from a fixed seed, of any size, balanced between the classes; training examples are drawn before test
examples, from the same distribution. Pixels are rounded to 1/256, so that the last bit of a function, which differs
between machines, cannot reach the result.
"""

from __future__ import annotations

import numpy as np

from mdtree_jax.data.balance import in_rounds
from mdtree_jax.data.source import RawDataset, Source
from mdtree_jax.data.tables import rounded

_SEED = 20240610
_SIDE = 12
_NUM_TRAIN, _NUM_TEST = 2048, 6144


def load_shapes(source: Source, num_train: int = _NUM_TRAIN, num_test: int = _NUM_TEST) -> RawDataset:
    """Draw one of six shapes each: disc, ring, square, frame, triangle, cross; any place, size, angle and contrast.

    A bar of lower contrast lies across, and there is noise. A mirrored or shifted image is of the same class.
    """
    del source  # made here: there is nothing to find
    rng = np.random.default_rng((_SEED, 4))
    labels = _labels(6, num_train + num_test, rng)
    n = len(labels)
    radius, angle = rng.uniform(2.8, 4.0, n), rng.uniform(0, 2 * np.pi, n)
    across, down = _turned(rng.uniform(-1.5, 1.5, (2, n)), angle)
    inside = np.choose(labels[:, None, None], _distances(across, down, radius[:, None, None]))
    contrast = (rng.uniform(0.7, 1.3, n) * rng.choice((-1, 1), n))[:, None, None]
    along, _ = _turned(rng.uniform(-4, 4, (2, n)), rng.uniform(0, np.pi, n))
    bar = np.clip(1.0 - np.abs(along), 0, 1) * rng.uniform(-0.5, 0.5, n)[:, None, None]
    image = contrast * np.clip(0.5 - inside, 0, 1) + bar + 0.2 * rng.standard_normal((n, _SIDE, _SIDE))
    return _dataset(image, labels, num_train)


def load_gratings(source: Source, num_train: int = _NUM_TRAIN, num_test: int = _NUM_TEST) -> RawDataset:
    """Draw stripes of one of eight directions in a soft window; any wavelength, phase and contrast.

    Fainter stripes of any direction lie over them, and there is noise.
    """
    del source  # made here: there is nothing to find
    rng = np.random.default_rng((_SEED, 5))
    labels = _labels(8, num_train + num_test, rng)
    n = len(labels)
    jitter = rng.uniform(-0.3, 0.3, n)
    stripes = _stripes((labels + jitter) * np.pi / 8, rng)
    others = _stripes(rng.uniform(0, np.pi, n), rng)
    across, down = _turned(rng.uniform(-2, 2, (2, n)), np.zeros(n))
    window = np.exp(-(across**2 + down**2) / (2 * 3.0**2))
    strength, faint = rng.uniform(0.6, 1.4, n)[:, None, None], rng.uniform(0, 0.6, n)[:, None, None]
    image = strength * window * stripes + faint * others + 0.5 * rng.standard_normal((n, _SIDE, _SIDE))
    return _dataset(image, labels, num_train)


def _labels(num_classes: int, number: int, rng: np.random.Generator) -> np.ndarray:
    every = np.arange(num_classes).repeat(-(-number // num_classes))
    return every[in_rounds(every, num_classes, rng)][:number]


def _turned(centre: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of every pixel, (n, side, side) each, about centres (2, n), turned by angles (n,)."""
    pixels = np.arange(_SIDE) - (_SIDE - 1) / 2
    across = pixels[None, None, :] - centre[0][:, None, None]
    down = pixels[None, :, None] - centre[1][:, None, None]
    cosine, sine = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    return cosine * across + sine * down, cosine * down - sine * across


def _distances(across: np.ndarray, down: np.ndarray, radius: np.ndarray) -> list[np.ndarray]:
    """Return for each shape about how far pixels lie outside it, (n, side, side) each; below 0 inside."""
    disc = np.hypot(across, down) - radius
    square = np.maximum(np.abs(across), np.abs(down)) - 0.85 * radius
    corners = [2 * np.pi * k / 3 for k in range(3)]
    triangle = np.max([np.cos(a) * across + np.sin(a) * down for a in corners], axis=0) - 0.6 * radius
    arms = np.minimum(
        np.maximum(np.abs(across) - radius, np.abs(down) - 0.6), np.maximum(np.abs(down) - radius, np.abs(across) - 0.6)
    )
    return [disc, np.abs(disc + 0.5) - 0.6, square, np.abs(square + 0.5) - 0.6, triangle, arms]


def _stripes(angle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(angle)
    along, _ = _turned(np.zeros((2, n)), angle)
    wavelength, phase = rng.uniform(3.0, 7.0, n), rng.uniform(0, 2 * np.pi, n)
    return np.cos(2 * np.pi * along / wavelength[:, None, None] + phase[:, None, None])


def _dataset(image: np.ndarray, labels: np.ndarray, num_train: int) -> RawDataset:
    mean, std = image[:num_train].mean(), image[:num_train].std()
    image = rounded((image - mean) / std).astype(np.float32)[..., None]
    num_classes = int(labels.max()) + 1
    return RawDataset(image[:num_train], labels[:num_train], image[num_train:], labels[num_train:], num_classes)
