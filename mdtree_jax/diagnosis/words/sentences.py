"""How a diagnosis is said to people: the same words, numbers, order and colours in the terminal and in the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mdtree_jax.causes.joint import PAIR_COLUMNS
from mdtree_jax.causes.labels import CAUSE, CAUSES
from mdtree_jax.collection.columns import COLUMN, DERIVED, sources
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.diagnosis.abstain import CONTRADICTED_BY
from mdtree_jax.diagnosis.metrics_table import SHOWN
from mdtree_jax.diagnosis.words.formats import (
    NOT_KNOWN,
    capital,
    duration,
    number,
    operations,
    percent,
    points,
    typeset,
)
from mdtree_jax.registry.measurements import MEASUREMENTS, label
from mdtree_jax.trees.decision_path import feature_error

#: Cause -> (short name, colour). Hues as those of the classes in figures; values of Okabe and Ito's palette and a dark
#: grey, at least 17 apart in CIELAB for the three kinds of colour blindness.
LOOKS = {
    "temperature_too_low": ("trained too cold", "#0072b2"),
    "temperature_too_high": ("trained too hot", "#d55e00"),
    "model_too_small": ("model too small", "#009e73"),
    "too_little_data": ("too little data", "#e69f00"),
    "none": ("nothing to gain", "#5f6670"),
}
#: Least probability of what is said beside the answer.
SURE = 0.9
RULES = "general experience, not evidence of the collection"
_COSTS = ("diagnosis", "retraining", "grid_search")
_KNOBS = {
    "batch_size": ("batch size", "smaller", "larger"),
    "width": ("width of the network", "narrower", "wider"),
    "data_fraction": ("amount of training data", "less", "more"),
}
_TESTED = {
    "joint": "all five causes: the step of about ×2 that gains most",
    "joint_room": "all five causes: the largest room for improvement",
}
_CLASSES = {
    "temperature_too_low": "too low",
    "temperature_too_high": "too high",
    "temperature": "a better batch size",
    "size": "a wider network",
    "data": "more data",
}


class Advice(NamedTuple):
    """The action in pieces: `headline` to act on, `why` from which models, and the same as short facts."""

    headline: str
    why: str
    facts: list[tuple[str, str]]


def short(cause: str) -> str:
    """Return the short name of a cause."""
    return LOOKS[cause][0]


def colour(cause: str) -> str:
    """Return the colour of a cause."""
    return LOOKS[cause][1]


def certainty(probability: float) -> str:
    """Return a probability in words.

    >>> certainty(0.93), certainty(0.6), certainty(0.4)
    ('very likely', 'more likely than not', 'likelier than each other cause')
    """
    for least, words in ((0.9, "very likely"), (0.7, "likely"), (0.5, "more likely than not")):
        if probability >= least:
            return words
    return "likelier than each other cause"


def metric_name(metric: str) -> str:
    """Return what people call a metric, with its unit, as axes and tables show it.

    >>> metric_name("train_error"), metric_name("ball_sharpness")
    ('training error, %', 'ball sharpness, nats')
    """
    if metric in MEASUREMENTS:
        return MEASUREMENTS[metric].axis
    unit = COLUMN[metric].unit if metric in COLUMN else "1"
    return label(metric) + ("" if unit == "1" else f", {unit}")


def plain(text: str) -> str:
    """Return a sentence with the identifiers of causes, metrics and classes in it replaced by their names.

    >>> plain("the joint model says too_little_data (61%)")
    'the comparison with similar models says “too little data” (61 %)'
    """
    for task in TASKS.values():
        text = text.replace(f"question '{task.name}'", f"question “{task.question}”")
    for cause in CAUSES[:-1]:
        text = re.sub(rf"\b{cause}\b", f"“{short(cause)}”", text)
    text = re.sub(r"(?<=says )(temperature|size|data)\b", lambda found: f"“{_CLASSES[found[0]]}”", text)
    for metric in sorted((m.name for m in MEASUREMENTS.values() if m.words), key=len, reverse=True):
        text = re.sub(rf"(?<!')\b{metric}\b", label(metric), text)
    text = re.sub(r"(?<=the first, )none\b", f"“{short('none')}”", text)
    text = text.replace("the joint model says", "the comparison with similar models says")
    text = text.replace("a joint model fitted without", "a model fitted without")
    return typeset(re.sub(r"(?<=\d)%", " %", text))


def answer(diagnosis: Any) -> str:
    """Return the answer in one sentence."""
    return "I can’t tell" if diagnosis.abstains else capital(CAUSE[diagnosis.cause].sentence)


def sureness(diagnosis: Any) -> str:
    """Return how sure the answer is, in words and as a number, or why there is none and what the first guess is."""
    shown = percent(diagnosis.probability)
    if diagnosis.abstains:
        reason = capital(plain(diagnosis.reason))
        if not has_guess(diagnosis):
            return f"{reason}."
        chance = "" if "a probability of" in reason else f", with a probability of {shown}"
        return f"{reason}. The first guess would be “{short(diagnosis.cause)}”{chance}."
    sure = f"{capital(certainty(diagnosis.probability))}: the probability is {shown.replace('> ', 'above ')}."
    against = counter_evidence(diagnosis)
    return f"{sure} {against}" if against else sure


def counter_evidence(diagnosis: Any) -> str:
    """Return that the trees of the question behind the cause lean the other way, '' where they do not."""
    task, other = CONTRADICTED_BY.get(diagnosis.cause, (None, None))
    against = diagnosis.trees.get(task, {}).get(other, 0.0)
    if against <= 0.5:
        return ""
    return f"The trees for “{TASKS[task].question}” lean the other way: “{_CLASSES[other]}”, {percent(against)}."


def evidence_note(diagnosis: Any) -> str:
    """Return where the path of the evidence leads, and what it does not say."""
    if diagnosis.cause == "none":
        return "The tree has to choose between the two; it does not say that either matters."
    end = diagnosis.evidence_leads_to
    against = counter_evidence(diagnosis)
    if not end:
        return against
    said = f"The path below leads to “{_CLASSES.get(end, end)}”"
    chances = diagnosis.trees.get(diagnosis.evidence[0].question, {})
    if chances and end != max(chances, key=chances.get):
        said += f", against the average over many such trees, which gives that {percent(chances[end])}"
    return f"{said}. {against}".strip()


def shared_notes(diagnoses: Sequence[Any]) -> list[str]:
    """Return the notes that all diagnoses of a table have in common, each once."""
    first, *others = [d.notes for d in diagnoses] or [[]]
    return [plain(note) for note in first if all(note in notes for notes in others)]


def errors_line(diagnosis: Any) -> str:
    """Return test and training error of the model in one sentence, '' where the test error is not known."""
    if diagnosis.test_error is None:
        return ""
    train = diagnosis.metrics.get("train_error")
    return f"Test error {number(diagnosis.test_error)} %" + (
        "" if train is None else f", training error {number(train)} %"
    )


def track_record(diagnosis: Any) -> str:
    """Return how often answers with this reference were right, in one sentence."""
    found = diagnosis.accuracy
    if not found:
        return "How often answers with this reference are right was not measured."
    one = "one_checkpoint" in found and not set(PAIR_COLUMNS) & set(diagnosis.metrics)
    worth = found["one_checkpoint"] if one else found
    where = f"measured on {found['test']} {'without comparing two networks' if one else 'with all metrics'}"
    sure = f"{worth['surest_80_percent']:.0f} % of the surest 80 %"
    said = f"Answers with this reference were right for {worth['all']:.0f} % of the models, {sure}, {where}."
    causes = found.get("by_cause", {})
    named = causes.get(diagnosis.cause)
    if causes and not named and not one and not diagnosis.abstains:
        said += f" None was first called “{short(diagnosis.cause)}”, so how often that is right is not known."
    if named and not one and not diagnosis.abstains:
        said += f" Of {named['answers']} that it first called “{short(diagnosis.cause)}” {named['right']:.0f} % were."
    return said


def gain_note(diagnosis: Any) -> str:
    """Return what the interval of the expected gain means, and how often it held."""
    held = diagnosis.accuracy.get("gains")
    meant = "meant to hold the gain of nine in ten models"
    if not held:
        return meant
    found, expected = points(held["found"]), points(held["expected"])
    where = f"on {diagnosis.accuracy['test']}, it held {held['inside']:.0f} % of the gains"
    return f"{meant}; {where}, which were {found} on average where {expected} was expected"


def has_guess(diagnosis: Any) -> bool:
    """Return whether there is an answer or a first guess: not where nothing was measured."""
    return bool(diagnosis.position or diagnosis.evidence) or not diagnosis.abstains


def cause_text(diagnosis: Any) -> str:
    """Return the answer in a few words, as a table of many models shows it."""
    if not diagnosis.abstains:
        return short(diagnosis.cause)
    return f"can’t tell; perhaps {short(diagnosis.cause)}" if has_guess(diagnosis) else "can’t tell"


def ranking_note(diagnosis: Any) -> str:
    """Return what the probabilities of the causes are not, '' where they are an answer."""
    if not diagnosis.abstains:
        return ""
    if not has_guess(diagnosis):
        return "These are the shares of the causes in the reference: nothing is known of this model."
    return "These numbers are a first guess, not an answer."


def advice(diagnosis: Any, cost: Mapping[str, Any] | None = None) -> Advice:
    """Return what to do, why and with which gain, and knob, way, how far and what a try costs as (name, value)."""
    action = diagnosis.action
    headline, _, why = action.sentence.partition("; ")
    why, _, settings = why.partition(": batch size ")
    if settings:  # they stand at the end of the sentence, and are what one acts on
        headline = f"{headline} (batch size {settings})"
    facts = []
    if action.knob:
        name, down, up = _KNOBS.get(action.knob, (action.knob.replace("_", " "), "down", "up"))
        facts = [("knob", name), ("way", up if action.direction == "up" else down), ("how far", how_far(action))]
        if diagnosis.expected_gain is None:
            facts.append(("expected gain", NOT_KNOWN))
        facts.append(("what it costs to try", trial(action, cost)))
    return Advice(typeset(f"{capital(headline)}."), typeset(f"{capital(why)}.") if why else "", facts)


def beside(diagnosis: Any) -> str:
    """Return which way the batch size goes, where that is sure and not the first thing to do, '' elsewhere.

    Of a model that no gain is stated for, because the reference has none like it, nothing is said.
    """
    chances = diagnosis.questions.get("optimizer", {}) if diagnosis.expected_gain else {}
    if diagnosis.action.knob not in ("width", "data_fraction") or max(chances.values(), default=0.0) < SURE:
        return ""
    likelier = max(chances, key=chances.get)
    way = "smaller" if likelier == "temperature_too_low" else "larger"
    why = f"training was {'too cold rather than too hot' if way == 'smaller' else 'too hot rather than too cold'}"
    return f"If the batch size is tried as well, a {way} one is the better try: {why}, {percent(chances[likelier])}."


def how_far(action: Any) -> str:
    """Return the step of an action as a factor."""
    if action.factor is None:
        return NOT_KNOWN
    times = f"1/{number(action.factor)} of" if action.direction == "down" else f"{number(action.factor)} times"
    return f"{times} what it is"


def gain_text(gain: Any) -> str:
    """Return an expected gain in points with its interval, as tables show it; '' where there is none."""
    return f"{points(gain.mean)} ({points(gain.low)} to {points(gain.high)})" if gain else ""


def todo(diagnosis: Any) -> str:
    """Return the action in a few words, as a table of many models shows it."""
    action = diagnosis.action
    if not action.knob:
        return "leave batch size, width and data" if has_guess(diagnosis) else action.sentence
    name, down, up = _KNOBS.get(action.knob, (action.knob.replace("_", " "), "down", "up"))
    what = {"width": "network", "data_fraction": "data", "batch_size": "batch"}.get(action.knob, name)
    way = up if action.direction == "up" else down
    factor = "" if action.factor is None else f", {'1/' if action.direction == 'down' else '×'}{number(action.factor)}"
    return f"{way} {what}{factor}"


def trial(action: Any, cost: Mapping[str, Any] | None) -> str:
    """Return what trying an action costs: one training, in terms of one like the model's own."""
    cost = cost or {}
    times = [
        shown
        for key, show in (("retraining_seconds", duration), ("retraining_flops", operations))
        if cost.get(key) is not None and (shown := show(cost[key]))
    ]
    more = {"width": "; a wider network costs more", "data_fraction": "; more data cost more, and must be got"}
    extra = more.get(action.knob, "") if action.direction == "up" else ""
    if not times:
        return f"one training, how long is {NOT_KNOWN}{extra}"
    return f"one training; as before it takes {', '.join(times)}{extra}"


