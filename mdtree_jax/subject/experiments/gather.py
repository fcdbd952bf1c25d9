"""What a subject's networks say beside their landscape: errors, norms, histories, probes and a race. JAX.

`gather` returns the evidence as a row of columns named as in a sweep's table of networks, from which
`diagnosis.outlook.outlook_of` makes the outlook. Evidence is read on the validation examples; the test examples have no
part in it. The networks given are never changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from mdtree_jax.collection.curve_features import curve_features
from mdtree_jax.collection.learning_curve import VALUES
from mdtree_jax.diagnosis.by_class import ClassError, errors_by_class
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.gain_reference import gain_reference
from mdtree_jax.diagnosis.improved import Improved
from mdtree_jax.diagnosis.outlook import outlook_of
from mdtree_jax.probes.run import applicable
from mdtree_jax.registry.objectives import find_objective
from mdtree_jax.registry.remedies import REMEDIES
from mdtree_jax.subject.experiments.better import improved_of
from mdtree_jax.subject.experiments.plan import Plan
from mdtree_jax.subject.experiments.probing import Seen, price_of
from mdtree_jax.subject.experiments.race import Raced, race
from mdtree_jax.subject.experiments.trained_as import TrainedAs
from mdtree_jax.subject.limits import memory_suffices
from mdtree_jax.subject.network import Examples, Subject
from mdtree_jax.training import chance_error
from mdtree_jax.training.arrays import take_rows
from mdtree_jax.training.loss import chance_loss

#: Targets from which the error and loss of chance are computed.
_CHANCE_ROWS = 4000


class Gathered(NamedTuple):
    """Evidence on the networks of a subject.

    Attributes:
        row: column -> value, the mean over the networks that experiments were run from.
        spent: steps trained, in units of one training.
        cost: what was allowed, in the same unit; of a time, what fitted into it.
        probes: that were run.
        raced: validation error (%) of the racer of each remedy that took part in a race.
        possible: remedies that can be made.
        improved: the best network that was found; None where nothing was compared.
        notes: what was missing, and how that was handled.
        by_class: the held-out error of every class; empty where targets are no classes.
        seconds, compile_seconds: of the wall, compilation apart.
    """

    row: dict[str, float]
    spent: float
    cost: float
    probes: tuple[str, ...]
    raced: dict[str, float]
    possible: tuple[str, ...]
    improved: Improved | None
    notes: list[Fact]
    by_class: tuple[ClassError, ...]
    seconds: float
    compile_seconds: float


def gather(
    plan: Plan,
    *,
    histories: Sequence[pd.DataFrame | None] = (),
    known: Mapping[str, float] | None = None,
    memory_bytes: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Gathered:
    """Return the evidence on a subject's networks.

    Args:
        plan: what is run; its `spending` is spent from.
        histories: of each network; None where there is none.
        known: columns that were measured of the networks elsewhere; they count where remedies are chosen for a race.
        memory_bytes: what a racer may take; None is any.
        progress: called with the fraction done and a message.

    Raises:
        UserError: memory that runs out.
    """
    with memory_suffices("experiments ran", "run fewer experiments, or none (cost=0)"):
        return _gathered(plan, histories, known, memory_bytes, progress or (lambda fraction, message: None))


def _gathered(
    plan: Plan,
    histories: Sequence[pd.DataFrame | None],
    known: Mapping[str, float] | None,
    memory_bytes: int | None,
    progress: Callable[[float, str], None],
) -> Gathered:
    begin = time.perf_counter()
    subject, data, trained, spending = plan.subject, plan.data, plan.trained, plan.spending
    spending.start()
    plan, seen = _probed(plan, progress)
    row = _mean([one.row for one in seen]) | _chance(subject, data)
    row |= _of_histories(histories[: len(seen)], row)
    rate = plan.training.learning_rate
    row |= {} if rate is None else {"learning_rate": float(rate)}
    possible = possible_remedies(trained, data)
    raced, cost = Raced({}, [], 0.0), spending.allowed
    if spending.trains and subject.init is not None:
        outlook = outlook_of({**(known or {}), **row}, possible=possible, cost=cost)
        moves = [move.remedy for move in outlook.moves] if outlook is not None else []
        policy, on = gain_reference().policy(cost), plan.program.on_device
        raced = race(subject, on, trained, moves, policy, spending, memory_bytes, progress)
    progress(1.0, "experiments are done")
    names, compiling = plan.program.names, plan.program.compile_seconds + raced.compile_seconds
    return Gathered(
        row,
        spending.spent,
        cost,
        names,
        raced.errors,
        possible,
        improved_of(subject, seen, names, trained.can_refresh),
        [*plan.notes, *raced.notes],
        _by_class(subject, data, seen),
        time.perf_counter() - begin - compiling,
        compiling,
    )


def possible_remedies(trained: TrainedAs, data: Examples) -> tuple[str, ...]:
    """Return the remedies that can be made: no smoothing without classes, no statistics without BatchNorm."""
    can = applicable(("smooth", "augment"), trained.settings, data.x_train)
    has = {
        "smoothing_on": "smooth" in can and not trained.value("label_smoothing"),
        "augment_on": "augment" in can and not trained.value("augment"),
        "refreshed": trained.can_refresh,
        "decay_down": trained.weight_decay > 0,
    }
    return tuple(name for name in REMEDIES if has.get(name, True))


def _probed(plan: Plan, progress: Callable[[float, str], None]) -> tuple[Plan, list[Seen]]:
    """Return what is seen of the networks, and the plan: within a time, that is shorter if the probes do not fit."""
    spending, names, notes = plan.spending, plan.program.names, list(plan.notes)
    if names and spending.seconds is not None:
        progress(0.0, "pricing experiments")
        plan.program.try_price(plan.states and plan.states[0], spending)
        if price_of(names, plan.trained, plan.states is not None) > spending.left:
            notes.append(fact("time_over", seconds=spending.seconds, left_out=list(names)))
            plan = plan.without_probes()
    if plan.number < len(plan.subject.variables):
        notes.append(fact("networks_probed", number=plan.number, of=len(plan.subject.variables)))
    what = f"experiments ({', '.join(plan.program.names)})" if plan.program.names else "norms and errors"
    seen = []
    for place in range(plan.number):
        progress(spending.done(place / plan.number), f"{what} of network {place + 1} of {plan.number}")
        seen.append(plan.program(place, plan.states and plan.states[place], spending))
    return plan._replace(notes=notes), seen


def _by_class(subject: Subject, data: Examples, seen: Sequence[Seen]) -> tuple[ClassError, ...]:
    """Return the error of every class on the validation examples, which the checkpoint comes first of."""
    labels = data.y_validation
    is_classes = find_objective(subject.objective).targets == "class" and labels.dtype.kind in "iu"  # no soft labels
    if not is_classes or not len(labels):
        return ()
    return errors_by_class(labels, np.stack([one.errors[0] for one in seen]))


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of every column; of standard errors that of a mean of independent ones."""
    found = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], float)
        of_error = name.endswith("_se")
        found[name] = float(np.sqrt(np.sum(values**2)) / len(values) if of_error else values.mean())
    return found


