"""What to do about a cause: the action of a diagnosis, its step and its settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mdtree_jax.causes.labels import CAUSE, LEAST_GAIN, NONE
from mdtree_jax.collection.grid import Direction
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.gains import (
    STEPS,
    _reach,
    best_step,
    capped,
)
from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.diagnosis.result import Action, Gain

_IF_RIGHT = "if the first guess is right: "
RETUNE = "a changed batch size wants its learning rate tuned again"


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
