"""The best network that the probes ended with, if it is surely better than the given one. JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mdtree_jax.causes.repaired import SURE_BY
from mdtree_jax.diagnosis.improved import Improved
from mdtree_jax.probes.run import order_of
from mdtree_jax.registry.probes import CHECKPOINT, REFRESHED
from mdtree_jax.subject.experiments.probing import Seen
from mdtree_jax.subject.frameworks.base import named_leaves
from mdtree_jax.subject.network import Subject


class _Candidate(NamedTuple):
    """A network: the given one that it was made from, by which probe, the change of its error and its spread."""

    place: int
    name: str
    change: float
    spread: float


def improved_of(subject: Subject, seen: Sequence[Seen], probes: Sequence[str], can_refresh: bool) -> Improved | None:
    """Return the network with the least validation error among those that are surely better than the given ones.

    The first of the given ones where none is; None where there is nothing to compare.

    Args:
        subject: its networks.
        seen: of each that experiments were run from.
        probes: that were run.
        can_refresh: whether there are running averages that were recomputed.
    """
    order = order_of(probes)
    names = [name for name in order if name != CHECKPOINT and (name != REFRESHED or can_refresh)]
    if not names or f"{CHECKPOINT}_validation_error" not in seen[0].row:
        return None
    found = []
    for place, one in enumerate(seen):
        for name in names:
            difference = 100 * (one.errors[order.index(name)] - one.errors[order.index(CHECKPOINT)])
            spread = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.inf
            if difference.mean() < -SURE_BY * spread:
                found.append(_Candidate(place, name, float(difference.mean()), float(spread)))
    given = _Candidate(0, CHECKPOINT, 0.0, 0.0)
    best = min(found, key=lambda one: seen[one.place].row[f"{one.name}_validation_error"], default=given)
    return _as_given(subject, seen[best.place], order, best)


def _as_given(subject: Subject, seen: Seen, order: Sequence[str], best: _Candidate) -> Improved:
    variables: Any = jax.tree.map(lambda leaf: np.asarray(leaf[order.index(best.name)]), seen.variables)
    network = subject.given_form(variables) if subject.given_form is not None else variables
    errors = {}
    for side in ("validation", "test"):
        before, after = (seen.row.get(f"{name}_{side}_error", float("nan")) for name in (CHECKPOINT, best.name))
        errors[f"{side}_error"] = (before, after)
    return Improved(
        best.name,
        best.place + 1,
        network,
        **errors,
        change=best.change,
        standard_error=best.spread,
        arrays={name: np.asarray(array) for name, array in named_leaves(network).items()},
    )
