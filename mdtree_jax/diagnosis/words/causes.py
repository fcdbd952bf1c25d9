"""The answer in words: the cause, its probability, and the evidence against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mdtree_jax.causes.opposition import opposition
from mdtree_jax.diagnosis.words.formats import capital, listed, number, percent
from mdtree_jax.diagnosis.words.notes import question
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.questions import answer_words

if TYPE_CHECKING:
    from mdtree_jax.diagnosis.result import Diagnosis

CANNOT_TELL = "can’t tell"


def short(cause: str) -> str:
    """Return the short name of a cause."""
    return CAUSES[cause].short


def colour(cause: str) -> str:
    """Return the colour of a cause."""
    return CAUSES[cause].colour


def in_order(causes: Iterable[str]) -> list[str]:
    """Return causes in the order of their table, each once."""
    known = set(causes)
    return [cause for cause in CAUSES if cause in known]


def cause_sentence(cause: str, knobs: Sequence[str]) -> str:
    """Return a cause in words; `knobs` are the names of the compared knobs.

    >>> cause_sentence("none", ["batch_size", "width"])
    'changing batch size or network width is not expected to gain a point of test accuracy'
    """
    nouns = [KNOBS[name].words.noun for name in knobs]
    return CAUSES[cause].sentence.format(knobs=listed(nouns, "or") if nouns else "a setting")


def certainty(probability: float) -> str:
    """Return a probability in words.

    >>> certainty(0.93), certainty(0.6), certainty(0.4)
    ('very likely', 'more likely than not', 'the most likely cause')
    """
    for least, words in ((0.9, "very likely"), (0.7, "likely"), (0.5, "more likely than not")):
        if probability >= least:
            return words
    return "the most likely cause"


def answer(diagnosis: Diagnosis) -> str:
    """Return the answer in one sentence."""
    return f"I {CANNOT_TELL}" if diagnosis.abstains else capital(diagnosis.sentence)


def sureness(diagnosis: Diagnosis) -> str:
    """Return the probability of the answer, in words and as a number, or why there is none and the first guess."""
    shown = percent(diagnosis.probability)
    if diagnosis.abstention is not None:
        reason = f"{capital(diagnosis.reason)}."
        # A reason that states the guess and its probability needs neither again.
        if not has_guess(diagnosis) or diagnosis.abstention.kind == "unlikely":
            return reason
        return f"{reason} First guess: “{short(diagnosis.cause)}”, probability {shown}."
    sure = f"{capital(certainty(diagnosis.probability))}: probability {shown}."
    against = counter_evidence(diagnosis)
    return f"{sure} {against}" if against else sure


def counter_evidence(diagnosis: Diagnosis) -> str:
    """Return that the trees of the question behind the cause favour the opposite, '' where they do not."""
    found = opposition(diagnosis.cause, diagnosis.trees)
    if found is None or found.probability <= 0.5:
        return ""
    opposite = answer_words(found.question, found.answer)
    asked = question(found.question)
    return f"The trees for “{asked}” favour the opposite answer: “{opposite}”, {percent(found.probability)}."


def errors_line(diagnosis: Diagnosis) -> str:
    """Return test and training error of the model in one sentence, '' where the test error is not known."""
    if diagnosis.test_error is None:
        return ""
    train = diagnosis.metrics.get("train_error")
    return f"Test error {number(diagnosis.test_error)} %" + (
        "" if train is None else f", training error {number(train)} %"
    )


def has_guess(diagnosis: Diagnosis) -> bool:
    """Return whether there is an answer or a first guess; there is none if nothing was measured."""
    return bool(diagnosis.position or diagnosis.evidence) or not diagnosis.abstains


def cause_text(diagnosis: Diagnosis) -> str:
    """Return the answer in a few words, as a table of many models shows it."""
    if not diagnosis.abstains:
        return short(diagnosis.cause)
    return f"{CANNOT_TELL}; perhaps {short(diagnosis.cause)}" if has_guess(diagnosis) else CANNOT_TELL


def ranking_note(diagnosis: Diagnosis) -> str:
    """Return a caveat on the probabilities of the causes, '' if they are an answer."""
    if not diagnosis.abstains:
        return ""
    if not has_guess(diagnosis):
        return "These are the shares of the causes in the reference: nothing is known about this model."
    return "These probabilities are a first guess, not an answer."


def temperature_note() -> str:
    """Return what “too cold” and “too hot” mean."""
    raising = [
        f"a {knob.words.up if knob.temperature > 0 else knob.words.down} {knob.words.noun}"
        for knob in KNOBS.values()
        if knob.temperature
    ]
    return (
        "“Too cold” and “too hot” refer to the temperature of training, the noise of the optimizer: "
        f"{listed(raising, 'or')} raises it."
    )


def shared_notes(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """Return the notes that all diagnoses of a table have in common, each once."""
    first, *others = [d.notes for d in diagnoses] or [[]]
    return [note for note in first if all(note in notes for notes in others)]


def counted(diagnoses: Sequence[Diagnosis]) -> Mapping[str, int]:
    """Return how many models have each cause as their answer, in the order of the causes' table."""
    asked = in_order(cause for d in diagnoses for cause in d.ranking)
    return {cause: sum(d.cause == cause and not d.abstains for d in diagnoses) for cause in asked}
