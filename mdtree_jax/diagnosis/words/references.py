"""A reference in words: where it comes from, and how accurate its answers were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mdtree_jax.causes.joint import PAIR_COLUMNS
from mdtree_jax.causes.method_protocol import JOINT_TASKS
from mdtree_jax.diagnosis.words.causes import short
from mdtree_jax.diagnosis.words.formats import capital, points
from mdtree_jax.diagnosis.words.notes import question

if TYPE_CHECKING:
    from mdtree_jax.diagnosis.result import Diagnosis


def track_record(diagnosis: Diagnosis) -> str:
    """Return how often answers with this reference were right."""
    found = diagnosis.accuracy
    if not found:
        return "The accuracy of answers with this reference has not been measured."
    one = "one_checkpoint" in found and not set(PAIR_COLUMNS) & set(diagnosis.metrics)
    worth = found["one_checkpoint"] if one else found
    with_what = "without comparing two networks" if one else "with all metrics"
    said = (
        f"Measured on {found['test']} {with_what}, answers with this reference were right for {worth['all']:.0f} % of "
        f"the models, and for {worth['surest_80_percent']:.0f} % of the 80 % with the highest probabilities."
    )
    causes, landscape = found.get("by_cause", {}), diagnosis.landscape
    cause = diagnosis.cause if landscape is None else landscape["cause"]
    named = causes.get(cause)
    if one or not causes or (diagnosis.abstains if landscape is None else landscape["abstains"]):
        return said
    if not named:
        return f"{said} “{short(cause)}” was never the first answer there, so its accuracy is not known."
    return (
        f"{said} The first answer “{short(cause)}” was right for {named['right']:.0f} % of the "
        f"{named['answers']} models that got it."
    )


def gain_note(diagnosis: Diagnosis) -> str:
    """Return what the interval of the expected gain means, and how often it held."""
    if diagnosis.outlook is not None:
        return "intended to contain the gain of 80 % of the networks of families that were not seen"
    held = diagnosis.accuracy.get("gains")
    meant = "intended to contain the gain of nine in ten models"
    if not held:
        return meant
    return (
        f"{meant}; on {diagnosis.accuracy['test']} it contained {held['inside']:.0f} % of the gains (mean gain "
        f"{points(held['found'])} points, expected {points(held['expected'])})"
    )


def accuracy_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return (question, accuracy, accuracy of the most confident 80 %, calibration error, models) of a reference."""
    rows = []
    for task, found in provenance.get("accuracy", {}).items():
        shares = (f"{found[key]:.1f} %" for key in ("all", "surest_80_percent"))
        numbers = f"{found['calibration_error']:.1f}", str(found["models"])
        asked = JOINT_TASKS[task].title if task in JOINT_TASKS else question(task)
        rows.append((asked, *shares, *numbers))
    return rows


def origin(provenance: Mapping[str, Any]) -> str:
    """Return where a reference comes from, in one sentence."""
    parts = [f"collection {provenance['collection']}"]
    parts += [f"{provenance['rows']} configurations"] if "rows" in provenance else []
    parts += [f"commit {provenance['commit']}"] if "commit" in provenance else []
    parts += [str(provenance["date"])] if "date" in provenance else []
    return capital(", ".join(parts)) + "."
