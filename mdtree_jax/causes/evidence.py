"""The evidence for gains: scale-free features of one trained network, computed from the columns of a table. No JAX.

An entry holds everything about a feature: what it needs, what it costs, how it is computed, the range in which it is
trusted. The model of gains (`mdtree_jax.causes.gain_model`) reads features by these entries only, so a new feature is
one entry. No feature has a threshold, and none depends on the units of losses, weights or inputs, because a threshold
of one family of networks is wrong for another.

Errors are in percent, losses in the units of the objective. Probes are compared with the network as it is, its
statistics refreshed, on the same examples (`mdtree_jax.registry.probes`). A feature of a probe against another costs
both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdtree_jax.collection.curve_features import CURVE_FEATURES
from mdtree_jax.registry.probes import CHECKPOINT
from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table

#: Where a feature comes from, in the order of its price.
GROUPS = ("errors", "history", "norms", "landscape", "pair", "probes")
#: Added to errors (percent) before a ratio is taken: an error of 0 of a few hundred examples is one below a half.
_LEAST_ERROR = 0.5
_TINY = 1e-12
#: Features of a history that are only defined where the loss falls, and one that is wherever losses are known.
_OF_A_FALL = ("history_early", "history_half_at", "history_curvature", "history_straightness", "history_end_pace")
_SLOPE = "history_slope_30"

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


def _log(column: str, absolute: bool = False) -> Callable[[Columns], np.ndarray]:
    return lambda c: _log_ratio(np.abs(c[column]) if absolute else c[column], np.ones_like(c[column]))


def _positive(values: np.ndarray) -> np.ndarray:
    """Return values, those of 0 and below as a tiny one: a trace that is not positive is small, not unknown."""
    return np.where(values <= 0, _TINY, values)


def _floored(columns: Columns, name: str) -> np.ndarray:
    """Return a loss plus a thousandth of that of chance: a loss of 0 has a logarithm."""
    return columns[name] + 1e-3 * np.abs(columns["chance_loss"]) + _TINY


def _drop(probe: str, outcome: str, against: str) -> Callable[[Columns], np.ndarray]:
    """Return how much lower a probe leaves an error than another, as a share of the error of the latter."""
    return lambda c: (c[f"{against}_{outcome}"] - c[f"{probe}_{outcome}"]) / _error(c, f"{against}_validation_error")


def _loss_drop(probe: str, outcome: str, against: str) -> Callable[[Columns], np.ndarray]:
    """Return how much lower a probe leaves a loss than another, as a log ratio."""
    return lambda c: _log_ratio(_floored(c, f"{against}_{outcome}"), _floored(c, f"{probe}_{outcome}"))


def _of_probe(probe: str, against: str) -> list[Evidence]:
    """Return the entries that compare a probe with another: training and validation, error and loss."""
    entries = []
    words = f"after `{probe}` than " + ("as it is" if against == CHECKPOINT else f"after `{against}`")
    for side, said in (("train", "training"), ("validation", "validation")):
        error, loss = f"{side}_error", f"{side}_loss"
        needs = (f"{against}_{error}", f"{probe}_{error}", f"{against}_validation_error")
        value, name = _drop(probe, error, against), f"{probe}_under_{against}_{side}"
        entries.append(
            Evidence(
                f"{name}_error", f"how much lower the {said} error is {words}", "probes", needs, value, probe=probe
            )
        )
        needs, value = (f"{against}_{loss}", f"{probe}_{loss}", "chance_loss"), _loss_drop(probe, loss, against)
        entries.append(
            Evidence(f"{name}_loss", f"how much lower the {said} loss is {words}", "probes", needs, value, probe=probe)
        )
    return entries


def _from_errors() -> Iterator[Evidence]:
    for side in ("train", "validation"):
        said = "training" if side == "train" else side
        yield Evidence(
            f"{side}_error",
            f"{said} error over the error of the best constant prediction",
            "errors",
            (f"{side}_error", "chance_error"),
            lambda c, side=side: c[f"{side}_error"] / c["chance_error"],
            0.0,
            1.5,
        )
        yield Evidence(
            f"{side}_loss",
            f"log ratio of the {said} loss to that of the best constant prediction",
            "errors",
            (f"{side}_loss", "chance_loss"),
            lambda c, side=side: _log_ratio(_floored(c, f"{side}_loss"), np.abs(c["chance_loss"])),
            -7.0,
            3.0,
        )
    yield Evidence(
        "fitted_share",
        "training error over validation error: 1 where there is no gap",
        "errors",
        ("train_error", "validation_error"),
        lambda c: c["train_error"] / _error(c, "validation_error"),
        0.0,
        1.5,
    )
    yield Evidence(
        "loss_gap",
        "log ratio of the validation loss to the training loss",
        "errors",
        ("train_loss", "validation_loss", "chance_loss"),
        lambda c: _log_ratio(_floored(c, "validation_loss"), _floored(c, "train_loss")),
        -1.0,
        7.0,
    )
    yield Evidence(
        "loss_per_error",
        "log ratio of the validation loss to the validation error, both over chance: confident mistakes",
        "errors",
        ("validation_loss", "validation_error", "chance_loss", "chance_error"),
        lambda c: _log_ratio(
            _floored(c, "validation_loss") / np.abs(c["chance_loss"]),
            _error(c, "validation_error") / c["chance_error"],
        ),
        -2.0,
        3.0,
    )


def _from_history() -> Iterator[Evidence]:
    for name, feature in CURVE_FEATURES.items():
        if name in _OF_A_FALL:
            yield Evidence(name, feature.meaning, "history", (name, _SLOPE), _defined(name), -6.0, 6.0)
        else:
            yield Evidence(name, feature.meaning, "history", (name,), lambda c, name=name: c[name], -6.0, 6.0)


def _defined(name: str) -> Callable[[Columns], np.ndarray]:
    """Return a feature of a loss that falls, 0 where the history is known and its loss does not fall."""
    return lambda c: np.where(np.isnan(c[name]) & np.isfinite(c[_SLOPE]), 0.0, c[name])


def _from_norms() -> Iterator[Evidence]:
    for name, words, low, high in (
        ("weight_growth", "log ratio of the norm of the weights to that at initialization", -2.0, 3.0),
        ("layer_growth", "the same, mean over weight matrices", -3.0, 3.0),
        ("gradient_ratio", "log ratio of the norm of the gradient to that of the weights", -12.0, 2.0),
    ):
        yield Evidence(name, words, "norms", (name,), lambda c, name=name: c[name], low, high)
    yield Evidence(
        "moved",
        "log of the distance from the initialization over the norm there",
        "norms",
        ("distance_from_initial",),
        _log("distance_from_initial"),
        -5.0,
        3.0,
    )
    yield Evidence(
        "relative_gradient",
        "log ratio of the gradient, scaled by the weights, to the training loss",
        "norms",
        ("scaled_gradient_norm", "train_loss", "chance_loss"),
        lambda c: _log_ratio(c["scaled_gradient_norm"], _floored(c, "train_loss")),
        -8.0,
        5.0,
    )


def _from_landscape() -> Iterator[Evidence]:
    yield Evidence(
        "relative_trace",
        "log ratio of the scale-invariant trace of the Hessian to the training loss",
        "landscape",
        ("scale_invariant_trace", "train_loss", "chance_loss"),
        lambda c: _log_ratio(_positive(c["scale_invariant_trace"]), _floored(c, "train_loss")),
        -4.0,
        8.0,
    )
    yield Evidence(
        "log_trace",
        "log of the trace of the Hessian",
        "landscape",
        ("hessian_trace",),
        lambda c: np.log(_positive(c["hessian_trace"])),
        -8.0,
        14.0,
    )
    yield Evidence(
        "log_eigenvalue",
        "log of the top eigenvalue of the Hessian",
        "landscape",
        ("hessian_max_eigenvalue",),
        _log("hessian_max_eigenvalue", absolute=True),
        -8.0,
        14.0,
    )
    yield Evidence(
        "rate_times_eigenvalue",
        "log of the learning rate times the top eigenvalue of the Hessian",
        "landscape",
        ("hessian_max_eigenvalue", "learning_rate"),
        lambda c: _log_ratio(
            np.abs(c["hessian_max_eigenvalue"]) * c["learning_rate"], np.ones_like(c["learning_rate"])
        ),
        -8.0,
        6.0,
    )


def _from_pairs() -> Iterator[Evidence]:
    yield Evidence(
        "distance",
        "log ratio of the distance of two seeds to the norm at initialization",
        "pair",
        ("l2_distance", "weight_norm_initial"),
        lambda c: _log_ratio(c["l2_distance"], c["weight_norm_initial"]),
        -3.0,
        4.0,
    )
    yield Evidence(
        "distance_ratio", "log of the distance of two seeds over their norm", "pair", ("distance_ratio",),
        _log("distance_ratio"), -3.0, 1.0,
    )  # fmt: skip
    yield Evidence(
        "disagreement", "share of examples on which two seeds differ, over their error", "pair",
        ("disagreement_ratio",), lambda c: c["disagreement_ratio"], 0.0, 2.0,
    )  # fmt: skip
    yield Evidence(
        "ensemble_gain",
        "error of the averaged outputs of two seeds minus theirs, over the validation error",
        "pair",
        ("ensemble_gain", "validation_error"),
        lambda c: c["ensemble_gain"] / _error(c, "validation_error"),
        -0.6,
        0.2,
    )
    yield Evidence(
        "barrier",
        "log of 1 + the barrier between two seeds over the loss of the best constant prediction",
        "pair",
        ("barrier_loss", "chance_loss"),
        lambda c: np.log1p(np.maximum(c["barrier_loss"], 0) / np.abs(c["chance_loss"])),
        0.0,
        4.0,
    )
    yield Evidence(
        "curve",
        "how far the training error on a trained curve between two seeds is above that of its ends",
        "pair",
        ("mode_connectivity", "chance_error"),
        lambda c: c["mode_connectivity"] / c["chance_error"],
        -1.0,
        1.0,
    )
    yield Evidence("cka", "similarity of the outputs of two seeds", "pair", ("cka",), lambda c: c["cka"], 0.0, 1.0)


EVIDENCE: Table[Evidence] = Table(
    "evidence",
    [
        *_from_errors(),
        *_from_history(),
        *_from_norms(),
        *_from_landscape(),
        *_from_pairs(),
        *_of_probe("refreshed", CHECKPOINT),
        *_of_probe("same", "refreshed"),
        *_of_probe("heat", "refreshed"),
        *_of_probe("scorch", "refreshed"),
        *_of_probe("cool", "refreshed"),
        *_of_probe("cool", "same"),
        *_of_probe("heat", "same"),
        *_of_probe("decay", "same"),
        *_of_probe("smooth", "same"),
    ],
)
BINDERS[Evidence] = in_table(EVIDENCE)


def evidence_frame(columns: pd.DataFrame, names: Iterable[str] | None = None) -> pd.DataFrame:
    """Return the features of every row, (rows, features), NaN where one cannot be computed.

    Args:
        columns: one row per network; columns that are missing leave out the features that need them.
        names: the features; None for all.
    """
    numbers = [str(name) for name in columns if _is_number(columns[name])]
    known = {name: columns[name].to_numpy(dtype=float, na_value=np.nan) for name in numbers}
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