def cost_rows(cost: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """Return (what, time, operations) of the diagnosis, one retraining and a grid search; none if nothing is known."""
    cost = cost or {}
    if all(cost.get(f"{kind}_{unit}") is None for kind in _COSTS for unit in ("seconds", "flops")):
        return []
    trainings = cost.get("grid_search_trainings")
    search = f"grid search, {trainings} trainings" if trainings else "grid search"
    kinds = zip(("this diagnosis", "one retraining", search), _COSTS, strict=True)
    return [(n, duration(cost.get(f"{k}_seconds")), operations(cost.get(f"{k}_flops"))) for n, k in kinds]


def cost_bars(cost: Mapping[str, Any] | None) -> list[float | None]:
    """Return the time (or, without times, the operations) of each row of `cost_rows` as a share of the longest.

    None where it is not known; all None unless the diagnosis and another one can be compared.
    """
    cost = cost or {}
    for unit in ("seconds", "flops"):
        values = [cost.get(f"{kind}_{unit}") for kind in _COSTS]
        known = [v for v in values if v is not None]
        if values[0] is not None and len(known) > 1 and max(known) > 0:
            return [None if v is None else v / max(known) for v in values]
    return [None] * 3


def cost_sentence(cost: Mapping[str, Any] | None) -> str:
    """Return whether the diagnosis pays, in one sentence."""
    cost = cost or {}
    for unit in ("seconds", "flops"):
        own, again = cost.get(f"diagnosis_{unit}"), cost.get(f"retraining_{unit}")
        if own is not None and again is not None and own > 0 and again > 0:
            if own >= again:
                return f"The diagnosis cost {number(own / again)} times as much as one retraining."
            return f"One retraining costs {number(again / own)} times as much as the diagnosis."
    if cost.get("retraining_seconds") is None and cost.get("retraining_flops") is None:
        return f"What a retraining costs is {NOT_KNOWN}, so there is nothing to compare the diagnosis with."
    return f"What the measurements cost is {NOT_KNOWN}: they were made elsewhere."


def cost_note(cost: Mapping[str, Any] | None) -> str:
    """Return the note on how the cost was found, and what compiling took, as sentences; '' if there are none."""
    cost = cost or {}
    parts = [capital(str(cost["note"]))] if cost.get("note") else []
    if cost.get("compile_seconds") is not None:
        parts.append(f"Compiling the programs took {duration(cost['compile_seconds'])} more, once")
    return " ".join(f"{part.rstrip('.')}." for part in parts)


def question_of(diagnosis: Any) -> str:
    """Return the question that the evidence answers."""
    return _question(diagnosis.evidence[0].question)


def _question(task: str) -> str:
    return TASKS[task].question if task in TASKS else task


def sentence(step: Any) -> str:
    """Return a step of the evidence as a sentence that begins with a capital."""
    return typeset(f"{capital(step.sentence)}.")


def threshold_text(step: Any) -> str:
    """Return the threshold of a step with its 90 % interval, and how far the value is from it."""
    shown = f"threshold {number(step.threshold)}"
    if step.interval:
        shown += f" (90 % interval {number(step.interval[0])} to {number(step.interval[1])})"
    if step.distance_in_standard_errors is not None:
        away = abs(step.distance_in_standard_errors)
        shown += f", {'more than 10' if away > 10 else f'{away:.2g}'} standard errors away"
    return shown


def range_text(known: Mapping[float, float]) -> str:
    """Return where the reference's models lie, from their quantiles by level; '' without any."""
    if not {0.05, 0.5, 0.95} <= set(known):
        return ""
    low, middle, high = (number(known[level]) for level in (0.05, 0.5, 0.95))
    return f"reference: median {middle}, 9 in 10 models from {low} to {high}"


def questions(diagnosis: Any) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return the published questions that could be asked, with the probability of each answer."""
    asked = diagnosis.questions.items()
    return [(_question(task), [(_CLASSES.get(c, c), p) for c, p in classes.items()]) for task, classes in asked]


def metric_rows(diagnosis: Any, metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Return (name, value with error, share of the reference's models at or below) of each metric.

    Those that the reference does not have, and a diagnosis shows nevertheless, come last.
    """
    rows, errors = [], {name.removesuffix("_se"): value for name, value in metrics.items() if name.endswith("_se")}
    for metric, share in diagnosis.position.items():
        known = sources(metric)
        if not all(name in metrics for name in known):
            value = NOT_KNOWN
        elif metric in DERIVED:
            value = float(DERIVED[metric][1](*(metrics[name] for name in known)))
            value = number(value, feature_error(metric, metrics, errors))
        else:
            value = number(metrics[metric], errors.get(metric))
        rows.append((metric_name(metric), value, percent(share)))
    others = [name for name in SHOWN if name in metrics and name not in diagnosis.position]
    rows += [(metric_name(name), number(metrics[name], errors.get(name)), NOT_KNOWN) for name in others]
    return rows


def step_rows(diagnosis: Any) -> list[tuple[str, str, str]]:
    """Return (step, gain with interval, models) of all steps against the cause that were compared."""
    names = {"one": "one value of the grid", "x2": "×2", "x4": "×4"}
    return [(names.get(step, step), gain_text(g), str(g.models)) for step, g in diagnosis.gains.items()]


def accuracy_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return (question, % right, % right of the surest 80 %, calibration error in points, models) of a reference."""
    rows = []
    for task, found in provenance.get("accuracy", {}).items():
        shares = (f"{found[key]:.1f} %" for key in ("all", "surest_80_percent"))
        numbers = f"{found['calibration_error']:.1f}", str(found["models"])
        rows.append((_TESTED.get(task, _question(task)), *shares, *numbers))
    return rows


def origin(provenance: Mapping[str, Any]) -> str:
    """Return where a reference comes from, in one sentence."""
    parts = [f"collection {provenance['collection']}"]
    parts += [f"{provenance['rows']} configurations"] if "rows" in provenance else []
    parts += [f"commit {provenance['commit']}"] if "commit" in provenance else []
    parts += [str(provenance["date"])] if "date" in provenance else []
    return capital(", ".join(parts)) + "."
