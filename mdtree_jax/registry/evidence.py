"""The evidence for gains: scale-free features of one trained network, computed from the columns of a table. No JAX.

An entry holds everything about a feature: what it needs, what it costs, how it is computed, the range in which it is
trusted. The model of gains (`mdtree_jax.causes.gain_model`) reads features by these entries only, so a new feature is
one entry. No feature has a threshold, and none depends on the units of losses, weights or inputs, because a threshold
of one family of networks is wrong for another.

Errors are in percent, losses in the units of the objective. `before` stands for the network as it is; probes are
continued from it on the same examples (`mdtree_jax.registry.probes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table

#: Where a feature comes from, in the order of its price.
GROUPS = ("errors", "history", "norms", "landscape", "pair", "probes")
#: Added to errors (percent) before a ratio is taken: an error of 0 of a few hundred examples is one below a half.
_LEAST_ERROR = 0.5
_TINY = 1e-12

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Evidence:
    """One feature.

    Attributes:
        name: identifier.
        meaning: one line for help and tables.
        group: where it comes from, one of `GROUPS`.
        needs: the columns that it is computed from.
        value: `value(columns) -> (rows,)`, of the columns as float arrays; NaN where it cannot be computed.
        low, high: range in which it is trusted; values outside are moved to its ends.
        neutral: value that stands for a missing one in a family where the feature has no meaning.
        probe: the probe that must be run for it; '' for none.
    """

    name: str
    meaning: str = ""
    group: str = "errors"
    needs: tuple[str, ...] = ()
    value: Callable[[Columns], np.ndarray] | None = None
    low: float = -3.0
    high: float = 3.0
    neutral: float = 0.0
    probe: str = ""


def _error(columns: Columns, name: str) -> np.ndarray:
    return np.maximum(columns[name], 0.0) + _LEAST_ERROR


def _log_ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    good = (top > 0) & (bottom > 0)
    return np.log(np.where(good, top, np.nan) / np.where(good, bottom, np.nan))


def _over_error(column: str) -> Callable[[Columns], np.ndarray]:
    return lambda c: c[column] / _error(c, "validation_error")


def _plain(column: str) -> Callable[[Columns], np.ndarray]:
    return lambda c: c[column]


def _log(column: str) -> Callable[[Columns], np.ndarray]:
    return lambda c: _log_ratio(c[column], np.ones_like(c[column]))


def _drop(probe: str, outcome: str) -> Callable[[Columns], np.ndarray]:
    """Return the drop of an error by a probe as a share of the error before."""

    def value(c: Columns) -> np.ndarray:
        return (c[f"before_{outcome}"] - c[f"{probe}_{outcome}"]) / _error(c, "before_validation_error")

    return value


def _loss_drop(probe: str, outcome: str, against: str = "before") -> Callable[[Columns], np.ndarray]:
    """Return the drop of a loss by a probe as a log ratio: positive where the probe lowers it."""

    def value(c: Columns) -> np.ndarray:
        floor = 1e-3 * np.abs(c["chance_loss"]) + _TINY
        return _log_ratio(c[f"{against}_{outcome}"] + floor, c[f"{probe}_{outcome}"] + floor)

    return value


def _against(probe: str, other: str, outcome: str) -> Callable[[Columns], np.ndarray]:
    """Return how much lower one probe leaves an error than another, as a share of the error before."""

    def value(c: Columns) -> np.ndarray:
        return (c[f"{other}_{outcome}"] - c[f"{probe}_{outcome}"]) / _error(c, "before_validation_error")

    return value


def _probe_entries(probe: str, words: str) -> list[Evidence]:
    """Return the four entries of a probe: drops of training and validation error and loss."""
    entries = []
    for side in ("train", "validation"):
        for outcome, make in (("error", _drop), ("loss", _loss_drop)):
            column = f"{side}_{outcome}"
            needs = (f"before_{column}", f"{probe}_{column}", "before_validation_error", "chance_loss")
            meaning = f"drop of the {'training' if side == 'train' else side} {outcome} {words}"
            value = make(probe, column)
            entries.append(Evidence(f"{probe}_{side}_{outcome}_drop", meaning, "probes", needs, value, probe=probe))
    return entries


def _probes_against(probe: str, other: str, words: str) -> list[Evidence]:
    out = []
    for side in ("train", "validation"):
        error, loss = f"{side}_error", f"{side}_loss"
        needs = (f"{other}_{error}", f"{probe}_{error}", "before_validation_error")
        name = f"{probe}_under_{other}_{side}"
        said = "training" if side == "train" else side
        out.append(
            Evidence(
                f"{name}_error", f"{said} error {words}", "probes", needs, _against(probe, other, error), probe=probe
            )
        )
        needs = (f"{other}_{loss}", f"{probe}_{loss}", "chance_loss")
        value = _loss_drop(probe, loss, other)
        out.append(Evidence(f"{name}_loss", f"{said} loss {words}", "probes", needs, value, probe=probe))
    return out


_HISTORY = {
    "slope_10": "relative slope of the training loss over the last 10 % of the steps",
    "slope_30": "relative slope of the training loss over the last 30 % of the steps",
    "noise_30": "noise of the training loss around its trend over the last 30 % of the steps",
    "best_place": "place of the best validation error, as a share of the training",
    "lost_since_best": "validation error lost since its best value, over the last value",
    "early_drop": "log ratio of the first training loss to that at 10 % of the steps",
    "late_drop": "log ratio of the training loss at 50 % of the steps to the last",
}

EVIDENCE: Table[Evidence] = Table(
    "evidence",
    [
        Evidence(
            "train_error",
            "training error over the error of the best constant prediction",
            "errors",
            ("train_error", "chance_error"),
            lambda c: c["train_error"] / c["chance_error"],
            0.0,
            1.5,
        ),
        Evidence(
            "validation_error",
            "validation error over the error of the best constant prediction",
            "errors",
            ("validation_error", "chance_error"),
            lambda c: c["validation_error"] / c["chance_error"],
            0.0,
            1.5,
        ),
        Evidence(
            "fitted_share",
            "training error over validation error: 1 where there is no gap",
            "errors",
            ("train_error", "validation_error"),
            lambda c: c["train_error"] / _error(c, "validation_error"),
            0.0,
            1.5,
        ),
        Evidence(
            "loss_gap",
            "log ratio of the validation loss to the training loss",
            "errors",
            ("train_loss", "validation_loss", "chance_loss"),
            lambda c: _log_ratio(
                c["validation_loss"] + 1e-3 * np.abs(c["chance_loss"]),
                c["train_loss"] + 1e-3 * np.abs(c["chance_loss"]),
            ),
            -1.0,
            7.0,
        ),
        Evidence(
            "train_loss",
            "log ratio of the training loss to that of the best constant prediction",
            "errors",
            ("train_loss", "chance_loss"),
            lambda c: _log_ratio(c["train_loss"] + 1e-3 * np.abs(c["chance_loss"]), np.abs(c["chance_loss"])),
            -7.0,
            1.0,
        ),
        Evidence(
            "validation_loss",
            "log ratio of the validation loss to that of the best constant prediction",
            "errors",
            ("validation_loss", "chance_loss"),
            lambda c: _log_ratio(c["validation_loss"] + 1e-3 * np.abs(c["chance_loss"]), np.abs(c["chance_loss"])),
            -4.0,
            3.0,
        ),
        Evidence(
            "loss_per_error",
            "log ratio of the validation loss to the validation error, both over chance: confident mistakes",
            "errors",
            ("validation_loss", "validation_error", "chance_loss", "chance_error"),
            lambda c: _log_ratio(
                (c["validation_loss"] + 1e-3 * np.abs(c["chance_loss"])) / np.abs(c["chance_loss"]),
                _error(c, "validation_error") / c["chance_error"],
            ),
            -2.0,
            3.0,
        ),
        *(
            Evidence(f"history_{name}", words, "history", (f"history_{name}",), _plain(f"history_{name}"))
            for name, words in _HISTORY.items()
        ),
        Evidence(
            "weight_growth",
            "log ratio of the norm of the weights to that at initialization",
            "norms",
            ("weight_norm", "weight_norm_initial"),
            lambda c: _log_ratio(c["weight_norm"], c["weight_norm_initial"]),
            -2.0,
            3.0,
        ),
        Evidence(
            "gradient_ratio",
            "log ratio of the norm of the gradient to that of the weights, times the norm of the weights over the loss",
            "norms",
            ("gradient_norm", "weight_norm", "train_loss", "chance_loss"),
            lambda c: _log_ratio(
                c["gradient_norm"] * c["weight_norm"], c["train_loss"] + 1e-3 * np.abs(c["chance_loss"])
            ),
            -5.0,
            5.0,
        ),
        Evidence(
            "gradient_over_weights",
            "log ratio of the norm of the gradient to that of the weights",
            "norms",
            ("gradient_norm", "weight_norm"),
            lambda c: _log_ratio(c["gradient_norm"], c["weight_norm"]),
            -12.0,
            2.0,
        ),
        Evidence(
            "moved",
            "log ratio of the distance from the initialization to the norm at initialization",
            "norms",
            ("distance_from_initial", "weight_norm_initial"),
            lambda c: _log_ratio(c["distance_from_initial"], c["weight_norm_initial"]),
            -5.0,
            3.0,
        ),
        Evidence(
            "log_trace",
            "log ratio of the trace of the Hessian, times the mean square of a weight, to the training loss",
            "landscape",
            ("hessian_trace", "weight_norm", "num_parameters", "train_loss", "chance_loss"),
            lambda c: _log_ratio(
                c["hessian_trace"] * c["weight_norm"] ** 2 / c["num_parameters"],
                c["train_loss"] + 1e-3 * np.abs(c["chance_loss"]),
            ),
            -6.0,
            8.0,
        ),
        Evidence(
            "log_eigenvalue",
            "log ratio of the top eigenvalue of the Hessian, times the mean square of a weight, to the training loss",
            "landscape",
            ("dominant_eigenvalue", "weight_norm", "num_parameters", "train_loss", "chance_loss"),
            lambda c: _log_ratio(
                np.abs(c["dominant_eigenvalue"]) * c["weight_norm"] ** 2 / c["num_parameters"],
                c["train_loss"] + 1e-3 * np.abs(c["chance_loss"]),
            ),
            -8.0,
            8.0,
        ),
        Evidence(
            "raw_trace",
            "log of the trace of the Hessian",
            "landscape",
            ("hessian_trace",),
            _log("hessian_trace"),
            -10.0,
            16.0,
        ),
        Evidence(
            "raw_eigenvalue",
            "log of the top eigenvalue of the Hessian",
            "landscape",
            ("dominant_eigenvalue",),
            lambda c: _log_ratio(np.abs(c["dominant_eigenvalue"]), np.ones_like(c["dominant_eigenvalue"])),
            -10.0,
            16.0,
        ),
        Evidence(
            "rate_times_eigenvalue",
            "log of the learning rate times the top eigenvalue of the Hessian",
            "landscape",
            ("dominant_eigenvalue", "learning_rate"),
            lambda c: _log_ratio(np.abs(c["dominant_eigenvalue"]) * c["learning_rate"], np.ones_like(c["learning_rate"])),
            -10.0,
            6.0,
        ),
        Evidence(
            "distance",
            "log ratio of the distance of two seeds to the norm at initialization",
            "pair",
            ("l2_distance", "weight_norm_initial"),
            lambda c: _log_ratio(c["l2_distance"], c["weight_norm_initial"]),
            -3.0,
            4.0,
        ),
        Evidence(
            "disagreement",
            "share of examples on which two seeds differ, over the validation error",
            "pair",
            ("disagreement", "validation_error"),
            _over_error("disagreement"),
            0.0,
            2.0,
        ),
        Evidence(
            "ensemble_gain",
            "error of two seeds minus that of their mean output, over the validation error",
            "pair",
            ("ensemble_gain", "validation_error"),
            _over_error("ensemble_gain"),
            -0.2,
            0.6,
        ),
        Evidence(
            "barrier",
            "log of 1 + the barrier between two seeds over the loss of the best constant prediction",
            "pair",
            ("barrier", "chance_loss"),
            lambda c: np.log1p(np.maximum(c["barrier"], 0) / np.abs(c["chance_loss"])),
            0.0,
            4.0,
        ),
        *_probe_entries("heat", "by training on at 4 times the rate"),
        *_probe_entries("same", "by training on at the same rate"),
        *_probe_entries("cool", "by training on at a rate that falls to 0"),
        *_probe_entries("refreshed", "by recomputing the statistics of BatchNorm"),
        *_probe_entries("decay", "by training on with 10 times the weight decay"),
        *_probes_against("cool", "same", "lower after cooling than after training on at the same rate"),
        *_probes_against("heat", "same", "lower after heating than after training on at the same rate"),
    ],
)
BINDERS[Evidence] = in_table(EVIDENCE, needs=())


def evidence_frame(columns: pd.DataFrame, names: Iterable[str] | None = None) -> pd.DataFrame:
    """Return the features of every row, (rows, features), NaN where one cannot be computed.

    Args:
        columns: one row per network; columns that are missing leave out the features that need them.
        names: the features; None for all.
    """
    known = {name: columns[name].to_numpy(dtype=float, na_value=np.nan) for name in columns if _is_number(columns[name])}
    found = {}
    with np.errstate(all="ignore"):
        for name in EVIDENCE if names is None else names:
            entry = EVIDENCE[name]
            if entry.value is None or any(need not in known for need in entry.needs):
                continue
            value = np.asarray(entry.value(known), dtype=float)
            found[name] = np.clip(np.where(np.isfinite(value), value, np.nan), entry.low, entry.high)
    return pd.DataFrame(found, index=columns.index)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
