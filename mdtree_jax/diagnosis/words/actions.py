"""What to change, in words: the advice, its grounds, and the cost of trying it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mdtree_jax.diagnosis.words.findings import advice_sentence, finding_sentence
from mdtree_jax.diagnosis.words.formats import NOT_KNOWN, capital, duration, listed, number, operations, percent, points
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.knobs import KNOBS, Knob
from mdtree_jax.registry.questions import QUESTIONS, Answer
from mdtree_jax.registry.remedies import REMEDIES

if TYPE_CHECKING:
    from mdtree_jax.diagnosis.action import Action, Gain
    from mdtree_jax.diagnosis.result import Diagnosis

#: Least probability of what is said beside the answer.
SURE = 0.9
RULES = "general experience, not derived from the reference"
_TENTATIVE = "if the first guess is right, "


def sentence(action: Action) -> str:
    """Return the action and its grounds."""
    return f"{headline(action)} {why(action)}".strip()


def headline(action: Action) -> str:
    """Return what to do, as a sentence."""
    if action.kind == "measure":
        return "Measure the metrics first."
    if action.kind == "stabilize":
        return f"Stabilize the training first: use {listed(_ways(-1), 'or')}."
    if action.kind == "repair" and action.finding is not None:
        return capital(f"{advice_sentence(action.finding)}.")
    if action.kind == "remedy":
        return capital(f"{'most promising: ' if action.is_tentative else ''}{_remedy(action)}.")
    if action.knob is None:
        nouns = [KNOBS[name].words.noun for name in action.knobs]
        what = f"keep {listed(nouns) if nouns else 'the settings'} as they are"
    else:
        what = _imperative(action, KNOBS[action.knob])
    return capital(f"{_TENTATIVE if action.is_tentative else ''}{what}.")


def why(action: Action) -> str:
    """Return the evidence for the action, as sentences; '' if there is none."""
    where = f"collection '{action.reference}'"
    if action.kind == "repair" and action.finding is not None:
        return capital(f"{finding_sentence(action.finding)}.")
    if action.kind == "leave" and action.grounds == "outlook":
        return "Of the changes that were compared, none is expected to gain a point."
    if action.kind == "leave" and not action.grounds:
        said = f"Within the range of {where}, no single step is expected to gain a point."
        if action.edge is not None:
            counts = [
                f"{count} have the largest {KNOBS[name].words.noun}" for name, count in action.edge.largest.items()
            ]
            said += f" Of the {action.edge.models} most similar models, {listed(counts)} in the collection"
            said += "; what more would gain is not known."
        return said
    if action.kind == "step" and action.best is not None:
        doubt = "" if action.best.pays else "This may not pay off: "
        return doubt + _gained(action.best.gain, "with this step")
    return {
        "unlike_any": f"{capital(where)} has no similar model, so this is a rule of thumb, not evidence.",
        "no_step": (
            f"In {where}, too few similar models made this change to say how far to go, so this is a rule of thumb, "
            "not evidence."
        ),
        "settings_unknown": _unknown_settings(action),
    }.get(action.grounds, "")


def rules(action: Action) -> tuple[str, ...]:
    """Return general experience related to the action; first the new value of an alternative knob, if known."""
    if action.knob is None or action.direction is None:
        return ()
    said, other = KNOBS[action.knob].words.rules.get(action.direction, ()), action.alternative
    if other is None or other.after == other.before or (action.kind == "remedy" and action.setting is None):
        return tuple(said)
    instead = f"instead of the {KNOBS[action.knob].words.noun}, change the {_from_to(other)}"
    return (instead, *said)


def facts(action: Action, gain: Gain | None, cost: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """Return knob, direction, step and cost of trying as (name, value); empty if no knob is to be changed."""
    if action.knob is None:
        return []
    words = KNOBS[action.knob].words
    found = [
        ("setting", words.noun),
        ("direction", words.up if action.direction == "up" else words.down),
        ("step", how_far(action)),
    ]
    if gain is None:
        found.append(("expected gain", NOT_KNOWN))
    return [*found, ("cost of trying", trial(action, cost))]


def beside(diagnosis: Diagnosis) -> str:
    """Return the direction of another knob if it is nearly certain and not part of the action, otherwise ''.

    This covers questions whose two answers change one knob in opposite directions, such as the temperature. Nothing is
    said about a model without an expected gain, because the reference has no similar model.
    """
    if diagnosis.action.knob is None or not diagnosis.expected_gain or diagnosis.outlook is not None:
        return ""  # with an outlook every question has a line of its own
    for name, chances in diagnosis.questions.items():
        likelier = max(chances, key=chances.__getitem__)
        found = _turned(diagnosis, name, likelier)
        first = KNOBS[diagnosis.action.knob]
        if chances[likelier] >= SURE and found is not None and {first.up, first.down} != {found[0].up, found[0].down}:
            (knob, way), shorts = found, [f"“{CAUSES[cause].short}”" for cause in _only_causes(name, likelier)]
            adjective = knob.words.up if way == "up" else knob.words.down
            return (
                f"If you also change the {knob.words.noun}, make it {adjective}: {shorts[0]} is more likely than "
                f"{shorts[1]}, {percent(chances[likelier])}."
            )
    return ""


def how_far(action: Action) -> str:
    """Return the step of an action as a factor."""
    if action.factor is None and action.kind == "remedy":
        return f"to {REMEDIES[action.remedy].value:g}"
    if action.factor is None:
        return "to the next value" if action.kind == "step" else NOT_KNOWN
    return f"{'÷' if action.direction == 'down' else '×'}{number(action.factor)}"


def gain_text(gain: Gain | None) -> str:
    """Return an expected gain in points with its interval, for tables; '' if there is none."""
    return f"{points(gain.mean)} ({points(gain.low)} to {points(gain.high)})" if gain else ""


def todo(diagnosis: Diagnosis) -> str:
    """Return the action in a few words, for a table of many models."""
    action = diagnosis.action
    if action.kind == "remedy":
        return REMEDIES[action.remedy].meaning.replace(" x ", " ×").replace(" / ", " ÷")
    if action.kind == "repair" and action.finding is not None:
        return advice_sentence(action.finding)
    if action.knob is None:
        short = {"leave": "keep the settings", "measure": "measure the metrics", "stabilize": "stabilize the training"}
        return short[action.kind]
    words = KNOBS[action.knob].words
    way = words.up if action.direction == "up" else words.down
    return f"{way} {words.short or words.noun}" + ("" if action.factor is None else f", {how_far(action)}")


def trial(action: Action, cost: Mapping[str, Any] | None) -> str:
    """Return the cost of trying an action: one training run, compared with the model's own."""
    cost = cost or {}
    times = [
        show(cost[key])
        for key, show in (("retraining_seconds", duration), ("retraining_flops", operations))
        if cost.get(key) is not None
    ]
    price = KNOBS[action.knob].words.price if action.knob and action.direction == "up" else ""
    took = f"the last one took {', '.join(times)}" if times else f"duration {NOT_KNOWN}"
    return f"one training run ({took})" + (f"; {price}" if price else "")


