"""What a step would gain, read off the models of the reference that resemble the user's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.causes.labels import CAUSE, NONE, causes_of, step_targets
from mdtree_jax.collection.grid import AXES, Direction, Grid
from mdtree_jax.diagnosis.action import Edge, Gain
from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.registry.knobs import KNOBS

#: Steps that are compared: name -> doublings, None for the next value of the collection's grid.
STEPS = {"one": None, "x2": 1.0, "x4": 2.0}
#: Models that an expected gain is taken over, and the fewest that it is stated for.
NEIGHBOURS, FEWEST = 40, 10
_INTERVAL = (5.0, 95.0)
#: How much wider than what the neighbours gained an interval is, on both sides of their mean: trained outside a third
#: of an axis of F's grid, this much held 90 % of the gains inside it (sweeps/joint_choice.py).
WIDEN = 1.6


def expected_gain(
    reference: Reference, frame: pd.DataFrame, cause: str, model: joint.JointModel | None = None
) -> list[dict[str, Gain]]:
    """Return what each step against a cause gained for the reference models that resemble each row.

    Of the reference models with the same verdict of the joint model, the `NEIGHBOURS` nearest ones in its feature space
    (metrics and verdicts of the trees) that can make the step of about x2 (where few can, one to the next value) are
    looked up, and their signed gains in test accuracy are averaged. The other steps are judged on those of the same
    models that can make them, if that is half of them at least: otherwise a large step, which only models with little
    data or small models can make, would look better than it is.

    The interval is what the central 90 % of them gained, `WIDEN` times as far from the mean on either side: it is meant
    for the gain of one model of another collection, not for the mean. How often it holds stands in sweeps/joint.md.

    Args:
        reference: whose rows are the evidence.
        frame: rows with finite metrics, as `model` asks them.
        cause: a name of `causes.CAUSES`.
        model: the joint model of the metrics that the rows have; None is the one of all.

    Returns:
        For each row a dictionary step -> Gain: steps of `STEPS` that `FEWEST` models at least can make; none for the
        cause `none` and for a knob that the collection has not varied.
    """
    direction = CAUSE[cause].direction
    if direction is None or not len(frame):
        return [{} for _ in range(len(frame))]
    model = model or reference.joint_model()
    same, distance = _alike(reference, frame, cause, model)
    gained = {
        step: at_complete_rows(reference, factor_gain(reference.grid, direction, doublings))[same]
        for step, doublings in STEPS.items()
    }
    out: list[dict[str, Gain]] = [{} for _ in range(len(frame))]
    able = next((a for step in ("x2", "one") if len(a := np.flatnonzero(np.isfinite(gained[step]))) >= FEWEST), None)
    if able is None:
        return out
    nearest = able[_nearest(distance[:, able])]
    for step, values in gained.items():
        for row, gain in zip(*_summaries(values[nearest]), strict=True):
            out[row][step] = gain
    return out


def _summaries(found: np.ndarray) -> tuple[np.ndarray, list[Gain]]:
    """Return the rows with enough finite gains of (rows, models), and the summary of each."""
    numbers = np.isfinite(found).sum(axis=1)
    rows = np.flatnonzero(numbers >= max(FEWEST, found.shape[1] / 2))
    mean = np.nanmean(found[rows], axis=1)
    whole = numbers[rows] == found.shape[1]
    ends = np.empty((2, len(rows)))
    ends[:, whole] = np.percentile(found[rows[whole]], _INTERVAL, axis=1)  # many times as fast as nanpercentile
    ends[:, ~whole] = np.nanpercentile(found[rows[~whole]], _INTERVAL, axis=1)
    low, high = mean + WIDEN * (ends - mean)
    values = zip(mean.tolist(), low.tolist(), high.tolist(), numbers[rows].tolist(), strict=True)
    return rows, [Gain(*summary) for summary in values]


def capped(gain: Gain, test_error: float | None) -> Gain:
    """Return the gain of a model whose test error, percent, is known: it cannot gain more than that."""
    if test_error is None or gain.high <= test_error:
        return gain
    mean, low, high = (min(value, test_error) for value in gain[:3])
    return Gain(mean, low, high, gain.models, gain.mean > test_error)


def edge_of_neighbours(
    reference: Reference, frame: pd.DataFrame, model: joint.JointModel | None = None
) -> list[Edge | None]:
    """Return, for rows whose cause is `none`, how many of the models like them have no wider network or no more data.

    These are the knobs of which more is never the cause. What lies beyond the largest values of the collection it
    cannot know, and a step that is not there gains nothing. None where no model like them stands at such an end.
    """
    model = model or reference.joint_model()
    same, distance = _alike(reference, frame, NONE, model)
    if len(same) < FEWEST:
        return [None] * len(frame)
    knobs = [axis for axis in AXES if KNOBS[axis].up and not KNOBS[axis].down]
    near = reference.models[knobs].iloc[same]
    ends = (near == reference.rows[knobs].max()).to_numpy()[_nearest(distance)]
    out: list[Edge | None] = []
    for counts in ends.sum(axis=1):
        largest = {knob: int(count) for knob, count in zip(knobs, counts, strict=True) if count}
        out.append(Edge(ends.shape[1], largest) if largest else None)
    return out


def _alike(
    reference: Reference, frame: pd.DataFrame, cause: str, model: joint.JointModel
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the complete reference rows with this verdict, and squared distances (rows, those)."""
    same = np.flatnonzero(reference_verdicts(reference, model) == list(CAUSE).index(cause))
    features = joint.embed(frame, model.metrics, model.members, model.centre, model.scale, model.kernel)
    here = model.rows[same]
    return same, (features**2).sum(axis=1)[:, None] + (here**2).sum(axis=1)[None, :] - 2.0 * features @ here.T


