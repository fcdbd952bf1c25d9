"""What the training of a cohort gives, on the host. NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

VALIDATION = ("validation_loss", "validation_error")


class TrainedCohort(NamedTuple):
    """A trained population, on the host; first axis = member, in the order of the cohort.

    Attributes:
        variables: `{"params", "batch_stats"}`, NumPy arrays.
        train_loss: nats, mean over the member's subset, BatchNorm in eval mode; float64, as all metrics.
        train_error: percent.
        test_loss: nats, over the whole test set.
        test_error: percent.
        stop_epoch: number, from 1, of the epoch whose network was kept.
        num_epochs: epochs trained.
        is_finite: whether the losses of all epochs were; if not, the network kept is of an epoch before.
        train_seconds: the member's share, by steps, of the time for training, without compilation; recording of
            learning curves is part of it.
        train_flops: matrix products of forward and backward passes, 2 per multiply-add.
        useful_step_fraction: steps of members over lane steps; a lane whose queue is done idles until the last ends.
        num_compilations: of the training program in this call, or ahead of it: 1, or 0 if an equal cohort was trained
            before.
        compile_seconds: waited for the training program: compiled now, by another thread, or fetched from the cache.
        validation_loss: nats, over the whole validation set; None without one.
        validation_error: percent; None without a validation set.
        history: learning curves, a column of all points each: `member`, its number in the cohort, `epoch`, from 1,
            `step`, steps done, `train_loss` and, with a validation set, `validation_loss` and `validation_error`;
            None where none are recorded.
    """

    variables: Any
    train_loss: np.ndarray
    train_error: np.ndarray
    test_loss: np.ndarray
    test_error: np.ndarray
    stop_epoch: np.ndarray
    num_epochs: np.ndarray
    is_finite: np.ndarray
    train_seconds: np.ndarray
    train_flops: np.ndarray
    useful_step_fraction: float
    num_compilations: int
    compile_seconds: float
    validation_loss: np.ndarray | None = None
    validation_error: np.ndarray | None = None
    history: dict[str, np.ndarray] | None = None


def metrics_of(evaluated: Sequence[Any], sizes: Sequence[Any]) -> dict[str, np.ndarray]:
    """Return losses and errors (percent) by name, in float64.

    Args:
        evaluated: mean loss and number of errors of every network, on the training set, the test set and, if there is
            one, the validation set.
        sizes: of these sets; the first by network.
    """
    found = {}
    sides = ("train", "test", "validation")[: len(sizes)]
    for side, size, loss, wrong in zip(sides, sizes, evaluated[::2], evaluated[1::2], strict=True):
        found[f"{side}_loss"] = np.asarray(loss, np.float64)
        found[f"{side}_error"] = 100 * np.asarray(wrong, np.float64) / size
    return found
