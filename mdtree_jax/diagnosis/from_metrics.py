"""`diagnose_metrics`: from a table of metrics to diagnoses. NumPy and pandas only.

The joint model gives the probabilities of the causes (`mdtree_jax.causes.joint`); the evidence is the path through the
tree of the published question behind the most likely cause; the advice is derived from similar models of the reference
(`mdtree_jax.diagnosis.advice`). `mdtree_jax.diagnosis.probabilities` integrates over standard errors, and
`mdtree_jax.diagnosis.abstain` decides when to say "I can't tell". All of this is what the landscape says; where the
held-out error is known, too, `mdtree_jax.diagnosis.table_outlook` says what can be gained, and `combine` joins both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from mdtree_jax.causes import joint
from mdtree_jax.checks import check_choice
from mdtree_jax.collection.columns import feature_values, numeric_column, sources
from mdtree_jax.collection.moves import Move
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.diagnosis.abstain import outside_reference, too_few_metrics, weak_or_contradicted
from mdtree_jax.diagnosis.action import Action, Edge, Gain
from mdtree_jax.diagnosis.advice import choose_action, in_settings, withheld
from mdtree_jax.diagnosis.combine import with_outlook
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.gains import best_moves, capped, edge_of_neighbours
from mdtree_jax.diagnosis.metrics_table import EVIDENCE, note_on_units, read_metrics, standard_errors, training_of
from mdtree_jax.diagnosis.probabilities import all_chances
from mdtree_jax.diagnosis.reference import Reference, as_reference
from mdtree_jax.diagnosis.result import Diagnosis
from mdtree_jax.diagnosis.table_outlook import table_outlooks
from mdtree_jax.registry.causes import NONE
from mdtree_jax.registry.questions import question_behind
from mdtree_jax.trees.decision_path import EvidenceStep, feature_error, tree_path

#: Rows per block; memory grows with rows times reference models.
_ROWS = 4096


def diagnose_metrics(
    table: pd.DataFrame | Mapping | list[Mapping],
    reference: Reference | str | os.PathLike | None = None,
    units: str | None = None,
    training: Training | Mapping | None = None,
    evidence: str = "all",
) -> list[Diagnosis]:
    """Diagnose every row of a table of metrics.

    Args:
        table: a DataFrame, a row as a mapping, or a list of rows, with columns of `joint.COLUMNS` (published names are
            understood) and optional standard errors `<name>_se`. Not all metrics are needed: a row with a missing or
            non-finite metric is diagnosed without it, and a note says so. Traces and eigenvalues may be given instead
            of their logarithms. With `train_error` and `validation_error` (or `test_error`, which then stands for it)
            a row gets an error budget, expected gains and an answer per question, to which every column of a sweep's
            tables contributes, and so do `num_classes`, or `chance_error` (%) and `chance_loss`, of guessing.
        reference: the reference to compare with: a `Reference`, its file, or a name of `reference_names()`; None is
            `published_F`.
        units: of the error columns, `fraction` or `percent`; None infers them from all error columns together.
        training: known training settings of the models, `batch_size`, `learning_rate` and `epochs`: the action then
            gives the new settings. Settings that are not given are read from columns of these names, if present.
        evidence: `all`, or `landscape` to answer from the loss landscape alone: held-out errors then only limit the
            gains, and settings and history are not used.

    Returns:
        One `Diagnosis` per row, in order.

    Raises:
        UserError: as `metrics_table.read_metrics`: no known metric, ambiguous units, values out of range.
    """
    check_choice("evidence", evidence, EVIDENCE)
    reference = as_reference(reference)
    frame = read_metrics(table, units)
    unit_note = () if units else note_on_units(frame)
    trainings = training_of(frame, Training.of(training))
    test_errors, num_images = _known(frame, "test_error"), _known(frame, "num_samples")
    columns = [c for c in reference.columns if c in frame]
    there = np.isfinite(frame[columns].to_numpy(dtype=float)) if columns else np.zeros((len(frame), 0), dtype=bool)
    metrics = _metrics(frame)
    out: dict[int, Diagnosis] = {}
    # Small products: the threads of a matrix library would only wait for each other.
    with threadpool_limits(1):
        for pattern, rows in _alike(there):
            have = [c for c, known in zip(columns, pattern, strict=True) if known]
            part = frame.iloc[rows].reset_index(drop=True)
            found = _diagnose(reference, part, have) if joint.metrics_of(have) else [_nothing(reference)] * len(rows)
            for row, diagnosis in zip(rows, found, strict=True):
                action = in_settings(diagnosis.action, trainings[row], num_images[row])
                found_here = {"action": action, "metrics": metrics[row], "test_error": test_errors[row]}
                out[row] = replace(diagnosis, **found_here, remarks=(*diagnosis.remarks, *unit_note))
    if evidence == "landscape":
        return [out[row] for row in range(len(frame))]
    found = []
    for row, (outlook, notes) in enumerate(table_outlooks(frame, trainings)):
        combined = with_outlook(out[row], outlook, training=trainings[row], num_images=num_images[row])
        found.append(replace(combined, remarks=(*combined.remarks, *notes)))
    return found


def withhold(diagnosis: Diagnosis, reason: Fact) -> Diagnosis:
    """Return the diagnosis as "I can't tell", without a gain, for a reason that does not show in its metrics."""
    return replace(diagnosis, abstention=reason, action=withheld(diagnosis.action), expected_gain=None, gains={})


def _alike(there: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (available columns, rows) for rows with the same available columns, at most `_ROWS` at a time."""
    for pattern in np.unique(there, axis=0):
        rows = np.flatnonzero((there == pattern).all(axis=1))
        for start in range(0, len(rows), _ROWS):
            yield pattern, rows[start : start + _ROWS]


