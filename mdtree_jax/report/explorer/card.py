"""One configuration of a collection as a card for a notebook: its place, main numbers, labels and best moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.collection.grid import make_grid
from mdtree_jax.collection.moves import noted_axes
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.diagnosis.words.card import html_card
from mdtree_jax.diagnosis.words.formats import number
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.registry.questions import answer_words
from mdtree_jax.report.planes import axis_name

_NUMBERS = ("test_error", "train_error", "train_loss", "log_hessian_trace", "mode_connectivity", "cka")


@dataclass(frozen=True)
class Card:
    """A configuration in a few lines: `title`, and pairs of a name and a text; notebooks show it as a small table."""

    title: str
    lines: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Return the card as text."""
        width = max((len(name) for name, _ in self.lines), default=0)
        return "\n".join([self.title, *(f"  {name:{width}}  {text}" for name, text in self.lines)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_card(self.title, self.lines)


def card(table: pd.DataFrame, row: int) -> Card:
    """Return one configuration of a collection as a card.

    Args:
        table: as `load_collection` returns it.
        row: its place in the table, from 0.

    Raises:
        UserError: there is no such row.
    """
    if isinstance(row, bool) or not isinstance(row, (int, np.integer)) or not 0 <= row < len(table):
        raise UserError(f"row={row!r}: the table has the rows 0 to {len(table) - 1}")
    one, grid = table.iloc[row], make_grid(table, allow_missing=True)
    title = ", ".join(f"{axis_name(axis)} {_value(one[axis])}" for axis in noted_axes(table))
    lines = []
    for name in (name for name in _NUMBERS if name in table):
        error, unit = one.get(f"{name}_se", np.nan), MEASUREMENTS[name].unit
        text = number(float(one[name]), float(error) if np.isfinite(error) else None)
        lines.append((MEASUREMENTS[name].label, f"{text} {'' if unit == '1' else unit}".strip()))
    for task in (task for task in TASKS.values() if task.label in table and isinstance(one[task.label], str)):
        lines.append((task.title, answer_words(task.name, str(one[task.label]))))
    for move in grid.moves:
        best = grid.best_ahead(move)[row]
        if np.isfinite(best):
            words = KNOBS[move.knob].words
            way = f"{words.noun}, {words.up if move.sign > 0 else words.down}"
            lines.append((way, f"{grid.test_error[row] - best:+.2f} points at the best configuration ahead"))
    return Card(title, tuple(lines))


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float, np.number)) else str(value)
