"""The three diagnostic questions: what each asks, its classes, and where its label stands.

"temperature" is the noise of the optimizer: a smaller batch, a larger learning rate or fewer epochs is a higher
temperature. The published labels "small" and "large" speak of temperature, so "small" means a batch that is too LARGE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from mdtree_jax.checks import UserError, check_choice

OPTIMAL = "optimal"

#: Published label -> ours; understood on input.
PUBLISHED_LABELS = {
    "small": "temperature_too_low",
    "large": "temperature_too_high",
    "width": "size",
    "batch": "temperature",
}


class Task(NamedTuple):
    """One question.

    `classes` are in the order of the published labels ('large' < 'small', 'batch' < 'width', 'batch' < 'data'), which
    decides ties of the baselines; `min_width` is the smallest width that takes part, as published.
    """

    name: str
    label: str
    classes: tuple[str, str]
    question: str
    min_width: int | None = None


TASKS = {
    task.name: task
    for task in (
        Task(
            "optimizer",
            "label_optimizer",
            ("temperature_too_high", "temperature_too_low"),
            "Is the optimizer's temperature too low (batch too large) or too high (batch too small)?",
        ),
        Task(
            "size",
            "label_size",
            ("temperature", "size"),
            "Does a wider network gain more than a better batch size?",
        ),
        Task(
            "data",
            "label_data",
            ("temperature", "data"),
            "Does more data gain more than a better batch size?",
            min_width=32,
        ),
    )
}


#: Widths that a task with a smallest width looks at on a grid that is narrower throughout: as many as published.
_NUM_WIDE = 5


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


def task_rows(frame: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the rows that take part in a task: no 'optimal' label, no width below the task's smallest.

    Raises:
        UserError: none is left.
    """
    keep = (frame[task.label] != OPTIMAL) & (frame["width"] >= smallest_width(task, frame["width"]))
    if not keep.any():
        raise UserError(f"{_collection(frame)} has no row for task '{task.name}': every label is 'optimal'")
    return frame[keep]


def _collection(frame: pd.DataFrame) -> str:
    return f"collection '{frame.attrs.get('name', 'DataFrame')}'"
