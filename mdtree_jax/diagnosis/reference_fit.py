"""Fit a reference on a collection, and measure the accuracy of its answers against causes computed from a grid."""

from __future__ import annotations

import datetime
import os
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.causes.evaluate import Answers, accuracy_at, answer_all, calibration_error, halves, make_joint_side
from mdtree_jax.causes.labels import shared_causes
from mdtree_jax.causes.method_protocol import JOINT_TASKS, joint_method, trees_and_gains
from mdtree_jax.checks import UserError
from mdtree_jax.collection.grid import cells_of, make_grid
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.moves import Move
from mdtree_jax.collection.tasks import TASKS, brought_labels
from mdtree_jax.diagnosis.gains import best_moves, best_step, factor_gain, steps_of
from mdtree_jax.diagnosis.reference import Reference, as_numbers, kept_value
from mdtree_jax.provenance import code_version


def measured_accuracy(reference: Reference, test: pd.DataFrame | None) -> dict[str, Any]:
    """Return `test`, the evaluation data, and `accuracy`: task -> accuracy of its answers.

    Args:
        reference: the reference, fitted on all of its rows.
        test: another loaded collection; None evaluates on half of the reference's own cells, with a second fit on the
            other half.

    `all` and `surest_80_percent` are percent correct over all models and over the 80 % with the highest probability;
    `calibration_error` is in points, and `models` is the number of models. `joint` also has `one_checkpoint`, the same
    without pair metrics; `by_cause`, cause -> number of `answers` that name it and percent of them that are `right`;
    and `gains` of the advised step: mean `expected` and mean `found` gain (points), and percent of the gains found that
    lie `inside` the stated interval. Tasks that cannot be evaluated are left out.
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
    """Fit a reference on a collection and measure the accuracy of its answers.

    Args:
        collection: anything that `load_collection` accepts, over any knobs; needs metrics and test errors.
        test: another collection to measure accuracy on; None measures on half of the collection's own cells
            (combinations of all axes except the temperature knobs) with a fit on the other half. The returned reference
            is always fitted on all cells.
        name: of the collection, in the provenance; None is its source.
        published_dir: a local folder with the published files.
        measure: False skips measuring the accuracy.

    Raises:
        UserError: as `load_collection`; the collection has no metric.
    """
    loaded = load_collection(collection, allow_missing=True, published_dir=published_dir)
    columns = [c for c in joint.COLUMNS if c in loaded]
    if not joint.metrics_of(columns):
        raise UserError(
            f"collection '{loaded.attrs['name']}' has none of the metrics that a diagnosis uses: "
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
        raise UserError(
            f"no row of collection '{rows.attrs['name']}' has complete metrics and all of its grid neighbours"
        )
    if measure:
        other = None if test is None else load_collection(test, allow_missing=True, published_dir=published_dir)
        reference.provenance |= measured_accuracy(reference, other)
    return reference