def _nearest(distance: np.ndarray) -> np.ndarray:
    """Return the places of the `NEIGHBOURS` smallest distances of each row, or of all where there are fewer."""
    number = min(NEIGHBOURS, distance.shape[1])
    return np.argpartition(distance, number - 1, axis=1)[:, :number]


def factor_gain(grid: Grid, direction: Direction, doublings: float | None) -> np.ndarray:
    """Return the signed gain of a step of 2**doublings, or to the next value for None, in the shape of the grid.

    NaN where the grid has no value within half a doubling of that, or the configuration there is missing.
    """
    axis = AXES.index(direction.axis)
    target, reached = _reach(grid.values[direction.axis], direction, doublings)
    gained = grid.test_error - np.take(grid.test_error, target, axis=axis)
    return np.where(np.expand_dims(reached, [i for i in range(3) if i != axis]), gained, np.nan)


def _reach(values: np.ndarray, direction: Direction, doublings: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return for each value of an axis the place that a step leads to, and whether there is such a step, (values,)."""
    places = np.arange(len(values))
    if doublings is None:
        target = np.clip(places + direction.sign, 0, len(values) - 1)
        return target, target != places
    target = step_targets(values, direction, doublings)
    moved = direction.sign * (np.log2(values[target]) - np.log2(values))
    return target, (target != places) & (np.abs(moved - doublings) <= 0.5 + 1e-9)


def at_complete_rows(reference: Reference, cube: np.ndarray) -> np.ndarray:
    """Return a cube of the reference's grid at the rows that its models are fitted on."""
    return reference.grid.at_rows(cube)[reference.complete]


def reference_verdicts(reference: Reference, model: joint.JointModel) -> np.ndarray:
    """Return the joint model's cause for every complete row of the reference, (rows,), from its mean gains.

    Each row is judged as if the model had not seen it: else those that happened to gain much by a knob would be
    chosen as examples of what that knob gains.
    """
    key = ("verdicts", model.metrics)
    if key not in reference.cache:
        reference.cache[key] = causes_of(np.sinh(joint.left_out_means(model)))
    return reference.cache[key]


def best_step(steps: Mapping[str, Gain]) -> str:
    """Return the step that is advised: the one that gained most on average."""
    return max(steps, key=lambda step: steps[step].mean)
