"""The diagnosis of a situation, as a user would ask for it: `diagnose_model` with settings, history and cost=0.1."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdtree_jax import diagnose_model
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.result import Diagnosis
from mdtree_jax.registry.objectives import Objective
from tests.faults.hosts import HOSTS
from tests.faults.training import OPTIMIZERS, Situation

COST = 0.1


def objective_of(situation: Situation) -> str | Objective:
    """Return the objective as a user gives it: a name where there is one, else the functions of loss and error."""
    spec, y = situation.spec, situation.data.y_train
    if spec.loss == "cross_entropy":
        return "cross_entropy"
    if spec.wants == "values" and spec.loss == "squared_error":
        return "regression"
    targets = (
        "class" if y.ndim == 1 else "values" if spec.wants == "values" else "labels" if y.shape[1] > 1 else "binary"
    )
    return Objective(spec.loss.replace("_", " "), situation.loss, situation.error, outputs=spec.wants, targets=targets)


def training_of(situation: Situation) -> Training:
    spec = situation.spec
    return Training(
        optimizer=OPTIMIZERS[spec.optimizer](spec.learning_rate, spec.weight_decay),
        learning_rate=spec.learning_rate,
        batch_size=min(spec.batch_size, len(situation.data.x_train)),
        epochs=situation.histories[0]["epoch"].iloc[-1],
        weight_decay=spec.weight_decay,
    )


def diagnose(situation: Situation, framework: str = "", **options: Any) -> Diagnosis:
    """Return the diagnosis of the two networks; running averages need `apply_train`.

    Args:
        situation: that was trained.
        framework: a name of `HOSTS`, as whose models they are given; '' gives the function that was trained.
        options: of `diagnose_model`.
    """
    spec, data = situation.spec, situation.data
    histories: list[pd.DataFrame] = situation.histories
    if spec.net.norm:

        def apply_train(variables, x):
            outputs, changed = spec.net.apply(variables, x, True, mutable=["batch_stats"])
            return outputs, {"params": variables["params"], **changed}

        options = {"apply_train": apply_train, **options}
    model, networks = situation.apply, situation.networks
    if framework:
        model, networks, own = HOSTS[framework](situation)
        options = {**own, **options}
    given = {"objective": objective_of(situation), "training": training_of(situation), "history": histories}
    return diagnose_model(
        model,
        networks,
        data.x_train,
        data.y_train,
        x_test=data.x_test,
        y_test=data.y_test,
        **{**given, "cost": COST, **options},
    )
