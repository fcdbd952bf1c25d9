"""The diagnostic questions as tasks of a collection: which rows are used, and which column holds the label.

The questions are entries of `mdtree_jax.registry.questions`; a task is a question, under the same name.

Temperature is the noise of the optimizer: a smaller batch, a larger learning rate or fewer epochs give a higher
temperature.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.questions import QUESTIONS, Question

OPTIMAL = "optimal"

Task = Question
#: Name -> question; questions that are registered later appear in it.
TASKS = QUESTIONS

#: Number of widths that a task with a smallest width uses on a narrower grid: as many as published, for up to twice as
#: many widths as published; for more widths, the same share of them (in a random search, every row has its own width).
_NUM_WIDE, _OF = 5, 13


def default_tasks() -> list[str]:
    """Return the names of the default tasks: those of the paper."""
    return [task.name for task in TASKS.values() if task.is_published]


def brought_labels() -> list[str]:
    """Return the label columns that are not computed from a grid, but must be in the collection."""
    return [task.label for task in TASKS.values() if not task.is_compared]


def smallest_width(task: Task, widths: Iterable[float]) -> float:
    """Return the smallest width that a task uses on a grid of these widths; 0 if it uses all.

    It is the task's own (32 for `data`: the five widest of the published grid); on a grid whose widest network is
    narrower, the fifth widest.
    """
    ordered = sorted(set(widths))
    if task.min_width is None or not ordered:
        return 0
    number = _NUM_WIDE if len(ordered) <= 2 * _OF else len(ordered) * _NUM_WIDE // _OF
    return task.min_width if ordered[-1] >= task.min_width else ordered[-number:][0]


def get_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        UserError: no such task; the message lists them.
    """
    return TASKS[check_choice("task", name, TASKS)]


def takes_part(frame: pd.DataFrame, task: Task) -> np.ndarray:
    """Return the mask of the rows that a task uses: wide enough, with a label other than 'optimal', (rows,) bool."""
    keep = frame[task.label].notna() & (frame[task.label] != OPTIMAL)
    if "width" in frame:
        keep &= frame["width"] >= smallest_width(task, frame["width"])
    return keep.to_numpy()


def why_not_asked(frame: pd.DataFrame, task: Task) -> str:
    """Return why a collection has no label for a task, as a sentence; '' if it has."""
    if task.label in frame and frame[task.label].notna().any():
        return ""
    no_label = f"so it has no label for task '{task.name}'"
    if not task.is_compared:
        return f"{_collection(frame)} has no column '{task.label}', {no_label}"
    lacking = []
    for group in task.groups:
        knobs = [knob.name for knob in KNOBS.values() if {knob.up, knob.down} & set(group)]
        if not any(knob in frame and frame[knob].nunique() > 1 for knob in knobs):
            lacking.append(" or ".join(knobs))
    why = f"does not vary {' and not '.join(lacking)}" if lacking else "has no neighbours to compare its rows with"
    return f"{_collection(frame)} {why}, {no_label}"


def check_label(frame: pd.DataFrame, task: Task) -> None:
    """Raise `UserError` if a collection has no label for a task."""
    if why := why_not_asked(frame, task):
        raise UserError(why)


def task_rows(frame: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the rows that a task uses: without 'optimal' labels and widths below the smallest one of the task.

    Raises:
        UserError: no row is left, or the collection has no label for the task.
    """
    check_label(frame, task)
    keep = takes_part(frame, task)
    if not keep.any():
        raise UserError(f"{_collection(frame)} has no row for task '{task.name}': every label is 'optimal'")
    return frame[keep]


def _collection(frame: pd.DataFrame) -> str:
    return f"collection '{frame.attrs.get('name', 'DataFrame')}'"