def _known(frame: pd.DataFrame, column: str) -> list[float | None]:
    """Return a column's values, None where it is missing or not finite."""
    if column not in frame:
        return [None] * len(frame)
    return [value if np.isfinite(value) else None for value in frame[column].astype(float).tolist()]


def _metrics(frame: pd.DataFrame) -> list[dict[str, float]]:
    """Return for every row its finite metrics that a diagnosis uses, and their standard errors."""
    names = [name for column in (*joint.COLUMNS, *joint.SHOWN) for name in (column, f"{column}_se") if name in frame]
    values = frame[names].to_numpy(dtype=float)
    known = np.isfinite(values)
    return [
        {name: value for name, value, there in zip(names, row, here, strict=True) if there}
        for row, here in zip(values.tolist(), known.tolist(), strict=True)
    ]


def _diagnose(reference: Reference, frame: pd.DataFrame, have: list[str]) -> list[Diagnosis]:
    """Return the diagnoses of rows that all have the same columns."""
    model = reference.joint_model(have)
    chances, questions, trees = all_chances(reference, frame, have)
    outside = outside_reference(reference, frame, model)
    causes, first = reference.causes, chances.argmax(axis=1)
    moves, steps = _steps(reference, frame, first, model)
    errors = _known(frame, "test_error")
    edges: dict[int, Edge | None] = dict.fromkeys(range(len(frame)))
    if len(rows := np.flatnonzero(first == causes.index(NONE))):
        edges |= dict(zip(rows.tolist(), edge_of_neighbours(reference, frame.iloc[rows], model), strict=True))
    few = too_few_metrics(reference, have, questions)
    paths = _Paths(reference, frame, have)
    positions = _positions(reference, frame, model.metrics)
    remarks = _remarks(reference, frame, have)
    out = []
    for row in range(len(frame)):
        order = np.argsort(-chances[row], kind="stable")
        ranking = {causes[i]: float(chances[row, i]) for i in order}
        cause = causes[order[0]]
        asked, by_trees = _of_row(questions, row), _of_row(trees, row)
        # Of a model that the reference has none like, what the nearest ones gained says nothing.
        gains, edge = ({}, None) if outside[row] else (steps[row], edges[row])
        reason = outside[row] or few or weak_or_contradicted(cause, ranking[cause], by_trees)
        path, leads_to = paths.of(row, cause)
        action, gain = choose_action(
            reference,
            cause,
            gains,
            move=moves[row],
            is_tentative=reason is not None,
            is_outside=outside[row] is not None,
            edge=edge,
            test_error=errors[row],
        )
        out.append(
            Diagnosis(
                cause,
                ranking[cause],
                ranking,
                reason,
                path,
                action,
                gain,
                leads_to,
                {step: capped(g, errors[row]) for step, g in gains.items()},
                asked,
                by_trees,
                {name: float(values[row]) for name, values in positions.items() if np.isfinite(values[row])},
                remarks,
                reference.name,
                reference.track_record,
                reference.knobs,
            )
        )
    return out


def _of_row(chances: dict[str, dict[str, np.ndarray]], row: int) -> dict[str, dict[str, float]]:
    return {task: {name: float(values[row]) for name, values in classes.items()} for task, classes in chances.items()}


