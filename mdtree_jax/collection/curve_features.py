"""Features of learning curves: numbers without a unit that say how a training went. NumPy and pandas.

`curve_features` turns a table of histories, a row per network and point, into a row per network. One entry of
`CURVE_FEATURES` is one feature; `CURVE_FEATURES.register(CurveFeature(…))` adds one.

What all features share. The place of a point is its share of the steps, in (0, 1]. A history of more than 32 points is
cut into 32 parts of equal length first, each with its mean training loss and its last validation values, so that noise
means the same in long and short ones. Losses below 1e-8 of the largest one count as that, so that logarithms exist.
Slopes are least-squares slopes per whole training: −1 says that at this pace the loss falls by a factor e in as many
steps again. Missing values are left out; a feature that nothing can be said about is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.collection.learning_curve import STILL, VALUES, Curve, Series, make_curve
from mdtree_jax.registry.table import Table

_KEYS = ("configuration", "seed")


class CurveFeature(NamedTuple):
    """One feature.

    Attributes:
        name: of its column.
        unit: `ln` for logarithms of ratios, `1` for shares and ratios, `0/1`.
        meaning: its definition, one line.
        compute: `compute(curve) -> float`, of a `Curve`; NaN where nothing can be said.
    """

    name: str
    unit: str
    meaning: str
    compute: Callable[[Curve], float]


def _signal(curve: Curve) -> float:
    slope, noise = curve.log_loss.tail(0.3, fewest=3).line()
    return -0.3 * slope / (noise + 0.01)


def _place_of_least(series: Series) -> float:
    return float(series.at[np.argmin(series.value)]) if len(series.at) else np.nan


def _lost(error: Series) -> float:
    return (error.last - error.least) / error.last if error.last > 0 else 0.0 * error.last


def _early(curve: Curve) -> float:
    at_tenth = curve.log_loss(0.1)
    if not np.isnan(curve.chance_loss) and len(curve.log_loss.at):
        at = np.concatenate([[0.0], curve.log_loss.at])
        at_tenth = Series(at, np.concatenate([[curve.log_start], curve.log_loss.value]))(0.1)
    return (curve.log_start - at_tenth) / curve.fall


def _half_at(curve: Curve) -> float:
    if np.isnan(curve.fall):
        return np.nan
    half = curve.log_start - curve.fall / 2
    at, value = np.concatenate([[0.0], curve.log_loss.at]), np.concatenate([[curve.log_start], curve.log_loss.value])
    place = int(np.argmax(value <= half))
    before, after = value[place - 1], value[place]
    return float(at[place - 1] + (at[place] - at[place - 1]) * (before - half) / (before - after))


def _gap_growth(curve: Curve) -> float:
    gaps = [curve.log_validation_loss(place) - curve.log_loss(place) for place in (0.5, 1.0)]
    return gaps[1] - gaps[0]


def _relative_slope(error: Series) -> float:
    tail = error.tail(0.3)
    return tail.line()[0] / tail.value.mean() if len(tail.value) and tail.value.mean() > 0 else np.nan


def _relative_noise(error: Series) -> float:
    tail = error.tail(0.3, fewest=3)
    return tail.line()[1] / tail.value.mean() if len(tail.value) and tail.value.mean() > 0 else np.nan


def _moved(curve: Curve) -> float:
    """Return by how much the loss fell from its first point to its last, NaN if it did not."""
    loss = curve.loss
    return loss.first - loss.last if loss.first > loss.last * np.exp(STILL) else np.nan


def _curvature(curve: Curve) -> float:
    at, value = curve.loss
    if len(at) < 3:
        return np.nan
    mean = float(np.sum((value[1:] + value[:-1]) / 2 * np.diff(at)) / (at[-1] - at[0]))
    return 1.0 - 2.0 * (mean - curve.loss.last) / _moved(curve)


def _straightness(curve: Curve) -> float:
    if len(curve.loss.at) < 4 or np.isnan(_moved(curve)):
        return np.nan
    rest = curve.loss.line()[1] ** 2 * (len(curve.loss.at) - 2)
    return 1.0 - rest / float(((curve.loss.value - curve.loss.value.mean()) ** 2).sum())


def _end_pace(curve: Curve) -> float:
    at = curve.loss.at
    if len(at) < 3:
        return np.nan
    start = 1.0 - (1.0 - at[0]) / 3
    return 3.0 * (curve.loss(start) - curve.loss.last) / _moved(curve)


def _largest_rise(series: Series) -> float:
    return float((series.value - np.minimum.accumulate(series.value)).max()) if len(series.value) else np.nan


def _rising(curve: Curve) -> float:
    return float((np.diff(curve.log_loss.value) > 1e-9).mean()) if len(curve.log_loss.at) > 1 else np.nan


def _diverged(curve: Curve) -> float:
    start = max(curve.log_start, curve.log_loss.first)
    return float(not curve.is_finite or curve.log_loss.last > start + np.log(2.0))


def _never_moved(curve: Curve) -> float:
    value = curve.log_loss.value
    if len(value) < 2 or not curve.is_finite:
        return 0.0 if len(value) else np.nan
    is_at_start = np.isnan(curve.chance_loss) or curve.log_loss.least > curve.log_start - 5 * STILL
    return float(np.ptp(value) < STILL and is_at_start)


CURVE_FEATURES: Table[CurveFeature] = Table(
    "curve feature",
    [
        CurveFeature(
            "history_slope_10",
            "ln",
            "slope of ln training loss over the last 10 % of the steps, at least two points",
            lambda c: c.log_loss.tail(0.1).line()[0],
        ),
        CurveFeature(
            "history_slope_30",
            "ln",
            "slope of ln training loss over the last 30 % of the steps, at least three points",
            lambda c: c.log_loss.tail(0.3, fewest=3).line()[0],
        ),
        CurveFeature(
            "history_noise",
            "ln",
            "standard deviation of ln training loss around its line over the last 30 %, at least three points",
            lambda c: c.log_loss.tail(0.3, fewest=3).line()[1],
        ),
        CurveFeature(
            "history_signal", "1", "fall along that line over 30 % of the steps, over (its noise + 0.01)", _signal
        ),
        CurveFeature(
            "history_best_at",
            "1",
            "place of the least validation error, the first of equals",
            lambda c: _place_of_least(c.validation_error),
        ),
        CurveFeature(
            "history_lost",
            "1",
            "share of the last validation error that came since the least one",
            lambda c: _lost(c.validation_error),
        ),
        CurveFeature(
            "history_best_loss_at",
            "1",
            "place of the least validation loss, the first of equals",
            lambda c: _place_of_least(c.validation_loss),
        ),
        CurveFeature(
            "history_loss_lost",
            "ln",
            "ln(last validation loss / least one)",
            lambda c: c.log_validation_loss.last - c.log_validation_loss.least,
        ),
        *(
            CurveFeature(
                f"history_loss_{percent}",
                "ln",
                f"ln(training loss at {percent} % of the steps / at the first point)",
                lambda c, place=percent / 100: c.log_loss(place) - c.log_loss.first,
            )
            for percent in (10, 50, 100)
        ),
        *(
            CurveFeature(
                f"history_chance_{percent}",
                "ln",
                f"ln(training loss at {percent} % of the steps / loss of chance)",
                lambda c, place=percent / 100: c.log_loss(place) - float(np.log(c.chance_loss)),
            )
            for percent in (10, 50, 100)
        ),
        CurveFeature(
            "history_error_of_chance",
            "1",
            "last validation error / error of chance",
            lambda c: c.validation_error.last / c.chance_error,
        ),
        CurveFeature(
            "history_early",
            "1",
            "early speed: share of the largest fall of ln training loss, from chance or else the first point, that is "
            "reached by 10 % of the steps",
            _early,
        ),
        CurveFeature("history_half_at", "1", "place at which half of that fall is reached", _half_at),
        CurveFeature("history_fall", "ln", "that fall", lambda c: c.log_start - c.log_loss.least),
        CurveFeature(
            "history_gap",
            "ln",
            "ln(last validation loss / last training loss)",
            lambda c: c.log_validation_loss.last - c.log_loss.last,
        ),
        CurveFeature("history_gap_growth", "ln", "growth of this gap over the second half of the steps", _gap_growth),
        CurveFeature(
            "history_error_gap",
            "1",
            "(validation error − training error) / validation error at the end",
            lambda c: (c.validation_error.last - c.train_error.last) / c.validation_error.last,
        ),
        CurveFeature(
            "history_validation_slope",
            "ln",
            "slope of ln validation loss over the last 30 % of the steps, at least two points",
            lambda c: c.log_validation_loss.tail(0.3).line()[0],
        ),
        CurveFeature(
            "history_error_slope",
            "1",
            "slope of the validation error over the last 30 % of the steps / its mean there",
            lambda c: _relative_slope(c.validation_error),
        ),
        CurveFeature(
            "history_error_noise",
            "1",
            "standard deviation of the validation error around its line over the last 30 % / its mean there",
            lambda c: _relative_noise(c.validation_error),
        ),
        CurveFeature(
            "history_curvature",
            "1",
            "form of the fall of the training loss: 0 a straight line, 1 all at once at the start, −1 at the end",
            _curvature,
        ),
        CurveFeature(
            "history_straightness",
            "1",
            "share of the variance of the training loss that a straight line explains, with four points or more",
            _straightness,
        ),
        CurveFeature(
            "history_end_pace",
            "1",
            "pace at which the training loss falls in its last third / in all: 1 in a straight line, 0 where flat",
            _end_pace,
        ),
        CurveFeature(
            "history_largest_rise",
            "ln",
            "spikes: largest ln(training loss / least one before it)",
            lambda c: _largest_rise(c.log_loss),
        ),
        CurveFeature(
            "history_last_rise",
            "ln",
            "ln(last training loss / least one)",
            lambda c: c.log_loss.last - c.log_loss.least,
        ),
        CurveFeature(
            "history_rising", "1", "share of the points at which the training loss is above the last", _rising
        ),
        CurveFeature(
            "history_diverged",
            "0/1",
            "whether a loss was infinite or became NaN, or the training loss ended above twice its start",
            _diverged,
        ),
        CurveFeature(
            "history_never_moved",
            "0/1",
            "whether the training loss stayed within 2 % and, where chance is known, did not get 10 % below it",
            _never_moved,
        ),
        CurveFeature(
            "history_rate_end",
            "ln",
            "ln(last learning rate / largest one): whether the schedule came to an end",
            lambda c: float(np.log(c.rate.last / c.rate.value.max())) if len(c.rate.value) else np.nan,
        ),
    ],
)


def curve_features(
    history: pd.DataFrame, *, chance_loss: float | None = None, chance_error: float | None = None
) -> pd.DataFrame:
    """Return the features of learning curves, a column for every entry of `CURVE_FEATURES`, one row per network.

    Args:
        history: one row per point: `epoch` or `step` or both, and any of `train_loss`, `train_error`,
            `validation_loss`, `validation_error`, `learning_rate`; `configuration` and `seed`, if there, say of which
            network, else all rows are of one.
        chance_loss: loss of the best constant output, in the unit of the losses; None if not known.
        chance_error: its error, percent; None if not known.

    Raises:
        UserError: no rows, neither losses nor errors, or a chance that is not positive.
    """
    if not len(history) or not set(VALUES[:4]) & set(history.columns):
        raise UserError(f"a history needs at least one row, and one of the columns {', '.join(VALUES[:4])}")
    chance = []
    for name, value in (("chance_loss", chance_loss), ("chance_error", chance_error)):
        if value is not None and not value > 0:
            raise UserError(f"{name}={value:g} is out of range; it must be above 0")
        chance.append(np.nan if value is None else float(value))
    keys = [key for key in _KEYS if key in history]
    groups = [((), history)] if not keys else history.groupby(keys, sort=True)
    rows = []
    for names, rows_of_one in groups:
        curve = make_curve(rows_of_one, *chance)
        with np.errstate(all="ignore"):
            values = {name: feature.compute(curve) for name, feature in CURVE_FEATURES.items()}
        rows.append(dict(zip(keys, names, strict=True)) | values)
    features = pd.DataFrame(rows)
    kinds = dict.fromkeys(CURVE_FEATURES, float)
    return features.astype(kinds).replace([np.inf, -np.inf], np.nan)


def markdown_table() -> str:
    """Return the features as a Markdown table, for the documentation."""
    lines = ["| feature | unit | definition |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{one.name}` | {one.unit} | {one.meaning} |" for one in CURVE_FEATURES.values()])
