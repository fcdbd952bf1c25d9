"""Findings about inputs and targets as data. NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from mdtree_jax.registry.findings import FINDINGS
from mdtree_jax.subject.preflight.evidence import Evidence
from mdtree_jax.subject.preflight.seen import Seen, ramp, root_mean_square
from mdtree_jax.subject.preflight.task import predicted

NEIGHBOURS = 5
#: Inputs with more numbers than this an example are not compared with each other.
MOST_COLUMNS = 50_000
#: Last points of a history that must be the same for a training that runs in a circle.
_ENDED = 4


def inputs_unscaled(evidence: Evidence) -> Seen | None:
    """Return columns whose scales differ by orders of magnitude, or numbers far above 1.

    An initialization expects a root mean square of 1: pre-activations are as large as it. A factor of 10 is common in
    healthy data; orders of magnitude are counted from there.
    """
    best = None
    for leaf in leaves_of(evidence.inputs):
        is_bytes = leaf.dtype == np.uint8
        if not (np.issubdtype(leaf.dtype, np.floating) or is_bytes) or leaf.ndim < 2:
            continue
        size = root_mean_square(leaf)
        low, high = _deviations(leaf)
        strength = ramp(np.log10(high / low), 2.0, 3.0)
        if sum(leaf.ndim > 1 for leaf in evidence.params.values()) > 1:  # a linear model has no units to drive too far
            strength = max(strength, ramp(np.log10(max(size, 1e-30)), 1.0, 2.0))
        first = _first_layer(evidence)
        if first is not None:
            # A normalization within the network, or columns that its first layer scales: no harm is left.
            strength *= ramp(first, 1.5, 5.0)
        values = {"root_mean_square": size, "smallest_deviation": low, "largest_deviation": high, "first_layer": first}
        if best is None or strength > best.strength:
            best = Seen(strength, values)
    return best


def leaves_of(tree: Any) -> list[np.ndarray]:
    """Return the arrays of a pytree of mappings and sequences."""
    if isinstance(tree, Mapping):
        return [leaf for key in sorted(tree) for leaf in leaves_of(tree[key])]
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in leaves_of(part)]
    return [] if tree is None else [np.asarray(tree)]


def _deviations(leaf: np.ndarray) -> tuple[float, float]:
    """Return the least and largest standard deviation of the columns of a table; of images, that of all numbers.

    Constant, two-valued and sparse columns have no scale that tells something.
    """
    if leaf.ndim > 2:
        deviation = float(leaf.std()) or 1.0
        return deviation, deviation
    columns = [c for c in leaf.T.astype(np.float64) if len(np.unique(c)) > 2 and np.mean(c != c[0]) > 0.2]
    found = [float(c.std()) for c in columns if c.std() > 0 and np.mean(c == np.median(c)) < 0.5]
    return (min(found), max(found)) if found else (1.0, 1.0)


def _first_layer(evidence: Evidence) -> float | None:
    """Return the root mean square of what the first ReLU layer gives out where it is not 0; None if not known."""
    first = next(iter(evidence.units or ()), None)
    return None if first is None or first.function != "relu" or not np.isfinite(first.size) else first.size


def labels_unrelated(evidence: Evidence) -> Seen | None:
    """Return targets that neither neighbours nor the network can predict, or that fit once shifted by a row.

    Neighbours alone find no relation in hard tasks (parity), so that the network's own held-out error must agree.
    """
    found = _neighbours(evidence.inputs)
    if found is None or len(evidence.targets) != len(found) or evidence.chance <= 0:
        return None
    error, spread = _neighbour_error(evidence, found, evidence.targets)
    chance = evidence.chance
    shifted = {by: _neighbour_error(evidence, found, targets)[0] for by, targets in evidence.shifted.items()}
    by = min(shifted, key=lambda k: shifted[k])
    values = {"neighbour_error": error, "chance": chance, "shift": by, "shifted_error": shifted[by]}
    if error - shifted[by] > 4 * spread and shifted[by] < 0.8 * chance:
        return Seen(ramp((error - shifted[by]) / chance, 0.0, 0.4), values)
    values |= {"shift": None, "shifted_error": None}
    held_out = evidence.validation_error
    if error < chance - 3 * spread or held_out is None:
        return None
    return Seen(0.9 * ramp(held_out / chance, 0.8, 1.0), values)


def _neighbours(inputs: Any) -> np.ndarray | None:
    """Return the nearest other examples of each, (n, NEIGHBOURS), by standardized numbers; None for other inputs."""
    leaves = leaves_of(inputs)
    if not leaves or any(np.issubdtype(leaf.dtype, np.integer) and leaf.dtype != np.uint8 for leaf in leaves):
        return None
    flat = np.concatenate([leaf.reshape(len(leaf), -1).astype(np.float64) for leaf in leaves], 1)
    if flat.shape[1] > MOST_COLUMNS or len(flat) < 4 * NEIGHBOURS:
        return None
    deviation = flat.std(0)
    # Of images all pixels have one scale, and the rarely lit ones of the border would drown the others.
    scale = float(flat.std()) if leaves[0].ndim > 2 or flat.shape[1] > 50 else deviation
    flat = (flat - flat.mean(0)) / np.where(np.asarray(scale) > 0, scale, 1)
    distance = cdist(flat, flat)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, 1, kind="stable")[:, :NEIGHBOURS]


def _neighbour_error(evidence: Evidence, found: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Return the error of the neighbours' vote or mean in %, and its standard error."""
    if evidence.task == "values":
        residual = 100 * np.mean((targets[found].mean(1) - targets) ** 2 / max(targets.var(0).mean(), 1e-30), 1)
        return float(residual.mean()), float(residual.std() / np.sqrt(len(residual)))
    if evidence.task == "classes":
        votes = np.stack([(targets[found] == label).sum(1) for label in range(targets.max() + 1)], 1)
        wrong = (votes.argmax(1) != targets).astype(float)
    else:
        wrong = ((targets[found].mean(1) > 0.5) != (targets > 0.5)).mean(1)
    return float(100 * wrong.mean()), float(100 * max(wrong.std(), 0.1) / np.sqrt(len(wrong)))


