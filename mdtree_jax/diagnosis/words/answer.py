"""A diagnosis in the terminal: the same facts as in the report, in the same order, readable without colours."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mdtree_jax.diagnosis.words import actions, by_class, causes, costs, evidence, outlook, references
from mdtree_jax.diagnosis.words.formats import NOT_KNOWN, capital, percent, points

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from mdtree_jax.diagnosis.outlook import Outlook
    from mdtree_jax.diagnosis.result import Diagnosis

_BAR, _LINE, _TRACK = 36, 52, 30
#: Marks of the terms of an error budget, in their order.
_MARKS = "░▒█▓▚"


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
    if diagnosis.landscape is not None:
        _print_outlook(say, diagnosis, cost)
    else:
        say(causes.answer(diagnosis), style="bold")
        say(causes.sureness(diagnosis))
        if causes.errors_line(diagnosis):
            say(f"{causes.errors_line(diagnosis)}.")
        _print_findings(say, diagnosis)
        _print_advice(say, diagnosis, cost)
        say.heading("Probabilities")
        _print_probabilities(say, diagnosis.ranking)
        if causes.ranking_note(diagnosis):
            say(causes.ranking_note(diagnosis), 2)
        say(references.track_record(diagnosis), 2)
    say.heading("What the diagnosis cost")
    if outlook.spent(diagnosis):
        say(outlook.spent(diagnosis), 2)
    say(costs.sentence(cost), 2)
    for what, time, work in costs.rows(cost):
        say(f"{what:<28} {time:>10}" + (f"  {work:>13}" if work not in (time, "") else ""), 2)
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
    if actions.why(action) and not outlook.has_faults(diagnosis):  # else it stands among the findings
        say(actions.why(action), 2)
    if diagnosis.outlook is not None:
        _print_moves(say, diagnosis, diagnosis.outlook)
    elif diagnosis.expected_gain:
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


def _print_outlook(say: _Printer, diagnosis: Diagnosis, cost: Mapping[str, Any] | None) -> None:
    """Print findings, error budget, moves, cause and questions."""
    say(f"{outlook.headline(diagnosis)}.", style="bold")
    if causes.errors_line(diagnosis):
        say(f"{causes.errors_line(diagnosis)}.")
    _print_findings(say, diagnosis)
    found = diagnosis.outlook
    if found is not None:
        say.heading("Error budget")
        say(_budget_bar([term.points for term in outlook.terms(found)]), 2)
        for mark, row in zip(_MARKS, outlook.budget_rows(found), strict=False):
            joined = f", {row.joined}" if row.joined else ""
            interval = f" (95 % interval {row.interval})" if row.interval != NOT_KNOWN else ""
            say(f"{mark} {row.points:>6}  {row.name}{joined}{interval}", 2, hang=10)
        say(outlook.budget_note(found), 2)
    if diagnosis.by_class:
        say.heading("Errors by class")
        for label, error, examples in by_class.rows(diagnosis):
            say(f"{label:>4}  {error}, {examples} examples", 2)
        say(by_class.note(diagnosis), 2)
    _print_advice(say, diagnosis, cost)
    say.heading("The cause")
    say(outlook.cause(diagnosis), 2)
    if outlook.other_causes(diagnosis):
        say(outlook.other_causes(diagnosis), 2)
    _print_probabilities(say, diagnosis.ranking)
    if found is not None and found.answers:
        say.heading("Question by question")
        for row in outlook.answer_rows(found):
            say(f"{row.question} {capital(row.answer)}.", 2, hang=2)


def _print_moves(say: _Printer, diagnosis: Diagnosis, found: Outlook) -> None:
    if outlook.expected(diagnosis):
        say(outlook.expected(diagnosis), 2)
    if found.moves:
        say()
    for line in move_lines(found.moves):
        say(line, 2)
    notes = (outlook.moves_note(diagnosis, found) if found.moves else "", outlook.race(found))
    for note in (*notes, outlook.improved(diagnosis)):
        if note:
            say(note, 2)


def _print_findings(say: _Printer, diagnosis: Diagnosis) -> None:
    told = outlook.findings(diagnosis)
    if told:
        say.heading("Found in the network")
    for seen, change in told:
        say(f"- {seen}{f' {change}' if change else ''}", 2, hang=2)


def _print_probabilities(say: _Printer, ranking: Mapping[str, float]) -> None:
    wide = max(17, *(len(causes.short(cause)) for cause in ranking))
    for cause, probability in ranking.items():
        say(f"{causes.short(cause):<{wide}} {_bar(probability)} {percent(probability):>6}", 2)


def _print_technical(say: _Printer, diagnosis: Diagnosis) -> None:
    if outlook.witness(diagnosis):
        say.heading("What the loss landscape says")
        say(outlook.witness(diagnosis), 2)
        say(references.track_record(diagnosis), 2)
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


def _budget_bar(terms: Sequence[float]) -> str:
    """Return the error budget as one bar of characters, a mark each; what is negative follows in brackets.

    >>> _budget_bar([-2.0, 10.0, 5.0])[30:]
    '▒▒▒▒▒█████████████████ (− ░░░░░░░)'
    """
    largest = sum(value for value in terms if value > 0) or 1.0
    size = [round(_LINE * abs(value) / largest) for value in terms]
    bar = "".join(mark * n for mark, n, value in zip(_MARKS, size, terms, strict=False) if value > 0)
    less = "".join(mark * n for mark, n, value in zip(_MARKS, size, terms, strict=False) if value < 0)
    return f"{bar} (− {less})" if less else bar


def move_lines(moves: Sequence[Any]) -> list[str]:
    """Return the moves as lines of characters on one axis: name, interval with the expected gain, the numbers."""
    ends = [0.0, *(value for move in moves for value in (move.low, move.high, move.gain))]
    low, span = min(ends), (max(ends) - min(ends)) or 1.0
    wide = max(len(outlook.change(move.remedy)) for move in moves)

    def at(value: float) -> int:
        return round((_TRACK - 1) * (value - low) / span)

    lines = []
    for move in moves:
        track = ["─" if at(move.low) <= place <= at(move.high) else "·" for place in range(_TRACK)]
        track[at(0.0)], track[at(move.gain)] = "┼", "●"
        gain = f"{points(move.gain)} ({points(move.low)} to {points(move.high)})"
        lines.append(f"{outlook.change(move.remedy):<{wide}} {''.join(track)} {gain}")
    return lines


def _bar(share: float) -> str:
    return f"{'█' * round(_BAR * share):<{_BAR}}"


def _plain(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(text, style=style)
