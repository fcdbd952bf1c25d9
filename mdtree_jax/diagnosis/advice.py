"""Decides what to do about a cause: the knob, its step, and the new settings. Words: `diagnosis.words.actions`."""

from __future__ import annotations

from dataclasses import replace

from mdtree_jax.causes.labels import LEAST_GAIN
from mdtree_jax.collection.moves import Move
from mdtree_jax.diagnosis.action import Action, Edge, Gain, Setting, Step
from mdtree_jax.diagnosis.cost import KNOB_OF_TRAINING, Training
from mdtree_jax.diagnosis.gains import best_step, capped, typical_factor
from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.registry.causes import NONE
from mdtree_jax.registry.knobs import KNOBS, Knob
from mdtree_jax.registry.remedies import REMEDIES


def choose_action(
    reference: Reference,
    cause: str,
    steps: dict[str, Gain],
    *,
    move: Move | None = None,
    is_tentative: bool = False,
    is_outside: bool = False,
    edge: Edge | None = None,
    test_error: float | None = None,
) -> tuple[Action, Gain | None]:
    """Return the advised action and the expected gain of the best step, None if the gain is unknown.

    Args:
        reference, cause, steps: the steps that `expected_gain` found for the cause.
        move: the move that the steps belong to; None is the first of `Grid.moves_against`.
        is_tentative: the diagnosis abstains.
        is_outside: the reference has no similar model, so that no step is given.
        edge: the result of `edge_of_neighbours` for a row whose cause is `none`.
        test_error: of the model, in percent, if known; it limits the gain, not the choice of the step.
    """
    about = {"reference": reference.name, "is_tentative": is_tentative}
    if cause == NONE:
        return Action("leave", knobs=reference.knobs, edge=edge, **about), None
    move = move or reference.grid.moves_against(cause)[0]
    turn = {"knob": move.knob, "direction": move.way}
    if not steps:
        return Action("direction", grounds="unlike_any" if is_outside else "no_step", **turn, **about), None
    name = best_step(steps)
    gain = capped(steps[name], test_error)
    best = Step(name, typical_factor(reference, move, name), gain, steps[name].mean >= LEAST_GAIN)
    return Action("step", best=best, **turn, **about), gain


def withheld(action: Action) -> Action:
    """Return the action as tentative, without an expected gain."""
    kind, grounds = ("direction", "withheld") if action.knob else (action.kind, action.grounds)
    silent = {"best": None, "edge": None, "setting": None, "kept": {}, "alternative": None}
    return replace(action, kind=kind, grounds=grounds, is_tentative=True, **silent)


def direction_only(action: Action) -> Action:
    """Return the action without a step, for a model whose training settings are unknown.

    The gain of the best step remains as evidence for the direction.
    """
    return replace(action, kind="direction", grounds="settings_unknown") if action.kind == "step" else action


def remedy_action(
    remedy: str, *, is_tentative: bool = False, training: Training | None = None, num_images: float | None = None
) -> Action:
    """Return the action that makes a remedy, with the new settings where the old ones are known.

    Args:
        remedy: a name of `registry.remedies`.
        is_tentative: the diagnosis abstains.
        training: known settings.
        num_images: size of the training set, if it is known; no batch is larger.
    """
    entry = REMEDIES[remedy]
    if entry.knob not in KNOBS:
        return Action("remedy", remedy=remedy, is_tentative=is_tentative)
    up = entry.factor > 1 if entry.factor else bool(entry.value)
    action = Action("remedy", entry.knob, "up" if up else "down", remedy=remedy, is_tentative=is_tentative)
    training = training or Training()
    value = getattr(training, entry.knob, None)
    if entry.factor and value is not None and entry.knob not in KNOB_OF_TRAINING.values():
        return replace(action, setting=_moved(KNOBS[entry.knob], value, entry.factor, num_images))
    return in_settings(action, training, num_images)


def in_settings(action: Action, training: Training, num_images: float | None = None) -> Action:
    """Return the action with the new settings, if the old ones are known.

    The knob to change is that of the reference; if it acts on the temperature, another temperature knob is given as an
    alternative. The batch size never exceeds the size of the training set, `num_images`, if that is known.
    """
    known = {knob: value for name, knob in KNOB_OF_TRAINING.items() if (value := getattr(training, name)) is not None}
    if action.knob is None or action.factor is None:
        return action
    knob = KNOBS[action.knob]
    ratio = action.factor if action.direction == "up" else 1 / action.factor
    if knob.name in known:
        action = replace(action, setting=_moved(knob, known[knob.name], ratio, num_images))
    if not knob.temperature:
        return action
    kept = {name: value for name, value in known.items() if not KNOBS[name].temperature}
    other = next((KNOBS[name] for name in known if KNOBS[name].temperature and name != knob.name), None)
    if other is None:
        return replace(action, kept=kept)
    against = ratio ** (knob.temperature * other.temperature)
    return replace(action, kept=kept, alternative=_moved(other, known[other.name], against, num_images))


def _moved(knob: Knob, before: float, ratio: float, num_images: float | None) -> Setting:
    """Return a setting times a ratio, kept in the knob's range; a whole number moves by 1 at least."""
    wanted = before * ratio
    if knob.kind is int:
        before = round(before)
        wanted = max(before + 1, round(wanted)) if ratio > 1 else min(before - 1, round(wanted))
    after, limit = wanted, ""
    if knob.acts_on == "batch" and num_images is not None and ratio > 1 and wanted > round(num_images):
        after, limit = max(before, round(num_images)), "training_set"
    elif not knob.low <= wanted <= knob.high:
        after, limit = min(max(wanted, knob.low), knob.high), "range"
    return Setting(knob.name, before, after, limit)
