"""Checks of the arrays of a data set: inputs, and the targets that an objective takes."""

from __future__ import annotations

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.data.source import RawDataset
from mdtree_jax.registry.objectives import TARGETS, Objective

#: What an int32 holds; larger labels would wrap around.
_LARGEST_LABEL = 2**31 - 1


def check_inputs(name: str, raw: RawDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return both input arrays contiguous, float32, or int32 where they are whole numbers (n, time).

    Raises:
        UserError: neither images (n, h, w, c) nor tables or sequences (n, d), another shape in the test set, empty, not
            finite, negative token ids.
    """
    with np.errstate(over="ignore"):  # what is too large for float32 is found as infinite
        arrays = [np.asarray(inputs) for inputs in (raw.x_train, raw.x_test)]
        are_whole = all(x.dtype.kind in "iu" and x.ndim == 2 for x in arrays)
        kind = np.int32 if are_whole else np.float32
        x_train, x_test = (np.ascontiguousarray(x, kind) for x in arrays)
    for side, inputs in (("training", x_train), ("test", x_test)):
        if inputs.ndim not in (2, 4) or 0 in inputs.shape:
            raise UserError(
                f"the {side} images of data set '{name}' have shape {inputs.shape}; wanted (number, height, width, "
                "channels), or (number, length) of tables or sequences, none of them zero"
            )
        if not np.isfinite(inputs).all():
            raise UserError(f"the {side} {_word(inputs)} of data set '{name}' hold NaN or infinite values")
        if are_whole and inputs.min() < 0:
            raise UserError(
                f"a token id of the {side} inputs of data set '{name}' is {inputs.min()}; they count from 0"
            )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise UserError(
            f"data set '{name}' has training {_word(x_train)} of shape {x_train.shape[1:]} "
            f"but test {_word(x_test)} of shape {x_test.shape[1:]}"
        )
    return x_train, x_test


def _word(inputs: np.ndarray) -> str:
    return "images" if inputs.ndim == 4 else "inputs"


def check_targets(
    name: str, side: str, targets: np.ndarray, num_inputs: int, num_outputs: int, objective: Objective
) -> np.ndarray:
    """Return the targets of a data set's `training` or `test` side as `targets_for` does, and raise as it does."""
    one = TARGETS[objective.targets].one
    what, single = f"the {side} {one}s of data set '{name}'", f"a {side} {one} of data set '{name}'"
    found = targets_for(objective, targets, num_inputs, what, single, num_outputs)
    if objective.targets == "values" and side == "training" and np.ptp(found, axis=0).max() == 0:
        raise UserError(f"{what} are all {found.flat[0]:g}; there is nothing to learn")
    return found


def targets_for(
    objective: Objective, targets: np.ndarray, num_inputs: int, what: str, single: str, num_outputs: int | None = None
) -> np.ndarray:
    """Return targets as int32 or float32, whichever an objective takes.

    Args:
        objective: says what they must be.
        targets: as loaded.
        num_inputs: how many there must be.
        what, single: what they are and one of them is called in messages.
        num_outputs: of a network: classes, the vocabulary, or targets; None where that is not known.

    Raises:
        UserError: another number or kind of targets, labels or tokens out of range, numbers that are not finite.
    """
    targets, kind = np.asarray(targets), TARGETS[objective.targets]
    is_float = targets.dtype.kind == "f"
    is_soft = objective.targets == "class" and is_float and targets.ndim == 2
    axes = kind.axes if objective.targets != "class" else (2,) if is_soft else (1,)
    if targets.ndim == 0 or len(targets) != num_inputs or (axes and targets.ndim not in axes):
        wanted = f"({num_inputs},), one per input" if axes == (1,) else f"{kind.meaning}, n = {num_inputs}"
        raise UserError(f"{what} have shape {targets.shape}; expected {wanted}")
    if targets.dtype.kind not in kind.kinds or (is_float and axes == (1,)):
        hint = "; of numbers, choose objective=regression" if is_float and objective.targets == "class" else ""
        raise UserError(f"{what} are of type {targets.dtype}; expected {_numbers(objective)}{hint}")
    lowest, highest = targets.min(), targets.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise UserError(f"{what} hold NaN or infinite values")
    fits = num_outputs in (None, *targets.shape[1:2])
    if is_soft and not (fits and lowest >= 0 and np.allclose(targets.sum(1), 1, atol=1e-3)):
        raise UserError(
            f"{what} are not probabilities of {'the' if num_outputs is None else num_outputs} classes; expected rows "
            "that add up to 1"
        )
    if objective.targets in ("binary", "labels") and not 0 <= lowest <= highest <= 1:
        raise UserError(f"{what} are {lowest:g} to {highest:g}; expected 0 and 1")
    most = _LARGEST_LABEL if num_outputs is None else num_outputs - 1
    least = 0 if axes == (1,) else -_LARGEST_LABEL
    if objective.has_classes and not is_soft and not (highest <= most and lowest >= least):
        bad = highest if highest > most else lowest
        raise UserError(f"{single} is {bad}; expected 0 to {most}")
    return targets.astype(np.float32 if is_float or objective.targets == "values" else np.int32)


def _numbers(objective: Objective) -> str:
    return "integers" if objective.has_classes else "numbers"
