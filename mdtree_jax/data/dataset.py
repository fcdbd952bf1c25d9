"""Load and check the arrays of a data set by name, with optional label noise.

A *loader* is bound to a data set of `mdtree_jax.registry.datasets`, or is a user's own function given as
`package.module:function`. It is called with those of `source`, `data_dir` and `data_file` that are among its arguments,
and returns either

* a mapping or named tuple with `x_train`, `y_train`, `x_test`, `y_test`, and optionally `num_classes`, which is
  processed like the arrays of an `.npz` file (`mdtree_jax.data.npz.own_arrays`), or
* a `RawDataset`, which is used unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.data.cifar import load_cifar10, load_cifar100
from mdtree_jax.data.digits import load_digits
from mdtree_jax.data.idx import load_fashion_mnist, load_mnist
from mdtree_jax.data.npz import load_npz, own_arrays
from mdtree_jax.data.source import RawDataset, Source
from mdtree_jax.registry.datasets import BUILT_IN, DATASETS, DatasetShape
from mdtree_jax.registry.resolve import call_with, find_entry, is_own, required_arguments, resolve, takes


class LoadedDataset(NamedTuple):
    """Images and labels, ready to train on.

    `x_train` (n, h, w, c) and `x_test` (m, h, w, c) float32, normalised; `y_train` (n,) and `y_test` (m,) int32 in
    0 … `num_classes` − 1. Label noise, if any, is in `y_train` already; the test labels are always clean.
    `classes_are_known` is False where there may be classes without a label here.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    name: str
    classes_are_known: bool = True

    @property
    def shape(self) -> DatasetShape:
        """The sizes of the data set."""
        return DatasetShape(len(self.x_train), len(self.x_test), self.x_train.shape[1:], self.num_classes)


for _name, _loader in {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "npz": load_npz,
}.items():
    DATASETS.bind(_name, load=_loader)


def find_loader(name: str) -> Callable[..., Any]:
    """Return the loader of a data set, or a user's own `package.module:function`.

    Raises:
        UserError: an unknown name, or a module or function that does not exist.
    """
    if is_own(name):
        return resolve(name, "dataset")
    loader = DATASETS.bound(find_entry(DATASETS, name).name, "load")
    if loader is None:
        raise UserError(f"the data set '{name}' has no loader; register it as register(Dataset(…), load=function)")
    return loader


def dataset_shape(name: str, *, data_dir: str | None = None, data_file: str | None = None) -> DatasetShape:
    """Return the sizes of a data set, without loading it if they are known.

    >>> dataset_shape("cifar10").num_train
    50000
    """
    if not is_own(name) and data_dir is None and (shape := find_entry(DATASETS, name).shape) is not None:
        return shape
    return load_dataset(name, data_dir=data_dir, data_file=data_file).shape


def load_dataset(
    name: str,
    *,
    data_dir: str | None = None,
    data_file: str | None = None,
    label_noise_fraction: float = 0.0,
    label_noise_seed: int = 0,
    made: Any = None,
) -> LoadedDataset:
    """Load a data set: one of `mdtree_jax.registry.datasets`, or `package.module:function`.

    `digits` is included in the package. `cifar10`, `cifar100`, `mnist` and `fashion_mnist` are read from `data_dir` if
    it is given (the official files, packed or not), or else downloaded once, checked and cached. `npz` reads the arrays
    `x_train, y_train, x_test, y_test` from `data_file`.

    `made` is what the loader returned, if it was called before (`call_loader`).

    `redraw_labels` redraws a fraction `label_noise_fraction` of all training labels before subsets are taken. Raises
    `UserError` for an unknown name, a missing or damaged file, images of an unexpected shape, labels out of range and a
    noise fraction outside [0, 1].

    >>> data = load_dataset("digits")
    >>> data.x_train.shape, data.x_test.shape, data.num_classes
    ((3200, 10, 10, 1), (5120, 10, 10, 1), 10)
    """
    if not 0.0 <= label_noise_fraction <= 1.0:
        raise UserError(f"label_noise_fraction={label_noise_fraction:g} is outside [0, 1]")
    made = call_loader(name, data_dir=data_dir, data_file=data_file) if made is None else made
    raw = _as_raw(name, made)
    x_train, x_test = _check_images(name, raw)
    _check_shape(name, DatasetShape(len(x_train), len(x_test), x_train.shape[1:], raw.num_classes), data_dir)
    y_train = _check_labels(name, "training", raw.y_train, len(x_train), raw.num_classes)
    y_test = _check_labels(name, "test", raw.y_test, len(x_test), raw.num_classes)
    if label_noise_fraction > 0.0:
        y_train = redraw_labels(y_train, raw.num_classes, label_noise_fraction, label_noise_seed)
    return LoadedDataset(x_train, y_train, x_test, y_test, raw.num_classes, name, raw.classes_are_known)


