"""When to say "I can't tell": rules on the position of a model among the reference models, and on its answers.

A diagnosis abstains if one of these holds; the reason is a fact (`mdtree_jax.diagnosis.facts`):

- **range**: a metric lies outside the range of the reference by more than `MARGIN` times the width of that range, on
  the metric's scale in the joint model;
- **density**: no reference model is near: the distance to the `NEIGHBOUR`-th nearest one is more than `FAR` times the
  99 % quantile of that distance among the reference's own models, each measured to models of other cells (combinations
  of all axes except the temperature knobs);
- **weak**: the first cause has a probability below `WEAK`, so that it is more likely wrong than right;
- **disagreement**: the tree average of the question behind the first cause contradicts it with a probability
  of `CONTRADICTION` or more;
- **missing**: no tree of the reference can be used with the available metrics.

If at least one question can be answered, missing metrics are no reason to abstain: the answer then comes from a model
fitted without them, and says so. The constants are round numbers and were not tuned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.causes.opposition import opposition
from mdtree_jax.collection.grid import cells_of
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.reference import Reference

MARGIN = 0.05
NEIGHBOUR, FAR = 5, 1.5
WEAK = 0.5
CONTRADICTION = 0.8
#: A log trace or log eigenvalue beyond this was probably given without taking the logarithm.
NO_LOGARITHM = 20.0


def outside_reference(reference: Reference, frame: pd.DataFrame, model: joint.JointModel) -> list[Fact | None]:
    """Return for each row why it lies outside the reference, by range or density, or None."""
    values = joint.scaled(frame, model.metrics)
    known = joint.scaled(reference.models, model.metrics)
    low, high = known.min(axis=0), known.max(axis=0)
    margin = MARGIN * (high - low)
    beyond = (values < low - margin) | (values > high + margin)
    centre, scale = model.centre, model.scale
    distance = _nearest((values - centre) / scale, (known - centre) / scale)
    limit = _typical_distance(reference, (known - centre) / scale, model.metrics)
    reasons: list[Fact | None] = []
    for row, far in enumerate(distance > FAR * limit):
        names = [model.metrics[i] for i in np.flatnonzero(beyond[row])]
        if names:
            logs = [n for n in names if n.startswith("log_hessian") and frame[n].iloc[row] > NO_LOGARITHM]
            suspects = {name: float(frame[name].iloc[row]) for name in logs}
            reasons.append(fact("out_of_range", metrics=names, reference=reference.name, suspects=suspects))
        else:
            reasons.append(fact("unlike_any", reference=reference.name) if far else None)
    return reasons


def too_few_metrics(reference: Reference, have: Sequence[str], questions: Mapping) -> Fact | None:
    """Return why the available metrics do not suffice, None if they do.

    Args:
        reference: the reference.
        have: the available columns.
        questions: the published questions that can be answered with them, by name.
    """
    if questions or not any(reference.tree(task) for task in TASKS):
        return None
    return fact("too_few_metrics", missing=[name for name in reference.columns if name not in have])


def weak_or_contradicted(cause: str, probability: float, trees: Mapping[str, Mapping[str, float]]) -> Fact | None:
    """Return why the answers do not suffice, None if they do.

    Args:
        cause, probability: the first of the ranking.
        trees: task -> class -> probability, of the tree averages.
    """
    against = opposition(cause, trees)
    if against is not None and against.probability >= CONTRADICTION:
        values = {"question": against.question, "answer": against.answer, "against": against.probability}
        return fact("contradicted", cause=cause, probability=probability, **values)
    if probability >= WEAK:
        return None
    return fact("unlikely", cause=cause, probability=probability, least=WEAK)


def _nearest(a: np.ndarray, b: np.ndarray, forbidden: np.ndarray | None = None) -> np.ndarray:
    """Return the distance of each row of a to its NEIGHBOUR-th nearest row of b, ignoring `forbidden` pairs."""
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