def labels_relabelled(evidence: Evidence) -> Seen | None:
    """Return predictions that fit after a one-to-one renaming of the classes."""
    if evidence.task == "values" or evidence.outputs.shape[1] > 2000:
        return None
    best = None
    sides: Sequence[tuple[str, Any]] = (
        ("training", (evidence.targets, evidence.outputs)),
        ("held-out", evidence.validation),
    )
    for side, arrays in sides:
        if arrays is None or evidence.chance <= 0:
            continue
        targets, outputs = arrays
        labels = targets if evidence.task == "classes" else (targets[:, 0] > 0.5).astype(int)
        said = predicted(evidence.task, evidence.wants, outputs)
        said = said if evidence.task == "classes" else said[:, 0].astype(int)
        size = int(max(labels.max(), said.max())) + 1
        confusion = np.zeros((size, size))
        np.add.at(confusion, (said, labels), 1)
        renamed = 100 * (1 - confusion[linear_sum_assignment(-confusion)].sum() / len(labels))
        error = 100 * (1 - np.trace(confusion) / len(labels))
        if error - renamed >= 30 and renamed < 0.5 * evidence.chance:
            seen = Seen(ramp(error - renamed, 15, 45), {"side": side, "error": error, "renamed_error": renamed})
            best = seen if best is None or seen.strength > best.strength else best
    return best


def unshuffled(evidence: Evidence) -> Seen | None:
    """Return examples sorted by label of which the last are learned and the first forgotten, or none is learned.

    Sorted data alone are no fault: most trainings shuffle them.
    """
    if evidence.task == "values" or len(evidence.targets) < 40:
        return None
    labels = evidence.targets if evidence.task == "classes" else (evidence.targets[:, 0] > 0.5).astype(int)
    shares = np.bincount(labels) / len(labels)
    expected = (1 - np.sum(shares**2)) * (len(labels) - 1)
    if expected <= 0 or np.sum(labels[1:] != labels[:-1]) > 0.1 * expected:
        return None
    said = predicted(evidence.task, evidence.wants, evidence.outputs)
    wrong = said != labels if evidence.task == "classes" else said[:, 0] != labels
    last = np.arange(len(labels)) >= len(labels) * (1 - 1.5 / np.sum(shares > 0))
    first_error, last_error = 100 * float(wrong[~last].mean()), 100 * float(wrong[last].mean())
    strength = ramp((first_error - last_error) / max(evidence.chance, 1e-9), 0.1, 0.4)
    learned_nothing = ramp(evidence.train_error / max(evidence.chance, 1e-9), 0.7, 0.9)
    strength = max(strength, (0.95 if _repeats(evidence) else 0.6) * learned_nothing)
    if (shuffle := evidence.setting("shuffle")) is not None:
        strength = 0.0 if shuffle else max(strength, 0.9)
    return Seen(strength, {"error_first": first_error, "error_last": last_error})


def _repeats(evidence: Evidence) -> bool:
    """Return whether the training loss ended the same from epoch to epoch though its gradient is not 0.

    Batches that come in another order each time leave another loss each time; the same order runs in a circle.
    """
    history, gradient = evidence.history, evidence.gradient
    if history is None or "train_loss" not in history or gradient is None:
        return False
    losses = history["train_loss"].dropna().to_numpy(np.float64)[-_ENDED:]
    if len(losses) < _ENDED or not np.ptp(losses) <= 1e-6 * abs(losses[-1]):
        return False
    size = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in gradient.values()))
    return bool(size > 1e-3 * abs(losses[-1]))


for _function in (inputs_unscaled, labels_unrelated, labels_relabelled, unshuffled):
    FINDINGS.bind(_function.__name__, find=_function)
