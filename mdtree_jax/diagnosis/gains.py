"""The expected gain of a step, estimated from the most similar models of the reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.causes.labels import causes_of
from mdtree_jax.collection.grid import Grid
from mdtree_jax.collection.lines import first_step
from mdtree_jax.collection.moves import Move
from mdtree_jax.diagnosis.action import Edge, Gain
from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.registry.causes import NONE
from mdtree_jax.registry.knobs import KNOBS

#: Number of models that an expected gain is averaged over, and the fewest for which it is stated.
NEIGHBOURS, FEWEST = 40, 10
_INTERVAL = (5.0, 95.0)
#: Factor by which the interval is wider than the neighbours' gains, on both sides of the mean. With a third of an axis
#: of F's grid held out, this factor covered 90 % of the gains (sweeps/joint_choice.py).
WIDEN = 1.6


def steps_of(knob: str) -> dict[str, float | None]:
    """Return the steps of a knob that are compared: name -> doublings, None for the next value of a collection's grid.

    >>> steps_of("width")
    {'one': None, 'x2': 1.0, 'x4': 2.0}
    """
    return {"one": None} | {f"x{factor:g}": float(np.log2(factor)) for factor in KNOBS[knob].steps}


def expected_gain(
    reference: Reference,
    frame: pd.DataFrame,
    cause: str,
    model: joint.JointModel | None = None,
    move: Move | None = None,
) -> list[dict[str, Gain]]:
    """Return the gains of the steps of a move against a cause, averaged over the reference models similar to each row.

    Among the reference models with the same cause according to the joint model, take the `NEIGHBOURS` nearest ones in
    its feature space (metrics and votes of the trees) that can make the step of about x2 (or, if few can, a step to the
    next value), and average their signed gains in test accuracy. The other steps are evaluated on those of the same
    models that can make them, if they are at least half: otherwise a large step, which only models with little data or
    small models can make, would look better than it is.

    The interval covers the central 90 % of these gains, stretched around the mean by `WIDEN`: it is intended for the
    gain of a single model of another collection, not for the mean. Its measured coverage is in sweeps/joint.md.

    Args:
        reference: the reference.
        frame: rows with finite values of the metrics that `model` uses.
        cause: a cause of the reference.
        model: the joint model for the available metrics; None is the one for all metrics.
        move: a move against the cause; None is the first of `Grid.moves_against`.

    Returns:
        For each row a dictionary step -> Gain, for the steps of `steps_of` that at least `FEWEST` models can make;
        empty for the cause `none` and for a knob that the collection does not vary.
    """
    move = move or next(iter(reference.grid.moves_against(cause)), None)
    if move is None or not len(frame):
        return [{} for _ in range(len(frame))]
    model = model or reference.joint_model()
    same, distance = _alike(reference, frame, cause, model)
    steps = steps_of(move.knob)
    gained = {
        step: at_complete_rows(reference, factor_gain(reference.grid, move, doublings))[same]
        for step, doublings in steps.items()
    }
    out: list[dict[str, Gain]] = [{} for _ in range(len(frame))]
    first, *larger = steps
    likely = (*larger[:1], first)
    able = next((a for step in likely if len(a := np.flatnonzero(np.isfinite(gained[step]))) >= FEWEST), None)
    if able is None:
        return out
    nearest = able[_nearest(distance[:, able])]
    for step, values in gained.items():
        for row, gain in zip(*_summaries(values[nearest]), strict=True):
            out[row][step] = gain
    return out


def best_moves(
    reference: Reference, frame: pd.DataFrame, cause: str, model: joint.JointModel | None = None
) -> tuple[list[Move | None], list[dict[str, Gain]]]:
    """Return the advised move against a cause, and its `expected_gain`, for each row.

    Of several moves that address the cause, it is the one whose best step gained most on average; the first one if no
    gain is known, None for the cause `none`.
    """
    moves = reference.grid.moves_against(cause)
    if not moves:
        return [None] * len(frame), [{} for _ in range(len(frame))]
    found = [expected_gain(reference, frame, cause, model, move) for move in moves]
    best = [max(range(len(moves)), key=lambda i: _most(rows[i])) for rows in zip(*found, strict=True)]
    return [moves[i] for i in best], [found[i][row] for row, i in enumerate(best)]


def _most(steps: Mapping[str, Gain]) -> float:
    return max((gain.mean for gain in steps.values()), default=-np.inf)


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
    """Return the gain capped at the model's test error, in percent, if that is known."""
    if test_error is None or gain.high <= test_error:
        return gain
    mean, low, high = (min(value, test_error) for value in gain[:3])
    return Gain(mean, low, high, gain.models, gain.mean > test_error)