def _imperative(action: Action, knob: Knob) -> str:
    """Return what to do with a knob, with step and new value if they are known."""
    up = action.direction == "up"
    if action.setting is not None and action.setting.after == action.setting.before:
        return f"{_temperature(knob, up)}{_stuck(action, knob)}"
    own = knob.words.do.get(action.direction or "", f"{'increase' if up else 'reduce'} the {knob.words.noun}{{how}}")
    how = "" if action.factor is None else f" by a factor of {number(action.factor)}"
    return f"{_temperature(knob, up)}{own.format(how=how)}{_new_value(action)}"


def _remedy(action: Action) -> str:
    """Return a remedy as an imperative: by the knob that the user has given a value of, if it is one of temperature."""
    remedy, setting, other = REMEDIES[action.remedy], action.setting, action.alternative
    if action.knob is None:
        return remedy.words
    knob = KNOBS[action.knob]
    temperature = _temperature(knob, action.direction == "up")
    if setting is None and other is not None and other.after != other.before:
        return f"{temperature}change the {_from_to(other)}, or {remedy.words}"
    if setting is not None and setting.after == setting.before:
        return f"{temperature}{_stuck(action, knob)}"
    return f"{temperature}{remedy.words}{_new_value(action)}"


def _temperature(knob: Knob, up: bool) -> str:
    if not knob.temperature:
        return ""
    hotter = (knob.temperature > 0) == up
    return f"train at a {'higher' if hotter else 'lower'} temperature: "


