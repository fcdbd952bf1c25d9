"""A diagnosis in the terminal: the facts of the report in the same order. rich."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mdtree_jax.diagnosis.verdict import Diagnosis
from mdtree_jax.report import words

_BAR = 30


def print_answer(console: Any, diagnosis: Diagnosis, *, name: str = "", cost: Mapping[str, Any] | None = None) -> None:
    """Print the diagnosis of one model to a rich console."""

    def say(text: str = "", style: str = "") -> None:
        console.print(text, style=style, highlight=False, markup=False)

    if name:
        say(name, "dim")
    say(words.answer(diagnosis), "bold")
    say(words.sureness(diagnosis))
    say()
    say(f"What to do: {words.action_sentence(diagnosis)}.")
    for rule in diagnosis.action.rules:
        say(f"  general experience, not evidence: {rule}")
    say()
    for cause, probability in diagnosis.ranking.items():
        say(f"  {words.short(cause):<17} {'█' * round(_BAR * probability):<{_BAR}} {words.percent(probability):>6}")
    say()
    say(words.cost_sentence(cost))
    for what, time, work in words.cost_rows(cost) if cost else ():
        say(f"  {what:<26} {time:>10}  {work:>12}")
    if cost and cost.get("note"):
        say(f"  {cost['note']}", "dim")
    if diagnosis.evidence:
        say()
        say(f"Evidence, question “{diagnosis.evidence[0].question}”:")
        for number, step in enumerate(diagnosis.evidence, 1):
            say(f"  {number}. {step.sentence}")
    if diagnosis.notes:
        say()
        for note in diagnosis.notes:
            say(f"note: {note}")
    say(f"compared with the models of {diagnosis.reference}", "dim")


def print_summary(console: Any, items: Sequence[tuple[str, Diagnosis]], most: int = 40) -> None:
    """Print a table that compares the models, the first `most` of them."""
    from rich.table import Table

    counts = Counter("cannot tell" if d.abstains else words.short(d.cause) for _, d in items)
    listed = ", ".join(f"{cause} {number}" for cause, number in counts.most_common())
    console.print(f"{len(items)} models: {listed}", highlight=False, markup=False)
    table = Table()
    for column in ("model", "cause", "sure", "what to do", "gain, points"):
        table.add_column(column, justify="right" if column in ("sure", "gain, points") else "left")
    for name, d in items[:most]:
        action, gain = d.action, d.expected_gain
        todo = f"{action.knob.replace('_', ' ')} {action.direction}" if action.knob else "leave the three knobs"
        cause = f"can't tell; perhaps {words.short(d.cause)}" if d.abstains else words.short(d.cause)
        shown = f"{gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})" if gain else ""
        table.add_row(_plain(name), cause, words.percent(d.probability), todo, shown)
    console.print(table)
    if len(items) > most:
        console.print(f"and {len(items) - most} more in the report", highlight=False)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