def edge_of_neighbours(
    reference: Reference, frame: pd.DataFrame, model: joint.JointModel | None = None
) -> list[Edge | None]:
    """Return, for rows whose cause is `none`, how many of the similar models have the largest value of a knob.

    This concerns knobs such as width and amount of data, whose increase addresses a cause. The collection cannot say
    what lies beyond its largest values, and a step beyond them counts as no gain. None if no similar model is at such
    an edge.
    """
    model = model or reference.joint_model()
    knobs = [name for name in reference.knobs if KNOBS[name].up and not KNOBS[name].down]
    same, distance = _alike(reference, frame, NONE, model)
    if len(same) < FEWEST or not knobs:
        return [None] * len(frame)
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
    """Return the indices of the complete reference rows with this cause, and squared distances, (rows, those)."""
    same = np.flatnonzero(reference_verdicts(reference, model) == reference.causes.index(cause))
    features = joint.embed(frame, model.metrics, model.members, model.centre, model.scale, model.kernel)
    here = model.rows[same]
    return same, (features**2).sum(axis=1)[:, None] + (here**2).sum(axis=1)[None, :] - 2.0 * features @ here.T


def _nearest(distance: np.ndarray) -> np.ndarray:
    """Return the indices of the `NEIGHBOURS` smallest distances of each row, or of all if there are fewer."""
    number = min(NEIGHBOURS, distance.shape[1])
    return np.argpartition(distance, number - 1, axis=1)[:, :number]


def factor_gain(grid: Grid, move: Move, doublings: float | None) -> np.ndarray:
    """Return the signed gain of a step of 2**doublings, or to the next value for None, (rows,).

    NaN if the grid has no value within half a first step of the target, or the configuration there is missing.
    """
    return grid.step_gain(move, doublings, first_step(move.knob) / 2)


def typical_factor(reference: Reference, move: Move, step: str) -> float | None:
    """Return the median factor of a step on the reference's grid, to which the gains refer; x4 may be 2.7 there.

    None for a switch from off to on.
    """
    lines, doublings = reference.grid.lines[move.knob], steps_of(move.knob)[step]
    factors = lines.factors(move.sign, doublings, first_step(move.knob) / 2)
    return float(np.median(factors)) if len(factors) and KNOBS[move.knob].steps else None


def at_complete_rows(reference: Reference, values: np.ndarray) -> np.ndarray:
    """Return values of the rows of the reference's grid at those that its models are fitted on."""
    return values[reference.complete]


def reference_verdicts(reference: Reference, model: joint.JointModel) -> np.ndarray:
    """Return the joint model's cause for every complete row of the reference, (rows,), from its mean gains.

    Predictions are leave-one-out: otherwise, rows that happened to gain much from a knob would be selected as examples
    of its gain.
    """
    key = ("verdicts", model.metrics)
    if key not in reference.cache:
        reference.cache[key] = causes_of(np.sinh(joint.left_out_means(model)))
    return reference.cache[key]


def best_step(steps: Mapping[str, Gain]) -> str:
    """Return the advised step: the one with the largest mean gain."""
    return max(steps, key=lambda step: steps[step].mean)
