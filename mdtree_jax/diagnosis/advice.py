"""What to do about a cause: the action of a diagnosis, its step and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mdtree_jax.causes.labels import LEAST_GAIN
from mdtree_jax.collection.moves import Move
from mdtree_jax.diagnosis.abstain import listed
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.gains import best_step, capped, typical_factor
from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.diagnosis.result import Action, Gain
from mdtree_jax.registry.causes import NONE
from mdtree_jax.registry.knobs import KNOBS

#: Knob -> what `Training` calls it.
_SETTINGS = {"batch_size": "batch_size", "learning_rate": "learning_rate", "train_epochs": "epochs"}
_IF_RIGHT = "if the first guess is right: "


def choose_action(
    reference: Reference,
    cause: str,
    steps: dict[str, Gain],
    *,
    move: Move | None = None,
    is_tentative: bool = False,
    is_outside: bool = False,
    edge: str = "",
    test_error: float | None = None,
) -> tuple[Action, Gain | None]:
    """Return what to do about a cause and the gain to be expected of the best step, None where nothing says so.

    Args:
        reference, cause, steps: what `expected_gain` found for the cause.
        move: which they are of; None is the first of `Grid.moves_against`.
        is_tentative: the diagnosis abstains.
        is_outside: the reference has no model like this one, so that steps are not given.
        edge: what `edge_of_neighbours` says of a row whose cause is `none`.
        test_error: of the model, percent, where it is known; it limits the gain, not the choice of the step.
    """
    start = _IF_RIGHT if is_tentative else ""
    if cause == NONE:
        beyond = f"; {edge}: what more would give is not known" if edge else ""
        sentence = (
            f"{start}{_leave(reference.knobs)}: as far as collection '{reference.name}' reaches, no step of about ×2 "
            f"should gain a point{beyond}"
        )
        return Action(None, None, None, None, sentence, (), is_tentative), None
    move = move or reference.grid.moves_against(cause)[0]
    rules = KNOBS[move.knob].words.rules.get(move.way, ())
    if not steps:
        about = "has no model like this one" if is_outside else "says nothing about how far"
        why = f"collection '{reference.name}' {about}"
        sentence = f"{start}{_do(move.knob, move.way)}; {why}, so this is a rule, not evidence"
        action = Action(move.knob, move.way, "direction_only", None, sentence, rules, is_tentative)
        return action, None
    best = best_step(steps)
    factor = typical_factor(reference, move, best)
    gain = capped(steps[best], test_error)
    doubt = "" if steps[best].mean >= LEAST_GAIN else "it may not pay: "
    how = _how(move.knob, move.way, factor)
    sentence = f"{start}{_do(move.knob, move.way, how)}; {doubt}{_gained(gain, 'it')}"
    return Action(move.knob, move.way, best, factor, sentence, rules, is_tentative), gain


def withheld(action: Action, knobs: Sequence[str]) -> Action:
    """Return the action as what would help if the first guess is right, and no word on how much.

    `knobs` are those of the reference, which nothing is to be done about where the action has none.
    """
    what = _do(action.knob, action.direction) if action.knob else _leave(knobs)
    how_far = action.how_far and "direction_only"
    return replace(action, how_far=how_far, factor=None, sentence=f"{_IF_RIGHT}{what}", is_tentative=True)


def direction_only(action: Action, gain: Gain | None) -> Action:
    """Return the action without a step, for a model of whose training nothing is known.

    What the best step gained the models of the collection stays as evidence for the direction.
    """
    if action.factor is None or gain is None:
        return action
    start = _IF_RIGHT if action.is_tentative else ""
    step = f"a step{_how(action.knob, action.direction, action.factor).replace(',', '')}"
    sentence = (
        f"{start}{_do(action.knob, action.direction)}; {_gained(gain, step)}; how far to go from your settings is not "
        "said, because they are not known (training=)"
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

    Where the batch size is the one to move, that the learning rate can be moved instead is a rule, and the number of
    epochs stays. A batch never gets larger than the training set, `num_images`, where that is known.
    """
    if action.factor is None or action.knob not in _SETTINGS:
        return action
    up = action.direction == "up"
    ratio = action.factor if up else 1 / action.factor
    if action.knob != "batch_size":
        old = getattr(training, _SETTINGS[action.knob])
        new = f": {KNOBS[action.knob].words.noun} {old:g} to {old * ratio:.3g}" if old is not None else ""
        return replace(action, sentence=f"{action.sentence}{new}")
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


def _do(knob: str, way: str, how: str = "") -> str:
    return KNOBS[knob].words.do.get(way, f"turn the {KNOBS[knob].words.noun} {way}{{how}}").format(how=how)


def _leave(knobs: Sequence[str]) -> str:
    return f"leave {listed([KNOBS[name].listed for name in knobs])} as they are"


def _how(knob: str, way: str, factor: float | None) -> str:
    if factor is None:
        return ""
    words = KNOBS[knob].words
    return f", to 1/{factor:.2g} {words.part}" if way == "down" else f", {factor:.2g} times {words.times}"
