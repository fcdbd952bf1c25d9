"""All evidence on a subject beside its landscape: what a preflight finds, history, norms, experiments. JAX.

`beside_of` reads what a user gives; `findings_of` runs the preflight; `outlook_from` gathers the rest and asks the
model of gains.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.tree_util import tree_leaves_with_path

from mdtree_jax.checks import UserError
from mdtree_jax.collection.history import as_history
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.findings import Finding
from mdtree_jax.diagnosis.outlook import Outlook, outlook_of, with_experiments
from mdtree_jax.diagnosis.result import Diagnosis
from mdtree_jax.registry.objectives import find_objective
from mdtree_jax.subject.adapted import same_networks
from mdtree_jax.subject.experiments.gather import Gathered, gather
from mdtree_jax.subject.experiments.plan import Plan, of_evidence, plan_experiments
from mdtree_jax.subject.experiments.spending import Spending, spending_of
from mdtree_jax.subject.frameworks.base import leaf_name
from mdtree_jax.subject.network import Examples, Subject
from mdtree_jax.subject.preflight import preflight
from mdtree_jax.training import objective_functions

History = str | os.PathLike | pd.DataFrame | Mapping[str, Any]
_SEED = 0
#: Most that the last loss of a history and the measured one differ, ln: the first is often a mean over an epoch.
_SAME_LOSS = math.log(1.5)


class Beside(NamedTuple):
    """What a user gives beside networks, data and settings.

    Attributes:
        histories: of each network; None where there is none.
        initial: variables that each network started from, in our form; None where they are not known.
        spending: what experiments may cost.
    """

    histories: tuple[pd.DataFrame | None, ...]
    initial: tuple[Any, ...] | None
    spending: Spending


def histories_of(history: History | Sequence[History] | None, number: int) -> tuple[pd.DataFrame | None, ...]:
    """Return the histories of `number` networks; a single one is of the first.

    Raises:
        UserError: as `as_history`, and for another number of histories than of networks.
    """
    if history is None:
        return (None,) * number
    listed: list[Any] = list(history) if isinstance(history, (list, tuple)) else [history]
    if len(listed) not in (1, number):
        raise UserError(f"there are {len(listed)} histories of {number} networks; give one of each")
    found = [as_history(one) for one in listed]
    return (*found, *[None] * (number - len(found)))


def beside_of(
    subject: Subject, training: Training, history: Any, cost: float | str | None, initial: tuple[Any, ...] | None
) -> Beside:
    """Return what a user gives, checked; raises `UserError` as `histories_of` and `spending_of`."""
    number = len(subject.variables)
    if initial is not None and len(initial) != number:
        raise UserError(f"initial= holds {len(initial)} networks, and there are {number}; give one for each, in order")
    for place, (start, own) in enumerate(zip(initial or (), subject.variables, strict=False), 1):
        _check_same_shapes(place, start["params"], own["params"])
    return Beside(histories_of(history, number), initial, spending_of(cost, training))


def _check_same_shapes(place: int, start: Any, own: Any) -> None:
    """Raise `UserError`, which names the first that differs, for parameters that a network cannot have started from."""
    shapes = [{leaf_name(path): np.shape(leaf) for path, leaf in tree_leaves_with_path(tree)} for tree in (start, own)]
    for name in {**shapes[1], **shapes[0]}:
        there, now = (one.get(name, "none") for one in shapes)
        if there != now:
            raise UserError(
                f"initial= network {place} is no network that number {place} started from: '{name}' has shape {there}, "
                f"and {now} after training"
            )


def without_copies(subject: Subject, beside: Beside) -> tuple[Subject, Beside]:
    """Return a subject without networks that are the same as an earlier one, and what is given of the others."""
    again = {j - 1 for _, j in same_networks(subject)}
    if not again:
        return subject, beside

    def kept(items: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(item for place, item in enumerate(items) if place not in again)

    initial = None if beside.initial is None else kept(beside.initial)
    beside = beside._replace(histories=kept(beside.histories), initial=initial)
    return subject._replace(variables=kept(subject.variables)), beside


def findings_of(subject: Subject, data: Examples, training: Training, beside: Beside) -> tuple[Finding, ...]:
    """Return what the preflight finds of a subject; raises `UserError` for what it refuses."""
    objective = find_objective(subject.objective)
    known = training.with_length(len(data.y_train)).known
    fresh = None if subject.init is None else subject.init(jax.random.key(_SEED))
    return tuple(
        preflight(
            lambda variables, x: subject.model.apply(variables, x, False)[0],
            subject.variables,
            data.x_train,
            data.y_train,
            wants=objective.outputs,
            loss=objective_functions(subject.objective).loss,
            apply_train=_apply_train(subject),
            initial=beside.initial,
            fresh=fresh,
            validation=of_evidence(data),
            histories=beside.histories if any(one is not None for one in beside.histories) else None,
            training={name: value for name, value in known.items() if isinstance(value, (int, float, str))},
        )
    )


def _apply_train(subject: Subject) -> Callable[..., tuple[Any, Any]] | None:
    apply_train = subject.apply_train
    if apply_train is None:
        return None

    def apply(variables: Any, x: Any) -> tuple[Any, Any]:
        outputs, state = apply_train(variables, x, None)
        return outputs, {**variables, "batch_stats": state}

    return apply


def planned(subject: Subject, data: Examples, training: Training, beside: Beside, max_images: int) -> Plan:
    """Return the experiments that will be run of a subject; raises `UserError` as `plan_experiments`."""
    spending, initial = beside.spending, beside.initial
    return plan_experiments(subject, data, training, spending=spending, initial=initial, max_images=max_images)


def outlook_from(
    plan: Plan, beside: Beside, measured: Mapping[str, float], **options: Any
) -> tuple[Outlook | None, Gathered]:
    """Return the outlook of a subject, None without held-out data, and the evidence that was gathered for it.

    Args:
        plan: of experiments.
        beside: what else is given.
        measured: columns of the landscape.
        options: of `gather`.
    """
    gathered = gather(plan, histories=beside.histories, known=measured, **options)
    row = {**measured, **gathered.row}
    outlook = outlook_of(
        row, possible=gathered.possible, raced=gathered.raced, cost=gathered.cost, spent=gathered.spent
    )
    if outlook is None:
        return None, gathered
    return with_experiments(outlook, gathered.probes), gathered


def is_confirmed(histories: Sequence[pd.DataFrame | None], row: Mapping[str, float]) -> bool:
    """Return whether a history ends with the loss that was measured, within a factor: data and network belong together.

    Args:
        histories: of each network; None where there is none.
        row: with `train_loss` or `validation_loss`.
    """
    for history in histories:
        for name in ("train_loss", "validation_loss"):
            known = np.array([]) if history is None or name not in history else history[name].dropna().to_numpy(float)
            measured = row.get(name, math.nan)
            if len(known) and known[-1] > 0 and measured > 0:
                return bool(abs(math.log(known[-1] / measured)) < _SAME_LOSS)
    return False


def with_more_cost(diagnosis: Diagnosis, seconds: float, compile_seconds: float) -> Diagnosis:
    """Return a diagnosis whose cost has further seconds in it."""
    cost = diagnosis.cost
    assert cost is not None  # it was measured
    more = {"diagnosis_seconds": seconds, "compile_seconds": compile_seconds}
    changed = {name: (getattr(cost, name) or 0.0) + value for name, value in more.items()}
    return replace(diagnosis, cost=replace(cost, **changed))
