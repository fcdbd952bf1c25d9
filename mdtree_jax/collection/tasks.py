"""The three diagnostic questions: what each asks, its classes, and where its label stands.

"temperature" is the noise of the optimizer: a smaller batch, a larger learning rate or fewer epochs is a higher
temperature. The published labels "small" and "large" speak of temperature, so "small" means a batch that is too LARGE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.registry.knobs import KNOBS

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
    decides ties of the baselines; `groups` are the causes that each class stands for: the class with the larger room
    for improvement, over the moves that mend one of its causes, is the label. `min_width` is the smallest width that
    takes part, as published.
    """

    name: str
    label: str
    classes: tuple[str, str]
    groups: tuple[tuple[str, ...], tuple[str, ...]]
    question: str
    min_width: int | None = None


_TEMPERATURE = ("temperature_too_low", "temperature_too_high")

TASKS = {
    task.name: task
    for task in (
        Task(
            "optimizer",
            "label_optimizer",
            ("temperature_too_high", "temperature_too_low"),
            (("temperature_too_high",), ("temperature_too_low",)),
            "Is the optimizer's temperature too low (batch too large) or too high (batch too small)?",
        ),
        Task(
            "size",
            "label_size",
            ("temperature", "size"),
            (_TEMPERATURE, ("model_too_small",)),
            "Does a wider network gain more than a better batch size?",
        ),
        Task(
            "data",
            "label_data",
            ("temperature", "data"),
            (_TEMPERATURE, ("too_little_data",)),
            "Does more data gain more than a better batch size?",
            min_width=32,
        ),
    )
}


#: Widths that a task with a smallest width looks at on a grid that is narrower throughout: as many as published, of up
#: to twice as many widths as published; the same share of more (a random search has as many as rows).
_NUM_WIDE, _OF = 5, 13


def smallest_width(task: Task, widths: Iterable[float]) -> float:
    """Return the smallest width that takes part in a task on a grid of these widths; 0 where the task keeps all.

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
    """Mark the rows that take part in a task: a label that is not 'optimal', and wide enough, (rows,) bool."""
    keep = frame[task.label].notna() & (frame[task.label] != OPTIMAL)
    if "width" in frame:
        keep &= frame["width"] >= smallest_width(task, frame["width"])
    return keep.to_numpy()


def why_not_asked(frame: pd.DataFrame, task: Task) -> str:
    """Return why a collection has no label for a task, as a sentence; '' if it has."""
    if frame[task.label].notna().any():
        return ""
    lacking = []
    for group in task.groups:
        knobs = [knob.name for knob in KNOBS.values() if {knob.up, knob.down} & set(group)]
        if not any(knob in frame and frame[knob].nunique() > 1 for knob in knobs):
            lacking.append(" or ".join(knobs))
    why = f"does not vary {' and not '.join(lacking)}" if lacking else "has no neighbours to compare its rows with"
    return f"{_collection(frame)} {why}, so task '{task.name}' has no label in it"


def task_rows(frame: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the rows that take part in a task: no 'optimal' label, no width below the task's smallest.

    Raises:
        UserError: none is left, or the collection has no label for the task.
    """
    if why := why_not_asked(frame, task):
        raise UserError(why)
    keep = takes_part(frame, task)
    if not keep.any():
        raise UserError(f"{_collection(frame)} has no row for task '{task.name}': every label is 'optimal'")
    return frame[keep]


def _collection(frame: pd.DataFrame) -> str:
    return f"collection '{frame.attrs.get('name', 'DataFrame')}'"