def _new_value(action: Action) -> str:
    if action.setting is None:
        return ""
    parts = [f"from {action.setting.before:g} to {action.setting.after:.3g}"]
    if action.setting.limit == "training_set":
        parts[0] += ", all training images"
    parts += [f"keep the {KNOBS[name].words.noun} at {value:g}" for name, value in action.kept.items()]
    return f" ({'; '.join(parts)})"


def _stuck(action: Action, knob: Knob) -> str:
    """Return that a knob has reached its limit, and what to change instead."""
    setting, other = action.setting, action.alternative
    if setting is None:
        return ""
    end = "largest" if action.direction == "up" else "smallest"
    text = f"the {knob.words.noun}, {setting.before:g}, is already the {end} possible"
    if other is not None and other.after != other.before:
        return f"{text}, so change the {_from_to(other)}"
    hotter = knob.temperature * (1 if action.direction == "up" else -1)
    ways = [way for other, way in zip(_temperatures(), _ways(hotter), strict=True) if other.name != knob.name]
    return f"{text}, so use {listed(ways, 'or')} instead" if knob.temperature and ways else text


def _from_to(setting: Any) -> str:
    return f"{KNOBS[setting.knob].words.noun} from {setting.before:g} to {setting.after:.3g}"


def _temperatures() -> list[Knob]:
    return [knob for knob in KNOBS.values() if knob.temperature]


def _ways(hotter: int) -> list[str]:
    """Return the ways to a higher (+1) or lower (-1) temperature."""
    return [
        f"a {knob.words.up if knob.temperature == hotter else knob.words.down} {knob.words.noun}"
        for knob in _temperatures()
    ]


def _gained(gain: Gain, by: str) -> str:
    expect = f"expect {points(gain.low)} to {points(gain.high)}"
    if gain.cut:
        return f"{gain.models} similar models gained more {by} than the test error of this model; {expect} points."
    return f"{gain.models} similar models gained {points(gain.mean)} points of test accuracy on average {by}; {expect}."


def _unknown_settings(action: Action) -> str:
    own = "How far to go from your own settings is not known, because they were not given (training=)."
    if action.best is None:
        return own
    factor = action.best.factor
    step = f"with a change by a factor of {number(factor)}" if factor else "with one step"
    return f"{_gained(action.best.gain, step)} {own}"


def _only_causes(question: str, answer: str) -> tuple[str, str]:
    """Return the cause of an answer, and that of the other one."""
    this, other = sorted(_answers(question), key=lambda a: a.name != answer)
    return this.causes[0], other.causes[0]


def _answers(question: str) -> tuple[Answer, ...]:
    return QUESTIONS[question].answers if question in QUESTIONS else ()


def _turned(diagnosis: Diagnosis, question: str, answer: str) -> tuple[Knob, str] | None:
    """Return the compared knob that a question's answers turn either way, and the way of this answer."""
    answers = _answers(question)
    if any(len(a.causes) != 1 for a in answers):
        return None
    for name in diagnosis.knobs:
        knob = KNOBS[name]
        if answers and {knob.up, knob.down} == {a.causes[0] for a in answers}:
            return knob, "up" if knob.up == _only_causes(question, answer)[0] else "down"
    return None