def call_loader(name: str, *, data_dir: str | None = None, data_file: str | None = None) -> Any:
    """Return what the loader of a data set returns.

    Raises:
        UserError: as `find_loader`; a setting that the loader needs and is not given, or does not take; it fails.
    """
    loader, source = find_loader(name), Source(name, data_dir, data_file)
    what = f"dataset={name}"
    files = {"data_dir": source.data_dir, "data_file": source.data_file}
    for setting, path in files.items():
        if path is None and setting in required_arguments(loader):
            raise UserError(f"{what}: the function needs {setting}=PATH")
        if path is not None and not takes(loader, setting) and not takes(loader, "source"):
            raise UserError(f"{setting}='{path}' is given, but the function of dataset={name} takes no '{setting}'")
    return call_with(loader, {"source": source, **files}, what)


def _as_raw(name: str, made: Any) -> RawDataset:
    what = f"dataset={name}"
    if isinstance(made, RawDataset):
        return made
    arrays = made._asdict() if hasattr(made, "_asdict") else made
    if not isinstance(arrays, Mapping):
        raise UserError(
            f"{what}: the function returns a {type(made).__name__}; expected a mapping or a named tuple with x_train, "
            "y_train, x_test, y_test"
        )
    known = DATASETS[name].shape if name in DATASETS else None
    return own_arrays(arrays if known is None else {"num_classes": known.num_classes, **arrays}, what)


def redraw_labels(labels: np.ndarray, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """Return a copy of `labels` in which round(fraction · n) entries are redrawn uniformly over all classes.

    A redrawn label may keep its old value, so about fraction · (1 − 1 / num_classes) of the labels are wrong. The
    redrawn labels depend only on n, `fraction` and `seed`, so all models of a grid share them.

    >>> noisy = redraw_labels(np.zeros(1000, np.int32), 10, 0.1, seed=0)
    >>> bool(70 < (noisy != 0).sum() <= 100)
    True
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[: round(fraction * len(labels))]
    redrawn = np.array(labels)
    redrawn[chosen] = rng.integers(0, num_classes, size=len(chosen))
    return redrawn


def _check_images(name: str, raw: RawDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return both image arrays as contiguous float32, or raise: four axes, the same image shape, finite, not empty."""
    with np.errstate(over="ignore"):  # what is too large for float32 is found as infinite
        x_train, x_test = (np.ascontiguousarray(images, np.float32) for images in (raw.x_train, raw.x_test))
    for side, images in (("training", x_train), ("test", x_test)):
        if images.ndim != 4 or 0 in images.shape:
            raise UserError(
                f"the {side} images of data set '{name}' have shape {images.shape}; "
                "wanted (number, height, width, channels), none of them zero"
            )
        if not np.isfinite(images).all():
            raise UserError(f"the {side} images of data set '{name}' hold NaN or infinite values")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise UserError(
            f"data set '{name}' has training images of shape {x_train.shape[1:]} "
            f"but test images of shape {x_test.shape[1:]}"
        )
    return x_train, x_test


def _check_shape(name: str, found: DatasetShape, data_dir: str | None) -> None:
    """Raise `UserError` for a data set that is of other sizes than its entry says, by which sweeps are planned."""
    said = DATASETS[name].shape if name in set(DATASETS) - BUILT_IN and data_dir is None else None
    if said is not None and said != found:
        raise UserError(f"the data set '{name}' is registered with {said}, but has {found}")


def _check_labels(name: str, side: str, labels: np.ndarray, num_images: int, num_classes: int) -> np.ndarray:
    """Return the labels as int32, or raise: one integer per image, each in 0 … num_classes − 1."""
    labels = np.asarray(labels)
    if labels.shape != (num_images,):
        raise UserError(
            f"the {side} labels of data set '{name}' have shape {labels.shape}; expected ({num_images},), one per image"
        )
    if labels.dtype.kind not in "iu":
        raise UserError(f"the {side} labels of data set '{name}' are of type {labels.dtype}; expected integers")
    if labels.min() < 0 or labels.max() >= num_classes:
        bad = int(labels.min()) if labels.min() < 0 else int(labels.max())
        raise UserError(f"a {side} label of data set '{name}' is {bad}; expected 0 to {num_classes - 1}")
    return labels.astype(np.int32)
