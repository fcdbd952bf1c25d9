"""A learning curve: what is known of a network along its training, ready for features. NumPy and pandas."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

VALUES = ("train_loss", "train_error", "validation_loss", "validation_error", "learning_rate")
MOST_POINTS = 32
#: Less than this, in ln, is no movement of a loss.
STILL = 0.02
_LEAST = 1e-8


class Series(NamedTuple):
    """The known values of one quantity along a training: `at`, shares of the steps, and `value`, (points,).

    Numbers are NumPy's, by which a division by zero is infinite and no error.
    """

    at: np.ndarray
    value: np.ndarray

    def __call__(self, place: float) -> float:
        """Return the value at a share of the steps, interpolated; at the ends, the first or last one."""
        return np.float64(np.interp(place, self.at, self.value) if len(self.at) else np.nan)

    @property
    def first(self) -> float:
        """The first value, NaN if there is none."""
        return np.float64(self.value[0] if len(self.value) else np.nan)

    @property
    def last(self) -> float:
        """The last value, NaN if there is none."""
        return np.float64(self.value[-1] if len(self.value) else np.nan)

    @property
    def least(self) -> float:
        """The smallest value, NaN if there is none."""
        return np.float64(self.value.min() if len(self.value) else np.nan)

    def tail(self, share: float, fewest: int = 2) -> Series:
        """Return the values in the last `share` of the steps, or the last `fewest` if those are fewer."""
        first = min(int(np.searchsorted(self.at, 1.0 - share - 1e-9)), max(len(self.at) - fewest, 0))
        return Series(self.at[first:], self.value[first:])

    def line(self) -> tuple[float, float]:
        """Return slope and standard deviation around a least-squares line, NaN with fewer than 2 or 3 values."""
        if len(self.at) < 2 or np.ptp(self.at) == 0.0:
            return np.nan, np.nan
        at, value = self.at - self.at.mean(), self.value - self.value.mean()
        slope = float(at @ value / (at @ at))
        rest = value - slope * at
        return slope, float(np.sqrt(rest @ rest / (len(at) - 2))) if len(at) > 2 else np.nan


class Curve(NamedTuple):
    """One network's history.

    Attributes:
        loss, validation_loss: mean training loss and validation loss.
        log_loss, log_validation_loss: their natural logarithms.
        train_error, validation_error: in percent.
        rate: learning rate.
        is_finite: whether no loss was infinite, and the last point has one that is a number.
        chance_loss, chance_error: of the best constant output, NaN if not known.
    """

    loss: Series
    log_loss: Series
    validation_loss: Series
    log_validation_loss: Series
    train_error: Series
    validation_error: Series
    rate: Series
    is_finite: bool
    chance_loss: float
    chance_error: float

    @property
    def log_start(self) -> float:
        """Logarithm of the loss before training: that of chance, or else of the first point."""
        return self.log_loss.first if np.isnan(self.chance_loss) else float(np.log(self.chance_loss))

    @property
    def fall(self) -> float:
        """By how much the logarithm of the training loss fell at most, NaN if it did not move."""
        fall = self.log_start - self.log_loss.least
        return fall if fall >= STILL else np.nan


def make_curve(history: pd.DataFrame, chance_loss: float, chance_error: float) -> Curve:
    """Return the curve of the points of one network, columns as of `curve_features`, in any order."""
    at = _places(history)
    order = np.argsort(at, kind="stable")
    values = {name: history[name].to_numpy(float)[order] if name in history else at * np.nan for name in VALUES}
    losses = np.stack([values["train_loss"], values["validation_loss"]])
    is_finite = not (np.isinf(losses).any() or ((~np.isnan(losses)).any() and np.isnan(losses[:, -1]).all()))
    at, values = _shortened(at[order], values)

    def series(name: str) -> Series:
        known = np.isfinite(values[name])
        return Series(at[known], values[name][known])

    def log(one: Series) -> Series:
        return Series(one.at, np.log(np.maximum(one.value, floor)))

    loss, validation = series("train_loss"), series("validation_loss")
    floor = _LEAST * max([*np.abs(loss.value), *np.abs(validation.value)], default=1.0) or _LEAST
    errors = series("train_error"), series("validation_error")
    return Curve(
        loss,
        log(loss),
        validation,
        log(validation),
        *errors,
        series("learning_rate"),
        is_finite,
        chance_loss,
        chance_error,
    )


def _places(history: pd.DataFrame) -> np.ndarray:
    """Return the share of the steps at which every point is: by step, else by epoch, else by its number."""
    for name in ("step", "epoch"):
        if name in history and np.isfinite(count := history[name].to_numpy(float)).all() and count.max() > 0:
            return np.clip(count, 0, None) / count.max()
    return np.arange(1, len(history) + 1) / len(history)


def _shortened(at: np.ndarray, values: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return at most `MOST_POINTS` points: means of the training loss and last known other values of equal parts."""
    if len(at) <= MOST_POINTS:
        return at, values
    part = np.clip(np.ceil(at * MOST_POINTS - 1e-9).astype(int) - 1, 0, MOST_POINTS - 1)
    table = pd.DataFrame({**values, "at": at}).replace([np.inf, -np.inf], np.nan).groupby(part)
    short = table.last().assign(train_loss=table["train_loss"].mean())
    return short["at"].to_numpy(), {name: short[name].to_numpy(float) for name in values}
