"""Fits a reference on a collection, and measures what its answers are worth where a grid knows the cause."""

from __future__ import annotations

import datetime
import os
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.causes.evaluate import Answers, accuracy_at, answer_all, calibration_error, halves, make_joint_side
from mdtree_jax.causes.labels import shared_causes
from mdtree_jax.causes.methods import JOINT_TASKS, joint_method, trees_and_gains
from mdtree_jax.checks import UserError
from mdtree_jax.collection.grid import cells_of, make_grid
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.moves import Move
from mdtree_jax.collection.tasks import TASKS, brought_labels
from mdtree_jax.diagnosis.gains import best_moves, best_step, factor_gain, steps_of
from mdtree_jax.diagnosis.reference import Reference, as_numbers, kept_value
from mdtree_jax.provenance import code_version


def measured_accuracy(reference: Reference, test: pd.DataFrame | None) -> dict[str, Any]:
    """Return `test`, what was measured on, and `accuracy`: task -> what its answers are worth.

    Args:
        reference: what answers; fitted on all of its rows.
        test: another loaded collection; None takes half of the reference's own cells and answers by a second fit on the
            other half.

    `all` and `surest_80_percent` are percent right, the surest by the probability that a diagnosis shows;
    `calibration_error` is in points, `models` how many were asked. `joint` has more: `one_checkpoint`, the same without
    the metrics of pairs; `by_cause`, cause -> how many `answers` named it and percent `right` of them; `gains`, of the
    advised step against the first cause: mean `expected`, mean `found` (points), and percent of the gains found that
    lie `inside` the stated interval. A task that cannot be measured is left out.
    """
    rows, out = reference.rows, {}
    for task in (*TASKS.values(), *JOINT_TASKS.values()):
        try:
            (answers,) = answer_all([trees_and_gains(), joint_method()], task, rows, test).values()
            out[task.name] = _worth(answers)
        except UserError:  # a collection too small or of one class for this task
            continue
    if "joint" in out:
        single = [name for name in reference.columns if name not in joint.PAIR_COLUMNS]
        if joint.metrics_of(single) and len(single) < len(reference.columns):
            (answers,) = answer_all([joint_method(single)], JOINT_TASKS["joint"], rows, test).values()
            out["joint"]["one_checkpoint"] = _worth(answers)
        out["joint"] |= _of_first_causes(reference, test)
    where = "half of its own cells, by a fit on the other half" if test is None else test.attrs["name"]
    return {"test": where, "accuracy": out}


def _worth(answers: Answers) -> dict[str, float]:
    return {
        "all": round(accuracy_at(answers, 100), 2),
        "surest_80_percent": round(accuracy_at(answers, 80), 2),
        "calibration_error": round(calibration_error(answers), 2),
        "models": len(answers.right),
    }


def _of_first_causes(reference: Reference, test: pd.DataFrame | None) -> dict[str, Any]:
    """Return `by_cause` and `gains` of the joint answers."""
    collection = reference.rows if test is None else test
    columns = [name for name in reference.columns if name in collection]
    grid = make_grid(collection, allow_missing=True)
    causes = shared_causes([reference.grid, grid])
    asked = make_joint_side(collection, JOINT_TASKS["joint"].label, columns, allow_missing=True, causes=causes)
    if test is None:
        learned, asked = halves(asked)
        part, cell = Reference(reference.rows, reference.provenance), cells_of(reference.rows)
        # The halves keep the index of the rows.
        part.complete = reference.complete & np.isin(cell, cell[learned.frame.index])
        reference = part
    model = reference.joint_model(columns)
    told = [reference.causes.index(cause) for cause in causes]
    first = joint.predict_joint(model, asked.frame)[:, told].argmax(axis=1)
    by_cause, pairs = {}, []
    for place, cause in enumerate(causes):
        rows = np.flatnonzero(first == place)
        if not len(rows):
            continue
        by_cause[cause] = {"answers": len(rows), "right": round(100 * float(np.mean(asked.y[rows] == place)), 1)}
        moves, stated = best_moves(reference, asked.frame.iloc[rows], cause, model)
        places = asked.frame.index[rows]
        found: dict[tuple[Move | None, str], np.ndarray] = {
            (move, step): factor_gain(grid, move, size)[places]
            for move in grid.moves
            if move in moves
            for step, size in steps_of(move.knob).items()
        }
        # Not known where the grid has no such step.
        pairs += [
            (steps[best], gained[i])
            for i, (move, steps) in enumerate(zip(moves, stated, strict=True))
            if steps and (gained := found.get((move, best := best_step(steps)))) is not None and np.isfinite(gained[i])
        ]
    out: dict[str, Any] = {"by_cause": by_cause}
    if pairs:
        out["gains"] = {
            "expected": round(float(np.mean([gain.mean for gain, _ in pairs])), 2),
            "found": round(float(np.mean([found for _, found in pairs])), 2),
            "inside": round(100 * float(np.mean([gain.low <= found <= gain.high for gain, found in pairs])), 1),
            "models": len(pairs),
        }
    return out


def fit_reference(
    collection: str | os.PathLike | pd.DataFrame,
    *,
    test: str | os.PathLike | pd.DataFrame | None = None,
    name: str | None = None,
    published_dir: str | os.PathLike | None = None,
    measure: bool = True,
) -> Reference:
    """Fit a reference on a collection and measure what its answers are worth.

    Args:
        collection: what `load_collection` takes, over any knobs; needs metrics beside the grid of test errors.
        test: another collection to measure accuracy on; None measures on half of the collection's own cells (all axes
            but the knobs of temperature) with a fit on the other half (the reference itself is fitted on all).
        name: of the collection, in the provenance; None is where it came from.
        published_dir: a local folder with the published files.
        measure: False leaves the accuracy out.

    Raises:
        UserError: as `load_collection`; the collection has no metric.
    """
    loaded = load_collection(collection, allow_missing=True, published_dir=published_dir)
    columns = [c for c in joint.COLUMNS if c in loaded]
    if not joint.metrics_of(columns):
        raise UserError(
            f"collection '{loaded.attrs['name']}' has none of the metrics that a diagnosis asks: "
            f"{', '.join(joint.METRICS)}"
        )
    beside = [name for name in (*joint.SHOWN, *brought_labels()) if name in loaded]
    kept = loaded[[*loaded.attrs["axes"], "test_error", *columns, *beside]]
    rows = load_collection(as_numbers(kept.apply(lambda c: c.map(kept_value))), allow_missing=True)
    rows.attrs["name"] = name or loaded.attrs["name"]
    provenance = {
        "collection": rows.attrs["name"],
        "commit": code_version(),
        "date": str(datetime.date.today()),
        "rows": len(rows),
        "metrics": list(joint.metrics_of(columns)),
    }
    reference = Reference(rows, provenance)
    if not reference.complete.any():
        raise UserError(f"no row of collection '{rows.attrs['name']}' has all its metrics and all its neighbours")
    if measure:
        other = None if test is None else load_collection(test, allow_missing=True, published_dir=published_dir)
        reference.provenance |= measured_accuracy(reference, other)
    return reference
