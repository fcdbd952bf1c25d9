"""When to say "I can't tell": rules that look at how a model lies among the reference, and at its answers.

A diagnosis abstains if one of these holds; the reason is one sentence:

- **range**: a metric lies beyond the smallest or largest value of the reference by more than `MARGIN` of its spread
  between them, on the metric's scale in the joint model;
- **density**: no reference model is near: the distance to the `NEIGHBOUR`-th nearest one is more than `FAR` times the
  99 % quantile of that distance among the reference's own models, each measured to models of other (data, width) cells;
- **weak**: the first cause has a probability below `WEAK`, so that it is more likely wrong than right;
- **disagreement**: the tree average of the published question behind the first cause contradicts it with a probability
  of `CONTRADICTION` or more;
- **missing**: the metrics that are there suffice for none of the trees (of a reference that has any).

While one of the questions can be asked missing metrics are no reason: the answer then comes from a model without them,
and says so. The constants are round numbers, not tuned on anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.collection.grid import cells_of
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.registry.measurements import label

MARGIN = 0.05
NEIGHBOUR, FAR = 5, 1.5
WEAK = 0.5
CONTRADICTION = 0.8
#: A logarithm of a trace or eigenvalue beyond this is more likely one that was not taken.
NO_LOGARITHM = 20.0
#: Cause -> (question, the class that contradicts it).
CONTRADICTED_BY = {
    "temperature_too_low": ("optimizer", "temperature_too_high"),
    "temperature_too_high": ("optimizer", "temperature_too_low"),
    "model_too_small": ("size", "temperature"),
    "too_little_data": ("data", "temperature"),
}


def outside_reference(reference: Reference, frame: pd.DataFrame, model: joint.JointModel) -> list[str]:
    """Return for each row why it lies outside the reference, by range or density, '' where it does not."""
    values = joint.scaled(frame, model.metrics)
    known = joint.scaled(reference.models, model.metrics)
    low, high = known.min(axis=0), known.max(axis=0)
    margin = MARGIN * (high - low)
    beyond = (values < low - margin) | (values > high + margin)
    centre, scale = model.centre, model.scale
    distance = _nearest((values - centre) / scale, (known - centre) / scale)
    limit = _typical_distance(reference, (known - centre) / scale, model.metrics)
    reasons = []
    for row, far in enumerate(distance > FAR * limit):
        names = [model.metrics[i] for i in np.flatnonzero(beyond[row])]
        if names:
            shown = listed([label(name) for name in names])
            verb = "lies" if len(names) == 1 else "lie"
            reason = f"its {shown} {verb} outside what the reference collection '{reference.name}' has"
            logs = [n for n in names if n.startswith("log_hessian") and frame[n].iloc[row] > NO_LOGARITHM]
            if logs:
                value = frame[logs[0]].iloc[row]
                reason += f"; '{logs[0]}' is a natural logarithm, and {value:g} looks as if it were not"
            reasons.append(reason)
        elif far:
            reasons.append(f"the reference collection '{reference.name}' has no model with such a mixture of metrics")
        else:
            reasons.append("")
    return reasons


def too_few_metrics(reference: Reference, have: Sequence[str], questions: Mapping) -> str:
    """Return why the metrics that are there do not suffice, '' if they do.

    Args:
        reference: what is compared with.
        have: columns that are there.
        questions: the published questions that could be asked with them, by name.
    """
    if questions or not any(reference.tree(task) for task in TASKS):
        return ""
    missing = [f"'{name}'" for name in reference.columns if name not in have]
    return f"none of the trees can be asked without more metrics; not given are {', '.join(missing)}"


def weak_or_contradicted(cause: str, probability: float, trees: dict[str, dict[str, float]]) -> str:
    """Return why the answers do not suffice, '' if they do.

    Args:
        cause, probability: the first of the ranking.
        trees: task -> class -> probability, of the tree averages.
    """
    if cause in CONTRADICTED_BY:
        task, other = CONTRADICTED_BY[cause]
        against = trees.get(task, {}).get(other, 0.0)
        if against >= CONTRADICTION:
            return (
                f"the evidence disagrees: the joint model says {cause} ({probability:.0%}), the tree of the question "
                f"'{task}' says {other} ({against:.0%})"
            )
    if probability < WEAK:
        # Never rounded up to what would suffice.
        shown = f"{probability:.0%}" if probability < WEAK - 0.005 else f"{np.floor(1000 * probability) / 10:.1f}%"
        return f"no cause is likely enough: the first, {cause}, has a probability of {shown}"
    return ""


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _nearest(a: np.ndarray, b: np.ndarray, forbidden: np.ndarray | None = None) -> np.ndarray:
    """Return the distance of each row of a to its NEIGHBOUR-th nearest row of b, pairs in `forbidden` left out."""
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * a @ b.T
    if forbidden is not None:
        squared = np.where(forbidden, np.inf, squared)
    k = min(NEIGHBOUR, b.shape[0]) - 1
    return np.sqrt(np.maximum(np.partition(squared, k, axis=1)[:, k], 0.0))


def _typical_distance(reference: Reference, known: np.ndarray, metrics: tuple[str, ...]) -> float:
    """Return the 99 % quantile of the distance to the NEIGHBOUR-th nearest model of another cell."""
    key = ("distance", metrics)
    if key not in reference.cache:
        cell = cells_of(reference.models)
        distance = _nearest(known, known, cell[:, None] == cell[None, :])
        finite = distance[np.isfinite(distance)]
        reference.cache[key] = float(np.quantile(finite, 0.99)) if len(finite) else np.inf
    return reference.cache[key]
