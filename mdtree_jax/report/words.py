"""How a diagnosis is said to people: the same words, numbers and colours in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping

from mdtree_jax.diagnosis.causes import CAUSES
from mdtree_jax.diagnosis.columns import COLUMN
from mdtree_jax.diagnosis.evidence import WORDS

#: Short name and colour of each cause (Okabe and Ito's palette, which all eyes tell apart).
LOOKS = {
    "temperature_too_low": ("trained too cold", "#0072b2"),
    "temperature_too_high": ("trained too hot", "#d55e00"),
    "model_too_small": ("model too small", "#a6568a"),
    "too_little_data": ("too little data", "#009e73"),
    "none": ("nothing to gain", "#808080"),
}
assert tuple(LOOKS) == CAUSES


def short(cause: str) -> str:
    """Return the short name of a cause."""
    return LOOKS[cause][0]


def certainty(probability: float) -> str:
    """Return a probability in words.

    >>> certainty(0.93), certainty(0.5)
    ('very likely', 'more likely than any other')
    """
    for least, words in ((0.9, "very likely"), (0.7, "likely"), (0.55, "probable")):
        if probability >= least:
            return words
    return "more likely than any other"


def percent(share: float) -> str:
    """Return a share as whole percent, the ends kept apart from certainty.

    >>> percent(0.634), percent(0.997), percent(0.001)
    ('63 %', '> 99 %', '< 1 %')
    """
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def duration(seconds: float | None) -> str:
    """Return seconds for people.

    >>> duration(0.02), duration(42), duration(700), duration(9000), duration(None)
    ('0.02 s', '42 s', '12 min', '2.5 h', 'not known')
    """
    if seconds is None:
        return "not known"
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            value = seconds / size
            return f"{value:.2g} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.3g} days"


def operations(flops: float | None) -> str:
    """Return a number of floating-point operations for people.

    >>> operations(3.2e13), operations(None)
    ('32 TFLOP', 'not known')
    """
    if flops is None:
        return "not known"
    for exponent, letter in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if flops >= 10**exponent:
            return f"{flops / 10**exponent:.3g} {letter}FLOP"
    return f"{flops:.3g} FLOP"


def metric_name(metric: str) -> str:
    """Return what people call a metric, with its unit."""
    name = WORDS[metric][0] if metric in WORDS else metric.replace("_", " ")
    unit = COLUMN[metric].unit if metric in COLUMN else "ln"
    shown = {"1": "", "-%": "%", "ln": "ln"}.get(unit, unit)
    return f"{name}, {shown}" if shown else name


def answer(diagnosis) -> str:
    """Return the answer in one sentence."""
    if diagnosis.abstains:
        return "I can't tell"
    return diagnosis.sentence[0].upper() + diagnosis.sentence[1:]


def sureness(diagnosis) -> str:
    """Return how sure the answer is, or why there is none, in one sentence."""
    shown = percent(diagnosis.probability)
    if diagnosis.abstains:
        return f"{_capital(diagnosis.reason)}. The first guess would be “{short(diagnosis.cause)}” ({shown})."
    return f"{_capital(certainty(diagnosis.probability))}: {shown}, among five causes that are compared."


def action_sentence(diagnosis) -> str:
    """Return what to do, as a sentence that begins with a capital."""
    return _capital(diagnosis.action.sentence)


def cost_rows(cost: Mapping | None) -> list[tuple[str, str, str]]:
    """Return rows of what is compared: its name, time, operations."""
    cost = cost or {}
    trainings = cost.get("grid_search_trainings") or 27
    rows = []
    for name, prefix in (
        ("this diagnosis", "diagnosis"),
        ("one retraining", "retraining"),
        (f"a search of {trainings} trainings", "grid_search"),
    ):
        seconds, flops = cost.get(f"{prefix}_seconds"), cost.get(f"{prefix}_flops")
        rows.append((name, duration(seconds), operations(flops)))
    return rows


def cost_sentence(cost: Mapping | None) -> str:
    """Return whether the diagnosis pays, in one sentence."""
    cost = cost or {}
    own, again = cost.get("diagnosis_seconds"), cost.get("retraining_seconds")
    if own is None:
        return "What the measurements cost is not known: they were made elsewhere."
    if again is None:
        return "What a retraining costs is not known: say training.epochs=… to compare."
    if own >= again:
        return f"The diagnosis took {own / again:.2g} times as long as one retraining."
    return f"One retraining takes {again / own:.2g} times as long as the diagnosis took."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