def _chance(subject: Subject, data: Examples) -> dict[str, float]:
    """Return error (%) and loss of the best constant prediction of the training targets."""
    targets = data.y_train[:_CHANCE_ROWS]
    error = chance_error(subject.objective, targets)
    if subject.objective == "cross_entropy" and targets.ndim == 1:  # in closed form: the entropy of the labels
        shares = np.bincount(targets) / len(targets)
        loss = float(-np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
    else:
        few = take_rows(data.x_train, slice(2))
        outputs = jax.eval_shape(lambda v, x: subject.model.apply(v, x, False)[0], subject.variables[0], few)
        loss = chance_loss(subject.objective, targets, outputs.shape[-1] if outputs.ndim > 1 else 1)
    return {"chance_error": 100.0 if error is None else error, "chance_loss": loss}


def _of_histories(histories: Sequence[pd.DataFrame | None], row: Mapping[str, float]) -> dict[str, float]:
    """Return the features of histories, the mean over networks; those that nothing can be said about are left out."""
    chance = {name: row[name] if row[name] > 0 else None for name in ("chance_loss", "chance_error")}
    frames = [one for one in histories if one is not None and set(VALUES[:4]) & set(one.columns) and len(one)]
    if not frames:
        return {}
    features = pd.concat([curve_features(one, **chance) for one in frames], ignore_index=True).mean()
    return {str(name): float(value) for name, value in features.items() if np.isfinite(value)}
