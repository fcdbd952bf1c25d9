"""Scalars of TensorBoard event files as rows of a log. The package tensorboard is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdtree_jax.checks import UserError


def read_events(path: Path) -> tuple[list[Mapping[str, Any]], bool | None]:
    """Return the scalars in an event file, or in those of a folder and its folders: one row for each value.

    A row is `{"step": …, tag: value}`, the tag behind the folder's name. Keras writes epochs, from 0, as steps.

    Returns:
        The rows, and whether epochs count from 0, None where that is not known.

    Raises:
        UserError: no event files, tensorboard is not installed, or a file that it cannot read.
    """
    files = [path] if not path.is_dir() else sorted(file for file in path.rglob("*tfevents*") if file.is_file())
    if not files:
        inside = sorted(one.name for one in path.iterdir())[:8] if path.is_dir() else []
        raise UserError(
            f"history='{path}' is a folder without a log ({', '.join(inside) or 'empty'}); give a file, or a folder "
            "with TensorBoard event files, metrics.csv or trainer_state.json"
        )
    rows: list[Mapping[str, Any]] = []
    of_keras = False
    for file in files:
        folder = file.parent.relative_to(path).as_posix() if path.is_dir() else "."
        before = "" if folder == "." else f"{folder}/"
        for tag, step, value in _scalars(file):
            is_of_keras = tag.startswith("epoch_") and bool(before)
            of_keras |= is_of_keras
            rows.append({"epoch" if is_of_keras else "step": step, before + tag: value})
    return rows, None if of_keras else False


def _scalars(file: Path) -> list[tuple[str, int, float]]:
    """Return tag, step and value of every scalar in a file, of both forms that TensorBoard knows."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise UserError(f"history='{file}' needs the package tensorboard; run pip install tensorboard") from error
    try:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        found = [(tag, e.step, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
        for tag in events.Tags()["tensors"]:
            values = [(event.step, make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
            found += [
                (tag, step, float(value)) for step, value in values if value.size == 1 and value.dtype.kind in "fiu"
            ]
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f"history='{file}' is not an event file of TensorBoard ({type(error).__name__})") from error
    return found
