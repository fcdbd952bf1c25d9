"""A diagnosis in the terminal: the same facts as in the report, in the same order, readable without colours."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mdtree_jax.diagnosis.words import actions, causes, costs, evidence, references
from mdtree_jax.diagnosis.words.formats import capital, percent, points

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from mdtree_jax.diagnosis.result import Diagnosis

_BAR, _LINE = 36, 52


def print_answer(console: Any, diagnosis: Diagnosis, name: str = "", cost: Mapping[str, Any] | None = None) -> None:
    """Print the diagnosis of one model to a rich console, at least 60 columns wide.

    Args:
        console: where to.
        diagnosis: the answer.
        name: of the model.
        cost: keys as of `diagnosis.cost.Cost`; None, or a key that is None, is not known.
    """
    say = _Printer(console)
    if name:
        say(name, style="dim")
    say(causes.answer(diagnosis), style="bold")
    say(causes.sureness(diagnosis))
    if causes.errors_line(diagnosis):
        say(f"{causes.errors_line(diagnosis)}.")
    _print_advice(say, diagnosis, cost)
    say.heading("Probabilities")
    wide = max(17, *(len(causes.short(cause)) for cause in diagnosis.ranking))
    for cause, probability in diagnosis.ranking.items():
        say(f"{causes.short(cause):<{wide}} {_bar(probability)} {percent(probability):>6}", 2)
    if causes.ranking_note(diagnosis):
        say(causes.ranking_note(diagnosis), 2)
    say(references.track_record(diagnosis), 2)
    say.heading("What the diagnosis cost")
    say(costs.sentence(cost), 2)
    for what, time, work in costs.rows(cost):
        say(f"{what:<28} {time:>10}" + (f"  {work:>13}" if work != time else ""), 2)
    if costs.note(cost):
        say(costs.note(cost), 2)
    _print_technical(say, diagnosis)


def answer_text(diagnosis: Diagnosis, width: int = 88) -> str:
    """Return what `print_answer` prints of a diagnosis, with the cost that it knows, as plain text."""
    from rich.console import Console

    text = io.StringIO()
    cost = diagnosis.cost and diagnosis.cost.to_dict()
    print_answer(Console(file=text, width=width, color_system=None, force_jupyter=False), diagnosis, cost=cost)
    return text.getvalue()


def print_summary(console: Any, items: Sequence[tuple[str, Diagnosis]], most: int = 40) -> None:
    """Print a table that compares the models, the first `most` of them.

    Args:
        console: a rich console.
        items: (name, diagnosis) of each model.
        most: rows that are shown.
    """
    from rich import box
    from rich.table import Table

    say = _Printer(console)
    counts = Counter(causes.CANNOT_TELL if d.abstains else causes.short(d.cause) for _, d in items)
    listed = ", ".join(f"{cause} {number}" for cause, number in counts.most_common())
    say(f"{len(items)} {'model' if len(items) == 1 else 'models'}: {listed}")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    sides: dict[str, JustifyMethod] = {"prob.": "right", "gain, points": "right"}
    for column in ("model", "cause", "prob.", "what to do", "gain, points"):
        table.add_column(column, justify=sides.get(column, "left"), overflow="fold")
    for name, d in items[:most]:
        table.add_row(
            _plain(name),
            _plain(causes.cause_text(d)),
            percent(d.probability) if causes.has_guess(d) else "",
            _plain(actions.todo(d)),
            actions.gain_text(d.expected_gain),
        )
    console.print(table)
    if len(items) > most:
        say(f"and {len(items) - most} more")
    for note in causes.shared_notes([d for _, d in items]):
        say(f"- {note}", hang=2)


class _Printer:
    """Prints plain text, wrapped with a hanging indent; nothing in it is taken as markup."""

    def __init__(self, console: Any):
        self.console = console

    def __call__(self, text: str = "", indent: int = 0, style: str = "", hang: int = 0) -> None:
        lines = _plain(text, style).wrap(self.console, max(20, self.console.width - indent - hang)) if text else [""]
        for place, line in enumerate(lines):
            start = _plain(" " * (indent + hang * bool(place)))
            self.console.print(start + line if text else "", highlight=False, no_wrap=True, overflow="fold")

    def heading(self, text: str) -> None:
        self.console.print()
        self(text if text.endswith("?") else f"{text}:", style="bold")


def _print_advice(say: _Printer, diagnosis: Diagnosis, cost: Mapping[str, Any] | None) -> None:
    action = diagnosis.action
    say.heading("What to do")
    say(actions.headline(action), 2)
    if actions.why(action):
        say(actions.why(action), 2)
    if diagnosis.expected_gain:
        for line in gain_line(diagnosis.expected_gain):
            say(line, 2)
        say(f"The interval is {references.gain_note(diagnosis)}.", 2)
    for term, value in actions.facts(action, diagnosis.expected_gain, cost):
        say(f"{capital(term)}: {value}", 2, hang=2)
    if actions.beside(diagnosis):
        say(actions.beside(diagnosis), 2)
    if action.rules:
        say(f"{capital(actions.RULES)}:", 2)
    for rule in action.rules:
        say(f"- {rule}", 4, hang=2)


def _print_technical(say: _Printer, diagnosis: Diagnosis) -> None:
    if diagnosis.evidence:
        say.heading(f"Evidence: {evidence.question_of(diagnosis)}")
    if diagnosis.evidence and evidence.note(diagnosis):
        say(evidence.note(diagnosis), 2)
    for place, step in enumerate(diagnosis.evidence, 1):
        say(f"{place}. {evidence.sentence(step)}", 2, hang=3)
        say(f"{capital(evidence.threshold_text(step))}.", 5)
    if diagnosis.questions:
        say.heading("Diagnostic questions")
    for asked in evidence.questions(diagnosis):
        say(asked.question, 2)
        say(", ".join(f"{name} {percent(p)}" for name, p in asked.answers), 4)
        if asked.action:
            say(asked.action, 4)
    if diagnosis.gains:
        say.heading("Steps compared")
    for step, gain, models in evidence.step_rows(diagnosis):
        say(f"{step}: {gain} points, {models} models", 2)
    if diagnosis.position:
        say.heading("Metrics, and the share of reference models at or below")
    for metric, value, share in evidence.metric_rows(diagnosis, diagnosis.metrics):
        say(f"{metric}: {value}, {share}", 2, hang=2)
    if diagnosis.notes:
        say.heading("Notes")
    for note in diagnosis.notes:
        say(f"- {note}", 2, hang=2)
    say()
    say(f"Compared with the models of collection {diagnosis.reference}.", style="dim")


def gain_line(gain: Any) -> list[str]:
    """Return an expected gain as a line of characters and its labels.

    >>> from mdtree_jax.diagnosis.action import Gain
    >>> print("\\n".join(line[:40].rstrip() for line in gain_line(Gain(2.0, -1.0, 4.0, 40))))
    ├─────────┼────────────────────●────────
    −1.0      0                  +2.0
    """
    low, high = min(gain.low, 0.0), max(gain.high, 0.0)
    span = (high - low) or 1.0
    at = {key: round((_LINE - 1) * (v - low) / span) for key, v in
          (("low", gain.low), ("zero", 0.0), ("mean", gain.mean), ("high", gain.high))}  # fmt: skip
    line = ["─" if at["low"] <= i <= at["high"] else "·" for i in range(_LINE)]
    line[at["low"]], line[at["high"]] = "├", "┤"
    line[at["zero"]] = "┼"
    line[at["mean"]] = "●"
    labels = [" "] * (_LINE + 6)
    # Whoever comes first keeps its place; a label that would touch another is left out: the text has the numbers.
    for key, text in (("zero", "0"), ("mean", points(gain.mean)), ("low", points(gain.low)),
                      ("high", points(gain.high))):  # fmt: skip
        start = max(0, at[key] - len(text) // 2)
        if all(c == " " for c in labels[max(0, start - 2) : start + len(text) + 2]):
            labels[start : start + len(text)] = text
    return ["".join(line), "".join(labels).rstrip()]


def _bar(share: float) -> str:
    return f"{'█' * round(_BAR * share):<{_BAR}}"


def _plain(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(text, style=style)