def _steps(
    reference: Reference, frame: pd.DataFrame, first: np.ndarray, model: joint.JointModel
) -> tuple[list[Move | None], list[dict[str, Gain]]]:
    """Return for every row the move against its first cause, its index in `first`, and its steps' expected gains."""
    moves: list[Move | None] = [None] * len(frame)
    steps: list[dict[str, Gain]] = [{} for _ in range(len(frame))]
    for place in np.unique(first):
        rows = np.flatnonzero(first == place)
        found = best_moves(reference, frame.iloc[rows], reference.causes[place], model)
        for row, move, gains in zip(rows, *found, strict=True):
            moves[row], steps[row] = move, gains
    return moves, steps


class _Paths:
    """Looks up the path of a row through the tree of a question."""

    def __init__(self, reference: Reference, frame: pd.DataFrame, have: list[str]):
        self.trees = {task: reference.tree(task, have) for task in TASKS}
        self.values = {
            task: feature_values(frame, tree.structure_.features) for task, tree in self.trees.items() if tree
        }
        self.metrics = {c: numeric_column(frame, c) for c in have}
        self.errors = {c: standard_errors(frame, c) for c in have}

    def of(self, row: int, cause: str) -> tuple[list[EvidenceStep], str]:
        """Return the path of a row through the tree of the question behind a cause, and the answer that it reaches.

        `none` has the path of the first question; a cause without a question has none.
        """
        behind = next(iter(TASKS.values())) if cause == NONE else question_behind(cause)
        task = behind.name if behind else ""
        tree = self.trees.get(task)
        if tree is None:
            return [], ""
        structure = tree.structure_
        values = dict(zip(structure.features, self.values[task][row], strict=True))
        known = {c: float(e[row]) if np.isfinite(e[row]) else None for c, e in self.errors.items()}
        metrics = {c: column[row] for c, column in self.metrics.items()}
        errors = {name: feature_error(name, metrics, known) for name in structure.features}
        return tree_path(task, structure, tree.thresholds_, tree.threshold_intervals_, values, errors)


def _positions(reference: Reference, frame: pd.DataFrame, metrics) -> dict[str, np.ndarray]:
    """Return metric -> share of the reference's models at or below each row's value; NaN where that is not known."""
    here, known = feature_values(frame, metrics), np.sort(feature_values(reference.models, metrics), axis=0)
    out = {m: np.searchsorted(known[:, i], here[:, i], side="right") / len(known) for i, m in enumerate(metrics)}
    for name in (name for name in reference.shown if name in frame):
        there, values = (table[name].to_numpy(dtype=float) for table in (reference.models, frame))
        there = np.sort(there[np.isfinite(there)])
        if len(there):
            out[name] = np.where(np.isfinite(values), np.searchsorted(there, values, side="right") / len(there), np.nan)
    return out


def _remarks(reference: Reference, frame: pd.DataFrame, have: list[str]) -> tuple[Fact, ...]:
    """Return notes on missing and unused metrics."""
    remarks = []
    absent = [c for c in reference.columns if c not in have]
    if absent:
        remarks.append(fact("metrics_missing", metrics=absent))
    unused = [c for c in joint.COLUMNS if c in frame and c not in reference.columns]
    if unused:
        remarks.append(fact("metrics_unused", metrics=unused, reference=reference.name))
    for task in TASKS:
        tree, whole = reference.tree(task, have), reference.tree(task)
        if tree is None:
            remarks.append(fact("question_not_asked", question=task))
        elif whole and (len(tree.members_) < len(whole.members_) or tree.structure_ != whole.structure_):
            remarks.append(fact("question_asked_of", question=task, metrics=list(tree.structure_.features)))
    return tuple(remarks)


def _nothing(reference: Reference) -> Diagnosis:
    """Return the diagnosis of a row without any metric."""
    enough = [sources(name)[0] for name in joint.METRICS if len(sources(name)) == 1]
    wanted = [name for name in enough if name in reference.columns]
    return not_measured(reference, fact("nothing_given", wanted=wanted))


def not_measured(reference: Reference, reason: Fact) -> Diagnosis:
    """Return the diagnosis of a model without any metric: the shares of the causes, and no guess."""
    shares = reference.summary()["share_of_causes"]
    ranking = dict(sorted(shares.items(), key=lambda item: -item[1]))
    total = sum(ranking.values())
    ranking = {cause: share / total for cause, share in ranking.items()}
    cause = next(iter(ranking))
    action = Action("measure", reference=reference.name, is_tentative=True)
    return Diagnosis(
        cause,
        ranking[cause],
        ranking,
        reason,
        [],
        action,
        None,
        remarks=(fact("shares_of_reference"),),
        reference=reference.name,
        accuracy=reference.track_record,
        knobs=reference.knobs,
    )
