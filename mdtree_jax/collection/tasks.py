"""The diagnostic questions as tasks of a collection: which rows take part, and where the label stands.

The questions themselves are entries of `mdtree_jax.registry.questions`; a task is one of them, by the same name.

"temperature" is the noise of the optimizer: a smaller batch, a larger learning rate or fewer epochs is a higher
temperature.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.registry.questions import QUESTIONS, Question

OPTIMAL = "optimal"

Task = Question
#: Name -> question; questions that are registered later appear in it.
TASKS = QUESTIONS

#: Widths that a task with a smallest width looks at on a grid that is narrower throughout: as many as published.
_NUM_WIDE = 5


def default_tasks() -> list[str]:
    """Return the names of the tasks that take part where none are named: those of the paper."""
    return [task.name for task in TASKS.values() if task.is_published]


def brought_labels() -> list[str]:
    """Return the label columns that do not follow from a grid: a collection brings them."""
    return [task.label for task in TASKS.values() if not task.is_compared]


def smallest_width(task: Task, widths: Iterable[float]) -> float:
    """Return the smallest width that takes part in a task on a grid of these widths; 0 where the task keeps all.

    It is the task's own (32 for `data`: the five widest of the published grid); on a grid whose widest network is
    narrower, the fifth widest.
    """
    if task.min_width is None:
        return 0
    ordered = sorted(set(widths))
    return task.min_width if ordered[-1] >= task.min_width else ordered[-_NUM_WIDE:][0]


def get_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        UserError: no such task; the message lists them.
    """
    return TASKS[check_choice("task", name, TASKS)]


def check_label(frame: pd.DataFrame, task: Task) -> None:
    """Raise `UserError` if a collection has no label of a task."""
    if task.label not in frame:
        why = "its grid varies no setting that the label depends on" if task.is_compared else "the table must bring it"
        raise UserError(f"{_collection(frame)} has no column '{task.label}', the label of task '{task.name}': {why}")


def takes_part(frame: pd.DataFrame, task: Task) -> pd.Series:
    """Return which rows take part in a task, (rows,) bool: no 'optimal' label, no width below the task's smallest.

    Raises:
        UserError: the collection has no label of this task.
    """
    check_label(frame, task)
    keep = frame[task.label] != OPTIMAL
    if task.min_width is not None and "width" in frame:
        keep &= frame["width"] >= smallest_width(task, frame["width"])
    return keep


def task_rows(frame: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the rows that take part in a task.

    Raises:
        UserError: as `takes_part`, or none is left.
    """
    keep = takes_part(frame, task)
    if not keep.any():
        raise UserError(f"{_collection(frame)} has no row for task '{task.name}': every label is 'optimal'")
    return frame[keep]


def _collection(frame: pd.DataFrame) -> str:
    return f"collection '{frame.attrs.get('name', 'DataFrame')}'"
