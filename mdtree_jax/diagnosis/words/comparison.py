"""Words for two diagnoses of a model, before and after a change."""

from __future__ import annotations

from mdtree_jax.diagnosis.compare import Comparison, Moved
from mdtree_jax.diagnosis.words.causes import short
from mdtree_jax.diagnosis.words.formats import number, points
from mdtree_jax.registry.measurements import MEASUREMENTS


def causes_sentence(found: Comparison) -> str:
    """Return the answers before and after, as one sentence."""
    before, after = (
        f"cannot tell, perhaps {short(cause)}" if unsure else short(cause)
        for cause, unsure in zip(found.causes, found.abstained, strict=True)
    )
    return f"The answer is still: {after}." if before == after else f"The answer was: {before}. It is now: {after}."


def gain_sentence(found: Comparison) -> str:
    """Return whether the predicted gain was real, as one sentence."""
    if found.gained is None:
        return "The test error is not known on both sides, so the gain is not known."
    shown = f"Test accuracy changed by {points(found.gained)} points"
    if found.predicted is None:
        return f"{shown}; no gain was predicted."
    mean, low, high = found.predicted
    where = (
        "within the interval" if found.held else "below the interval" if found.gained < low else "above the interval"
    )
    return (
        f"{shown}; {points(mean)} ({points(low)} to {points(high)}) were predicted for following the advice: it is "
        f"{where}."
    )


def moved_row(moved: Moved) -> tuple[str, str, str, str]:
    """Return name, value before, value after, and the change in standard errors of a metric."""
    label = MEASUREMENTS[moved.name].label if moved.name in MEASUREMENTS else moved.name
    shown = "" if moved.errors is None else f"{moved.errors:+.1f}"
    return label, number(moved.before), number(moved.after), shown
