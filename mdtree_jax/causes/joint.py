"""The joint model: what each remedy would gain, and so which cause a model suffers from, with probabilities.

It uses only what a practitioner can measure on a trained model and its training data (`METRICS`). It does not use the
test error, nor the sizes of the model and of the data, which mean something only within one data set.

**What it learns.** Not the cause itself but the gains behind it (`mdtree_jax.causes.labels.gains`), one for each cause
that the collection can identify (four in a classic collection): gains of 5.1 points from data and 4.9 from width say
more than the label 'data'. Gains g enter as asinh(g), centred and scaled for each cause.

**How.** Gaussian-process regression with one kernel for all causes. Let z be the transformed and standardised metrics
(`SCALES`), and v the votes of the member trees of the three published questions (share of threshold settings that vote
for the second class of the task, `mdtree_jax.trees.robust`). Then

    k(a, b) = w exp(-r²/2 l²) + (1 - w) exp(-r²/2 L²),      r² = |z_a - z_b|² + c² |v_a - v_b|².

The votes of the trees transfer to other collections better than distances between metrics alone. The noise of each gain
is scaled by its leave-one-out residuals.

**Probabilities.** With independent Gaussian predictions of the transformed gains, P(cause k) is the probability that
gain k is the largest and at least `LEAST_GAIN`; P(none) is the probability that no gain reaches `LEAST_GAIN`. Both are
one-dimensional integrals, computed on a fixed grid. A share of `DOUBT` is spread evenly over the causes.

Missing metrics: the model is refitted without them, and without the trees that use them (`fit_joint(columns=...)`).

How it was chosen: the kind of model and its constants were chosen by cross-validation over blocks of the grid of F (see
sweeps/joint.md); F' was evaluated once, at the end. The member trees had been chosen earlier, using F'
(sweeps/robust.md). NumPy and SciPy only.
Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2 and 5.4.2.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import ndtr, ndtri

from mdtree_jax.causes.labels import CAUSES, LEAST_GAIN
from mdtree_jax.checks import UserError
from mdtree_jax.collection.columns import feature_values, sources
from mdtree_jax.collection.tasks import TASKS, Task
from mdtree_jax.registry.measurement_type import Scale
from mdtree_jax.registry.measurements import MEASUREMENTS, needs_of
from mdtree_jax.registry.views import ListView, MappingView
from mdtree_jax.trees import robust
from mdtree_jax.trees.members import MEMBERS, ONE_CHECKPOINT

#: Metric -> how it enters the kernel; a measurement with a scale that is registered later takes part in later fits.
SCALES: Mapping[str, Scale] = MappingView(
    lambda: {m.name: m.scale for m in MEASUREMENTS.values() if m.scale is not None}, MEASUREMENTS
)
METRICS: Sequence[str] = ListView(lambda: [*SCALES], MEASUREMENTS)
#: Columns of a table from which the metrics are computed, in the order in which they are requested.
COLUMNS: Sequence[str] = ListView(
    lambda: [*dict.fromkeys(source for name in METRICS for source in sources(name))], MEASUREMENTS
)
#: Those that need two networks of one configuration.
PAIR_COLUMNS: Sequence[str] = ListView(lambda: [c for c in COLUMNS if "pair" in needs_of(c)], MEASUREMENTS)
#: Metrics that a diagnosis shows but does not use; the test error is shown separately.
SHOWN: Sequence[str] = ListView(
    lambda: [
        m.name
        for m in MEASUREMENTS.values()
        if m.is_shown and not m.is_derived and m.name not in {*COLUMNS, "test_error"}
    ],
    MEASUREMENTS,
)
#: Share of the probability that is spread evenly, and least spread of the noise of a transformed gain: a knob that
#: gained the same in all of a sample (nothing, at an edge of the grid) is not known to gain that elsewhere.
DOUBT, LEAST_SPREAD = 0.01, 0.1


class Kernel(NamedTuple):
    """Constants of the kernel: two lengths, the share of the first, weight of the trees' verdicts, noise variance."""

    short: float = 1.0
    long: float = 4.0
    share: float = 0.3
    vote: float = 1.0
    noise: float = 0.1

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return k(a, b), (rows of a, rows of b), of features that `_embed` returns."""
        long = a @ b.T  # worked on in place: large tables are slow
        long *= 2.0
        long -= (a**2).sum(axis=1)[:, None]
        long -= (b**2).sum(axis=1)[None, :]
        np.minimum(long, 0.0, out=long)
        long *= 0.5 / self.long**2
        if self.share == 0:
            return np.exp(long, out=long)
        ratio = (self.long / self.short) ** 2
        if ratio == 16:  # exp(16 x) by four squarings is quicker than a second exp
            np.exp(long, out=long)
            short = long * long
            for _ in range(3):
                short *= short
        else:
            short = np.exp(long * ratio)
            np.exp(long, out=long)
        short *= self.share
        long *= 1 - self.share
        long += short
        return long


DEFAULT = Kernel()


class JointModel(NamedTuple):
    """A fitted joint model; `metrics` are the features in use, `members` the posteriors of their trees by task.

    `centre`, `scale` (metrics,) standardise; `rows` (n, features) are the training rows in the kernel's features;
    `factor` is the Cholesky factor of K + noise, `precision` (n,) the diagonal of its inverse, `weights` (n, gains)
    turn k(x, rows) into standardised gains; `mean`, `sd`, `residual` (gains,) are centre and scale of the transformed
    gains and the scale of their noise.
    """

    metrics: tuple[str, ...]
    members: dict[str, tuple[robust.TreePosterior, ...]]
    centre: np.ndarray
    scale: np.ndarray
    rows: np.ndarray
    factor: np.ndarray
    precision: np.ndarray
    weights: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    residual: np.ndarray
    kernel: Kernel

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table that the model asks for."""
        return tuple(dict.fromkeys(source for name in self.metrics for source in sources(name)))


