"""Outlooks of the rows of a user's table: what its columns say of expected gains. NumPy and pandas only.

A row needs `train_error` and `validation_error`, or `test_error` in its place. Every other column of a sweep's tables
that `mdtree_jax.causes.evidence` names is used where it is there. Guessing is known from columns `chance_error` (%)
and `chance_loss`, or, of classifiers with balanced classes, from `num_classes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.causes.evidence import EVIDENCE
from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.outlook import Outlook, outlooks_of
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.probes import PROBES, REFRESHED
from mdtree_jax.registry.remedies import REMEDIES, Remedy

#: Column of held-out data -> the column that stands for it.
_STAND_INS = {"validation_error": "test_error", "validation_loss": "test_loss", "validation_error_se": "test_error_se"}
#: Column -> its logarithm, which tables hold.
_LOGARITHMS = {"hessian_trace": "log_hessian_trace", "hessian_max_eigenvalue": "log_hessian_max_eigenvalue"}
CHANCE = ("chance_error", "chance_loss", "num_classes")


def used_columns() -> set[str]:
    """Return the columns of a table that an outlook looks at."""
    needs = {name for entry in EVIDENCE.values() for name in entry.needs}
    probes = {f"{name}_validation_error" for name in PROBES}
    return needs | probes | {*CHANCE, *_STAND_INS.values()} | {remedy.knob for remedy in REMEDIES.values()}


def table_outlooks(
    frame: pd.DataFrame, trainings: Sequence[Training] = ()
) -> list[tuple[Outlook | None, tuple[Fact, ...]]]:
    """Return for every row its outlook, None where an error that it needs is not known, and notes on what was missing.

    Args:
        frame: as `metrics_table.read_metrics` returned it.
        trainings: known settings of every row, which come before those of its columns; () for none.

    Raises:
        UserError: a number of classes below 2, or a loss or error of guessing that is not above 0.
    """
    evidence = _as_evidence(frame)
    for name in ("learning_rate", "batch_size"):
        known = [getattr(training, name) for training in trainings]
        if any(value is not None for value in known):
            evidence[name] = pd.Series(known, evidence.index, dtype=float).fillna(_numbers(frame, name))
    settings = [str(name) for name in evidence if name in used_columns()]
    possible = [_possible(dict(zip(settings, row, strict=True))) for row in evidence[settings].to_numpy(object)]
    from_test = _is_missing(frame, "validation_error")
    no_chance = _is_missing(evidence, "chance_error")
    out: list[tuple[Outlook | None, tuple[Fact, ...]]] = []
    for outlook, test, unknown in zip(outlooks_of(evidence, possible), from_test, no_chance, strict=True):
        notes = [fact("test_as_validation")] if test else []
        notes += [fact("chance_unknown", columns=["num_classes", "chance_error"])] if unknown else []
        out.append((outlook, tuple(notes) if outlook else ()))
    return out


def _as_evidence(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the columns that evidence is computed from, as numbers."""
    values: dict[str, Any] = {name: _numbers(frame, name) for name in (*CHANCE, *_STAND_INS, *_STAND_INS.values())}
    _check_chance(values)
    is_there = {name: values[name].notna() for name in values}
    for name, other in _STAND_INS.items():
        values[name] = values[name].where(is_there["validation_error"], values[other])
    # An error of guessing below 1 % does not occur: it is a fraction.
    error = values["chance_error"] * np.where(values["chance_error"] <= 1, 100.0, 1.0)
    classes = values["num_classes"]
    values["chance_error"] = error.where(is_there["chance_error"], 100 * (1 - 1 / classes))
    values["chance_loss"] = values["chance_loss"].where(is_there["chance_loss"], np.log(classes))
    # Without the training error, an error of guessing says nothing of the fit.
    values["validation_error"] = values["validation_error"].where(_numbers(frame, "train_error").notna())
    with np.errstate(over="ignore"):
        for name, logarithm in _LOGARITHMS.items():
            values[name] = _numbers(frame, name).fillna(pd.Series(np.exp(_numbers(frame, logarithm)), frame.index))
    rest = frame.drop(columns=[name for name in values if name in frame])
    return pd.concat([rest, pd.DataFrame(values, index=frame.index)], axis=1)


def _check_chance(values: Mapping[str, pd.Series]) -> None:
    for name in CHANCE:
        bad = (values[name] < 2 if name == "num_classes" else values[name] <= 0).to_numpy()
        if bad.any():
            row, wanted = int(np.argmax(bad)), "at least 2" if name == "num_classes" else "above 0"
            raise UserError(f"{name}={values[name].iloc[row]:g} in row {row + 1}; it must be {wanted}")


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame:
        return pd.Series(np.nan, frame.index)
    return pd.to_numeric(frame[name], errors="coerce").astype(float)


def _is_missing(frame: pd.DataFrame, name: str) -> list[bool]:
    return _numbers(frame, name).isna().tolist()


def _possible(row: Mapping[str, Any]) -> list[str]:
    """Return the remedies that can be made from the settings in a row; a setting that is not known hinders none."""
    return [remedy.name for remedy in REMEDIES.values() if _can_be_made(remedy, row)]


def _can_be_made(remedy: Remedy, row: Mapping[str, Any]) -> bool:
    if remedy.name == REFRESHED:
        return _number(row.get(f"{REFRESHED}_validation_error")) is not None
    value = _number(row.get(remedy.knob))
    if value is None:
        return True
    if not remedy.factor:
        return value != remedy.value
    knob, after = KNOBS[remedy.knob], value * remedy.factor
    # More data than a data set has can still be collected.
    return after > 0 and (after >= knob.low or remedy.factor > 1)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float, np.number)) and bool(np.isfinite(value))
    return float(value) if is_number else None
