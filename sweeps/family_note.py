"""The note of a family's record: its recipe, where its best learning rate lies, and what every move gains."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from mdtree_jax import load_collection
from mdtree_jax.report.tables import markdown
from mdtree_jax.store.record import Record
from sweeps.record import cost_section, made_by

#: Axes of a family's grid, in the order of its rows.
AXES = ("width", "batch_size", "data_fraction", "learning_rate", "train_epochs")
#: A move is a step to the next value of an axis: name -> axis, direction.
MOVES = {
    "wider": ("width", 1),
    "larger batch": ("batch_size", 1),
    "smaller batch": ("batch_size", -1),
    "more data": ("data_fraction", 1),
    "higher rate": ("learning_rate", 1),
    "lower rate": ("learning_rate", -1),
    "longer": ("train_epochs", 1),
}


def errors_by_axes(collection: pd.DataFrame) -> np.ndarray:
    """Return the test errors of a complete grid, an axis for each of `AXES`, values ascending.

    >>> frame = pd.DataFrame([dict.fromkeys(AXES, 1) | {"width": w, "test_error": 10 / w} for w in (2, 1)])
    >>> errors_by_axes(frame).ravel().tolist()
    [10.0, 5.0]
    """
    shape = [collection[axis].nunique() for axis in AXES]
    if len(collection) != math.prod(shape):
        raise ValueError(f"{len(collection)} rows are no complete grid of {shape}")
    return collection.sort_values(list(AXES))["test_error"].to_numpy(float).reshape(shape)


def gains(errors: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each move gains at every configuration, in points; NaN where it leads out of the grid."""
    found = {}
    for name, (axis, sign) in MOVES.items():
        place = AXES.index(axis)
        after = np.full_like(errors, np.nan)
        here, there = [slice(None)] * errors.ndim, [slice(None)] * errors.ndim
        here[place], there[place] = (slice(None, -1), slice(1, None)) if sign > 0 else (slice(1, None), slice(None, -1))
        after[tuple(here)] = errors[tuple(there)]
        found[name] = errors - after
    return found


def share_inside(errors: np.ndarray) -> float:
    """Return the share of the slices along the learning rate whose best one is neither the lowest nor the highest."""
    best = np.nan_to_num(errors, nan=np.inf).argmin(AXES.index("learning_rate"))
    return float(((best > 0) & (best < errors.shape[AXES.index("learning_rate")] - 1)).mean())


def note(record: Record) -> str:
    """Return the lab note of a family's record."""
    collection = load_collection(record.collection, allow_missing=True)
    errors = errors_by_axes(collection)
    found = gains(errors)
    every = np.stack(list(found.values()))
    best = np.where(np.isnan(every), -np.inf, every)
    rows = []
    for place, (name, gain) in enumerate(found.items()):
        there = gain[np.isfinite(gain)]
        is_best = (best.argmax(0) == place) & (best.max(0) > 0)
        rows.append([name, str(len(there)), f"{there.mean():.2f}", f"{100 * is_best.mean():.0f}"])
    nothing = 100 * (best.max(0) <= 0).mean()
    shape = " x ".join(map(str, errors.shape))
    return "\n".join(
        [
            f"# Record of `{record.name}`",
            "",
            f"`python -m sweeps.families {record.name}`; {made_by(record)}.",
            "",
            f"{shape} = {errors.size} configurations of {', '.join(AXES)}, "
            f"{len(record.networks) / errors.size:g} networks each; test error {np.nanmin(errors):.1f} to "
            f"{np.nanmax(errors):.1f} %. The best learning rate lies inside the axis in "
            f"{100 * share_inside(errors):.0f} % of the slices.",
            "",
            "Gains in test error, points, of the means over the seeds. *best*: share of all configurations at which "
            f"the move gains most of those there are; at {nothing:.0f} % none gains.",
            "",
            markdown(["move", "configurations", "mean gain", "best, %"], rows),
            "",
            *cost_section(record, len(collection)),
            "",
        ]
    )