def metrics_of(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics that can be computed from the columns of a table."""
    return tuple(name for name in METRICS if set(sources(name)) <= set(columns))


def fit_joint(
    frame: pd.DataFrame, gained: np.ndarray, columns: Sequence[str] = COLUMNS, kernel: Kernel = DEFAULT
) -> JointModel:
    """Return the joint model of the rows of a collection.

    Args:
        frame: rows of a collection with metrics (finite) and the labels of the three tasks.
        gained: (rows, gains) gain of each remedy, in points (`labels.gains`); rows with a NaN are left out.
        columns: the columns that the model may use; it uses every metric that can be computed from them.
        kernel: its constants.

    Raises:
        UserError: no metric can be computed from `columns`, or no row is left.
    """
    metrics = metrics_of(columns)
    if not metrics:
        raise UserError(
            f"the joint model needs at least one of {', '.join(METRICS)}; none can be computed from {list(columns)}"
        )
    keep = np.all(np.isfinite(gained), axis=1)
    if not keep.any():
        raise UserError(
            "the joint model needs at least one row whose grid neighbours are all in the collection; there is none"
        )
    frame, gained = frame[keep], gained[keep]
    values = scaled(frame, metrics)
    spread = np.array([SCALES[name].spread for name in metrics])
    # A narrow sample must not blow small differences up: its spread is shrunk towards the typical one.
    centre, scale = values.mean(axis=0), values.std(axis=0) + 0.3 * spread
    members = _fit_members(frame, metrics)
    rows = embed(frame, metrics, members, centre, scale, kernel)
    factor = cho_factor(kernel(rows, rows) + kernel.noise * np.eye(len(rows)), lower=True)[0]
    inverse = solve_triangular(factor, np.eye(len(rows)), lower=True)
    precision = (inverse**2).sum(axis=0)
    weights = _weights(factor, precision, gained)
    return JointModel(metrics, members, centre, scale, rows, factor, precision, *weights, kernel)


def refit(model: JointModel, gained: np.ndarray) -> JointModel:
    """Return the joint model of the same rows with other gains, at a fraction of the cost of `fit_joint`.

    Args:
        model: whose rows they are; all rows that it was given had finite gains.
        gained: (rows, gains), finite.
    """
    weights, mean, sd, residual = _weights(model.factor, model.precision, gained)
    return model._replace(weights=weights, mean=mean, sd=sd, residual=residual)


def _weights(
    factor: np.ndarray, precision: np.ndarray, gained: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the fields `weights`, `mean`, `sd`, `residual` of a model."""
    target = np.arcsinh(gained)
    mean, sd = target.mean(axis=0), target.std(axis=0) + 1e-6
    weights = cho_solve((factor, True), (target - mean) / sd)
    # Leave-one-out residual = weight / precision, in units of its own standard deviation.
    residual = np.sqrt((weights**2 / precision[:, None]).mean(axis=0))
    return weights, mean, sd, np.maximum(residual, LEAST_SPREAD / sd)


def gain_posterior(model: JointModel, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the transformed gains asinh(g), both (rows, gains)."""
    return gain_posteriors((model,), frame)[0]


def gain_posteriors(models: Sequence[JointModel], frame: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what `gain_posterior` does for models that differ only in their gains (`refit`), computed together."""
    model = models[0]
    rows = embed(frame, model.metrics, model.members, model.centre, model.scale, model.kernel)
    similar = model.kernel(rows, model.rows)
    known = solve_triangular(model.factor, similar.T, lower=True, check_finite=False)
    variance = np.maximum(1.0 - (known**2).sum(axis=0), 0.0) + model.kernel.noise
    spread = np.sqrt(variance)[:, None]
    return [(similar @ m.weights * m.sd + m.mean, spread * m.residual * m.sd) for m in models]


def gain_means(models: Sequence[JointModel], frame: pd.DataFrame) -> list[np.ndarray]:
    """Return the means of `gain_posteriors` alone, each (rows, gains), at a fraction of the cost."""
    model = models[0]
    rows = embed(frame, model.metrics, model.members, model.centre, model.scale, model.kernel)
    weights = np.concatenate([m.weights for m in models], axis=1)
    parts = [model.kernel(rows[i : i + 256], model.rows) @ weights for i in range(0, len(rows), 256)]
    means = np.split(np.concatenate(parts), len(models), axis=1)
    return [part * m.sd + m.mean for part, m in zip(means, models, strict=True)]


def left_out_means(model: JointModel) -> np.ndarray:
    """Return the leave-one-out predictions for the rows of the model, (n, gains).

    As `gain_means`; Rasmussen and Williams, equation 5.12. The trees' verdicts and the standardisation stay those of
    all rows.
    """
    target = model.kernel(model.rows, model.rows) @ model.weights + model.kernel.noise * model.weights
    return (target - model.weights / model.precision[:, None]) * model.sd + model.mean


def predict_joint(model: JointModel, frame: pd.DataFrame) -> np.ndarray:
    """Return the probability of each cause, (rows, gains + 1), columns as those of the gains, `none` last."""
    return cause_probabilities(*gain_posterior(model, frame))


def task_probabilities(
    mean: np.ndarray, sd: np.ndarray, task: Task, causes: Sequence[str] = CAUSES
) -> np.ndarray | None:
    """Return P(each class of a question), (rows, 2), columns as `task.classes`: which group has the largest gain.

    None if the collection cannot identify any cause of one of the classes.

    Args:
        mean, sd: (rows, gains) as `gain_posterior` returns them for a model of the label `room`.
        task: the question whose groups of causes are compared: for `optimizer`, a smaller and a larger batch; for
            `size` and `data`, the better of these and a wider network or more data.
        causes: what the columns stand for, `none` last.
    """
    first, second = ([causes.index(name) for name in group if name in causes] for group in task.groups)
    if not first or not second:
        return None
    if len(first) == len(second) == 1:
        (a,), (b,) = first, second
        share = ndtr((mean[:, b] - mean[:, a]) / np.hypot(sd[:, b], sd[:, a]))
    else:
        share = np.sum([_largest(mean, sd, one, [i for i in (*first, *second) if i != one]) for one in second], axis=0)
    share = DOUBT + (1 - 2 * DOUBT) * share
    return np.stack([1 - share, share], axis=1)


def _largest(mean: np.ndarray, sd: np.ndarray, one: int, others: Sequence[int]) -> np.ndarray:
    """Return P(a variable is larger than all of the others), (rows,).

    It is the mean over equally likely values of the one of the chance that the others stay below it.
    """
    values = mean[:, one, None] + sd[:, one, None] * ndtri((np.arange(64) + 0.5) / 64)
    below = [ndtr((values - mean[:, i, None]) / sd[:, i, None]) for i in others]
    return functools.reduce(np.multiply, below).mean(axis=1)


def cause_probabilities(mean: np.ndarray, sd: np.ndarray, threshold: float = np.arcsinh(LEAST_GAIN)) -> np.ndarray:
    """Return P(each is the largest and above the threshold), and last P(none is above it), (rows, gains + 1).

    Args:
        mean, sd: (rows, gains) of independent normal variables.
        threshold: on their scale.

    >>> cause_probabilities(np.array([[9.0, 0, 0, 0]]), np.ones((1, 4))).round(2).tolist()
    [[0.99, 0.0, 0.0, 0.0, 0.0]]
    """
    top = np.maximum((mean + 5 * sd).max(axis=1), threshold + 1e-3)
    share = (np.arange(64) + 0.5) / 64
    points = threshold + (top - threshold)[:, None] * share
    z = (points[:, None, :] - mean[:, :, None]) / sd[:, :, None]
    below = np.maximum(ndtr(z), 1e-300)
    density = np.exp(-0.5 * z**2) / sd[:, :, None]
    win = (density * below.prod(axis=1, keepdims=True) / below).sum(axis=2)
    win *= ((top - threshold) / 64 / np.sqrt(2 * np.pi))[:, None]
    none = ndtr((threshold - mean) / sd).prod(axis=1)
    out = np.concatenate([win, none[:, None]], axis=1)
    return (1 - DOUBT) * out / out.sum(axis=1, keepdims=True) + DOUBT / out.shape[1]


def scaled(frame: pd.DataFrame, metrics: Sequence[str]) -> np.ndarray:
    """Return metrics on the scales of `SCALES`, (rows, metrics)."""
    values = feature_values(frame, metrics)
    return np.stack([SCALES[name].to_scale(values[:, i]) for i, name in enumerate(metrics)], axis=1)


def _fit_members(frame: pd.DataFrame, metrics: Sequence[str]) -> dict[str, tuple[robust.TreePosterior, ...]]:
    """Return the posteriors of every task's trees whose features are available; all widths are used.

    The tree for one checkpoint votes only if no other tree of its task can be used. Questions that are not from the
    paper are ignored: registering one must not change an answer about the causes.
    """
    fitted = {}
    for task in (task for task in TASKS.values() if task.is_published and task.label in frame):
        trees = [tree for tree in MEMBERS[task.name] if set(tree.features) <= set(metrics)]
        alone = ONE_CHECKPOINT[task.name]
        trees = trees or [alone] * (set(alone.features) <= set(metrics))
        clear = frame[task.label].isin(task.classes).to_numpy()
        if not trees or not clear.any():
            continue
        rows = frame[clear]
        y = np.array([trees[0].classes.index(name) for name in rows[task.label]])
        fitted[task.name] = robust.fit_members(trees, [feature_values(rows, tree.features) for tree in trees], y)
    return fitted


def embed(frame: pd.DataFrame, metrics, members, centre, scale, kernel: Kernel) -> np.ndarray:
    """Return the kernel's features, (rows, metrics + trees): what the distance between two models is taken in."""
    parts = [(scaled(frame, metrics) - centre) / scale]
    values = dict(zip(metrics, feature_values(frame, metrics).T, strict=True))
    for name, trees in members.items():
        second = TASKS[name].classes[1]
        for tree in trees:
            X = np.stack([values[feature] for feature in tree.structure.features], axis=1)
            share = robust.verdict_shares(tree, X)[:, tree.structure.classes.index(second)]
            parts.append(kernel.vote * share[:, None])
    return np.concatenate(parts, axis=1)


def question_probabilities(tree: np.ndarray, room: np.ndarray | None) -> np.ndarray:
    """Return the probabilities of a question's classes from those of trees and joint model, of any shape.

    Those of the trees alone where the question `compares` no gains, `room` None.
    """
    return tree if room is None else (tree + room) / 2
