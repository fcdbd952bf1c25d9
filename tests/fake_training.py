"""A trainer that trains nothing and a measurer that measures nothing: numbers that follow from the member alone."""

import types

import numpy as np
import pandas as pd

from mdtree_jax.recipe.axes import Grid, make_cohorts
from mdtree_jax.recipe.cohort import Recipe
from mdtree_jax.runs.run import Measurer, Trainer
from mdtree_jax.store.folder import RunFolder

RECIPE = Recipe("digits", "mlp", num_classes=10, image_shape=(10, 10, 1))
GRID = Grid((2, 4), (16, 32), data_fraction=(0.3, 1.0), learning_rate=(0.05, 0.1), train_epochs=(3,), num_seeds=3)
COHORTS = make_cohorts(GRID, 200)
CONFIG = {"width": [2, 4], "learning_rate": [0.05, 0.1], "num_seeds": 3, "optimizer": "sgd"}
CHOICE = {"name": "map", "chunk": 4}


def run_folder(path, config=CONFIG, cohorts=COHORTS):
    return RunFolder(path, config, {c.key: [(m.index, m.seed) for m in c.members] for c in cohorts})


def train(recipe, cohort, data, *, executor, progress, checkpoint, resume, diverged=()):
    values = np.array([np.random.default_rng([m.index, m.seed]).random(4) for m in cohort.members])
    is_finite = np.array([(m.index, m.seed) not in diverged for m in cohort.members])
    for block in range(3):
        progress((block + 1) / 3, f"epoch {block + 1}")
    metrics = np.where(is_finite[:, None], values, np.nan)
    n = len(cohort.members)
    return types.SimpleNamespace(
        variables={"params": {"w": np.repeat(values[:, :1], cohort.width, 1).astype(np.float32)}, "batch_stats": {}},
        train_error=100 * metrics[:, 0],
        test_error=100 * metrics[:, 1],
        train_loss=metrics[:, 2].astype(np.float32),
        test_loss=metrics[:, 3],
        stop_epoch=np.full(n, 3, np.int32),
        is_finite=is_finite,
        train_seconds=np.random.default_rng().random(n),  # the one thing that differs between runs
        train_flops=np.full(n, 1e6 * cohort.width),
        useful_step_fraction=0.97,
        validation_loss=None,
        validation_error=None,
        history=None,
        num_compilations=1,
        compile_seconds=0.0,
    )


def trainer(train=train, choose=lambda recipe, cohort: dict(CHOICE)):
    return Trainer(choose=choose, train=train, encode=dict, decode=dict)


def measure(recipe, cohort, data, variables, is_finite, *, progress, checkpoint, resume, recorded, record):
    record(recorded or {"choices": {"lanes": 1}})
    members = [m for m, finite in zip(cohort.members, is_finite, strict=True) if finite]
    weights = dict(zip([(m.index, m.seed) for m in cohort.members], variables["params"]["w"][:, 0], strict=True))
    rows = [
        {
            "configuration": m.index,
            "seed": m.seed,
            "hessian_trace": 100 * float(weights[m.index, m.seed]),
            "a_seconds": 1.0,
        }
        for m in members
    ]
    frame = pd.DataFrame({"configuration": [m.index for m in cohort.members], "seed": [m.seed for m in cohort.members]})
    pairs = [
        {"configuration": a.index, "seed_a": a.seed, "seed_b": b.seed, "cka": np.exp(-a.seed - b.seed)}
        for a in members
        for b in members
        if a.index == b.index and a.seed < b.seed
    ]
    layers = [{**row, "layer": "w"} for row in rows]
    for block in range(3):
        progress((block + 1) / 3, f"chunk {block + 1}")
    return types.SimpleNamespace(
        members=frame.merge(pd.DataFrame(rows), "left", on=["configuration", "seed"]),
        pairs=pd.DataFrame(pairs),
        layers=pd.DataFrame(layers)[["configuration", "seed", "layer", "hessian_trace"]],
        choices={},
        num_compilations=1,
        compile_seconds=0.0,
    )


def measurer(measure=measure, config=None):
    return Measurer(config=config or {"metrics": ["hessian"], "seed": 0}, measure=measure)
