"""What to do about a cause, and what it would gain, read off the models of the reference that resemble the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.diagnosis import joint
from mdtree_jax.diagnosis.causes import CAUSE, LEAST_GAIN, NONE, causes_of, step_targets
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.grid import AXES, Direction, Grid
from mdtree_jax.diagnosis.reference import Reference

#: Steps that are compared: name -> doublings, None for the next value of the collection's grid.
STEPS = {"one": None, "x2": 1.0, "x4": 2.0}
#: Models that an expected gain is taken over, and the fewest that it is stated for.
NEIGHBOURS, FEWEST = 40, 10
_INTERVAL = (5.0, 95.0)
#: How much wider than what the neighbours gained an interval is, on both sides of their mean: trained outside a third
#: of an axis of F's grid, this much held 90 % of the gains inside it (sweeps/joint_choice.py).
WIDEN = 1.6

_IF_RIGHT = "if the first guess is right: "
RETUNE = "a changed batch size wants its learning rate tuned again"


class Gain(NamedTuple):
    """Signed gain in points of test accuracy: mean over `models` reference models, and an interval that is meant to
    hold the gain of nine in ten models like them.

    All three are cut at the model's test error where that is known; `cut` says that the mean was.
    """

    mean: float
    low: float
    high: float
    models: int
    cut: bool = False


@dataclass(frozen=True)
class Action:
    """What to change.

    `knob` is an axis of the collection (None: nothing), `direction` `up` or `down`, `how_far` a name of `STEPS` or
    `direction_only` where the collection says nothing about the step or the model's settings are not known, `factor`
    the typical factor of that step.
    `rules` are what is not read off the collection: general experience, to be told as such. `is_tentative` says that
    the diagnosis abstains, and this is what would help if its first guess is right.
    """

    knob: str | None
    direction: str | None
    how_far: str | None
    factor: float | None
    sentence: str
    rules: tuple[str, ...]
    is_tentative: bool


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


def edge_of_neighbours(reference: Reference, frame: pd.DataFrame, model: joint.JointModel | None = None) -> list[str]:
    """Return, for rows whose cause is `none`, how many of the models like them have no wider network or no more data.

    What lies beyond the largest values of the collection it cannot know, and a step that is not there gains nothing.
    """
    model = model or reference.joint_model()
    same, distance = _alike(reference, frame, NONE, model)
    if len(same) < FEWEST:
        return [""] * len(frame)
    near = reference.models[["width", "data_fraction"]].iloc[same]
    ends = (near == reference.rows[near.columns].max()).to_numpy()[_nearest(distance)]
    words = ("its widest network", "all of its data")
    out = []
    for number, counts in zip(ends.sum(axis=1).max(axis=1), ends.sum(axis=1), strict=True):
        said = [f"{count} had {what}" for count, what in zip(counts, words, strict=True) if count]
        out.append(f"of the {ends.shape[1]} models like it {' and '.join(said)}" if number else "")
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


def choose_action(
    reference: Reference,
    cause: str,
    steps: dict[str, Gain],
    *,
    is_tentative: bool = False,
    is_outside: bool = False,
    edge: str = "",
    test_error: float | None = None,
) -> tuple[Action, Gain | None]:
    """Return what to do about a cause and the gain to be expected of the best step, None where nothing says so.

    Args:
        reference, cause, steps: what `expected_gain` found for the cause.
        is_tentative: the diagnosis abstains.
        is_outside: the reference has no model like this one, so that steps are not given.
        edge: what `edge_of_neighbours` says of a row whose cause is `none`.
        test_error: of the model, percent, where it is known; it limits the gain, not the choice of the step.
    """
    start = _IF_RIGHT if is_tentative else ""
    if cause == NONE:
        beyond = f"; {edge}: what more would give is not known" if edge else ""
        sentence = (
            f"{start}leave batch size, width and amount of data as they are: as far as collection '{reference.name}' "
            f"reaches, no step of about ×2 should gain a point{beyond}"
        )
        return Action(None, None, None, None, sentence, (), is_tentative), None
    direction = CAUSE[cause].direction
    way = "up" if direction.sign > 0 else "down"
    rules = _rules(cause)
    if not steps:
        about = "has no model like this one" if is_outside else "says nothing about how far"
        why = f"collection '{reference.name}' {about}"
        sentence = f"{start}{_DO[cause].format(how='')}; {why}, so this is a rule, not evidence"
        action = Action(direction.axis, way, "direction_only", None, sentence, rules, is_tentative)
        return action, None
    best = best_step(steps)
    factor = _factor(reference, direction, best)
    gain = capped(steps[best], test_error)
    doubt = "" if steps[best].mean >= LEAST_GAIN else "it may not pay: "
    sentence = f"{start}{_DO[cause].format(how=_how(factor, direction))}; {doubt}{_gained(gain, 'it')}"
    return Action(direction.axis, way, best, factor, sentence, rules, is_tentative), gain


def best_step(steps: Mapping[str, Gain]) -> str:
    """Return the step that is advised: the one that gained most on average."""
    return max(steps, key=lambda step: steps[step].mean)


def withheld(action: Action, cause: str) -> Action:
    """Return the action as what would help if the first guess is right, and no word on how much."""
    what = "leave batch size, width and amount of data as they are" if cause == NONE else _DO[cause].format(how="")
    how_far = action.how_far and "direction_only"
    return replace(action, how_far=how_far, factor=None, sentence=f"{_IF_RIGHT}{what}", is_tentative=True)


def direction_only(action: Action, cause: str, gain: Gain | None) -> Action:
    """Return the action without a step, for a model of whose training nothing is known.

    What the best step gained the models of the collection stays as evidence for the direction.
    """
    if action.factor is None or gain is None:
        return action
    start = _IF_RIGHT if action.is_tentative else ""
    step = f"a step{_how(action.factor, CAUSE[cause].direction).replace(',', '')}"
    sentence = (
        f"{start}{_DO[cause].format(how='')}; {_gained(gain, step)}; how far to go from your settings is not said, "
        "because they are not known (training=)"
    )
    return replace(action, how_far="direction_only", factor=None, sentence=sentence)


def _gained(gain: Gain, what: str) -> str:
    if gain.cut:
        return (
            f"{gain.models} models like this one had more to gain by {what} than its test error leaves; expect "
            f"{_signed(gain.low)} to {_signed(gain.high)} points"
        )
    return (
        f"{gain.models} models like this one gained {_signed(gain.mean)} points of test accuracy by {what} on average; "
        f"expect {_signed(gain.low)} to {_signed(gain.high)}"
    )


def _signed(value: float) -> str:
    shown = f"{value:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown


def in_settings(action: Action, training: Training, num_images: float | None = None) -> Action:
    """Return the action with the new settings named, where the old ones are known.

    Of the three settings of temperature the batch size is the one to move, as in the collection; that the learning
    rate can be moved instead is a rule. The number of epochs stays. A batch never gets larger than the training set,
    `num_images`, where that is known.
    """
    if action.knob != "batch_size" or action.factor is None:
        return action
    up = action.direction == "up"
    ratio = action.factor if up else 1 / action.factor
    if training.batch_size is not None:
        old = round(training.batch_size)
        wanted = max(old + 1, round(old * ratio)) if up else max(1, round(old * ratio))
        new = wanted if not up or num_images is None else max(old, min(wanted, round(num_images)))
        settings = f"batch size {training.batch_size} to {new}"
        if new == old:
            settings = f"batch size {new} cannot get {'larger' if up else 'smaller'}, so move the learning rate instead"
        elif new < wanted:
            settings += ", all training images at once, which is as far as it goes"
        elif training.epochs is not None:
            settings += f", {training.epochs:g} epochs as before"
        action = replace(action, sentence=f"{action.sentence}: {settings}")
    if training.learning_rate is not None:
        rate = training.learning_rate / ratio
        instead = f"instead of the batch size, the learning rate can go from {training.learning_rate:g} to {rate:.3g}"
        action = replace(action, rules=(instead, *action.rules))
    return action


_DO = {
    "temperature_too_low": "train hotter: make the batch smaller{how}",
    "temperature_too_high": "train colder: make the batch larger{how}",
    "model_too_small": "make the network wider{how}",
    "too_little_data": "get more training data{how}",
}


def _rules(cause: str) -> tuple[str, ...]:
    if cause == "temperature_too_low":
        return (
            "a larger learning rate raises the temperature as a smaller batch does; more epochs alone will not",
            RETUNE,
        )
    if cause == "temperature_too_high":
        return (
            "a smaller learning rate, or one that decays in the end, lowers the temperature as a larger batch "
            "does; it may need more epochs",
            RETUNE,
        )
    if cause == "model_too_small":
        return ("more depth, or another architecture, can do what more width does",)
    return ("augmentation and pretraining can stand in for a part of the missing data",)


def _how(factor: float, direction: Direction) -> str:
    if direction.sign < 0:
        return f", to 1/{factor:.2g} of its size"
    return f", {factor:.2g} times as much" if direction.axis == "data_fraction" else f", {factor:.2g} times as large"


def _factor(reference: Reference, direction: Direction, step: str) -> float:
    """Return the median factor of a step on the reference's grid, where x4 may be 2.7: what was gained is of that."""
    values = reference.grid.values[direction.axis]
    target, reached = _reach(values, direction, STEPS[step])
    ratios = (values[target] / values)[reached]
    return float(np.median(ratios if direction.sign > 0 else 1 / ratios))
