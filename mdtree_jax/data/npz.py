"""A user's own arrays: from one `.npz` file, or from a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.data.source import RawDataset, Source
from mdtree_jax.files import user_path
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE, OBJECTIVES, Objective

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_ORDER_SEED = 0


def load_npz(source: Source, objective: Objective = OBJECTIVES[DEFAULT_OBJECTIVE]) -> RawDataset:
    """Read `x_train, y_train, x_test, y_test` from `data_file`, without pickled data. See `own_arrays`."""
    if not source.data_file:
        raise UserError("dataset 'npz' needs data_file=PATH, an .npz file with x_train, y_train, x_test, y_test")
    path = user_path(source.data_file, "data_file=")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in _KEYS if key in archive}
    except FileNotFoundError as error:
        raise UserError(f"data_file='{source.data_file}' does not exist") from error
    except Exception as error:  # a damaged archive can raise nearly anything
        why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise UserError(f"{path} is damaged or not an .npz file of plain arrays{why}") from error
    return own_arrays(arrays, str(path), objective)


def own_arrays(arrays: Mapping[str, Any], what: str, objective: Objective) -> RawDataset:
    """Return a user's arrays as a data set.

    Images are (n, h, w, c) or (n, h, w). Bytes (uint8) are scaled to [0, 1] and then standardised with the training
    set's mean and standard deviation per channel; floating-point images are taken as they are, and so are tables (n, d)
    of numbers and token ids (n, time). Labels are 0 to the number of classes less one, which is the largest label plus
    one unless `arrays` holds `num_classes` or `num_outputs`; so are the tokens of `lm`. Training examples come in a
    fixed random order: subsets are their first ones, which of a set sorted by label would lack classes.

    Args:
        arrays: `x_train`, `y_train`, `x_test`, `y_test`, and perhaps `num_classes` or `num_outputs`.
        what: where they are from, for messages.
        objective: says what the targets are.
    """
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise UserError(f"{what} has no array '{missing[0]}'; expected {', '.join(_KEYS)}")
    try:
        x_train, y_train, x_test, y_test = (np.asarray(arrays[key]) for key in _KEYS)
    except ValueError as error:  # a list of lists of different lengths
        raise UserError(f"{what} holds something that is not an array ({error})") from error
    x_train, x_test = _normalise(what, x_train, x_test)
    if y_train.shape[:1] == x_train.shape[:1]:  # else refused by the caller
        order = np.random.default_rng(_ORDER_SEED).permutation(len(y_train))
        x_train, y_train = x_train[order], y_train[order]
    name, least = ("num_classes" if "num_classes" in arrays else "num_outputs"), 2 if objective.has_classes else 1
    told = arrays.get(name)
    if told is not None and not (isinstance(told, (int, np.integer)) and told >= least):
        raise UserError(f"{name} of {what} is {told!r}; expected a whole number of at least {least}")
    if told is not None:
        return RawDataset(x_train, y_train, x_test, y_test, int(told), classes_are_known=True)
    is_counted = objective.has_classes and y_train.dtype.kind in "iu"
    if is_counted or (objective.targets == "class" and y_train.ndim != 2):  # else refused by the caller
        num_outputs = _count_classes(what, y_train, y_test, objective)
    else:
        num_outputs = 1 if y_train.ndim < 2 else y_train.shape[1]
    return RawDataset(x_train, y_train, x_test, y_test, num_outputs, classes_are_known=not is_counted)


def _count_classes(what: str, y_train: np.ndarray, y_test: np.ndarray, objective: Objective) -> int:
    """Return the largest label plus one, at least 2; refuse labels that do not start at 0, or are no class numbers."""
    labels = [y for y in (y_train, y_test) if y.size and y.dtype.kind in "iu"]
    if objective.targets == "tokens":  # a part of the vocabulary may not occur, and the negative ones do not count
        return max([2, *(int(y.max()) + 1 for y in labels)])
    lowest = min([int(y.min()) for y in labels], default=0)
    highest = max([int(y.max()) for y in labels], default=0)
    if lowest > 0:
        raise UserError(f"the labels of {what} are {lowest} to {highest}; expected 0 to number of classes - 1")
    if highest >= max(len(np.atleast_1d(y_train)), 2):
        raise UserError(f"a label of {what} is {highest}, but there are only {y_train.size} training images")
    return max(highest + 1, 2)


def _normalise(what: str, x_train: np.ndarray, x_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add a channel axis where there is none, and standardise bytes with the training set's statistics."""
    for x in (x_train, x_test):
        if x.ndim == 2 and x.dtype.kind in "iu":
            continue
        if x.dtype.kind not in "fu" or (x.dtype.kind == "u" and x.dtype != np.uint8):
            raise UserError(f"{what} holds images of type {x.dtype}; expected uint8 or floating point")
    if x_train.dtype.kind != x_test.dtype.kind:
        raise UserError(f"{what} holds training images of type {x_train.dtype} but test images of {x_test.dtype}")
    x_train, x_test = (x[..., None] if x.ndim == 3 else x for x in (x_train, x_test))
    if x_train.dtype == np.uint8 and x_train.ndim == 4 and x_train.size:
        x_train, x_test = x_train / np.float32(255), x_test / np.float32(255)
        mean = x_train.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
        std = x_train.std(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
        std = np.where(std > 0, std, np.float32(1))  # a constant channel stays constant
        x_train, x_test = (x_train - mean) / std, (x_test - mean) / std
    return x_train, x_test
