"""Follow the advice: how much does retraining gain with the knob changed as the diagnosis says?

    python -m sweeps.advice train=digits test=digits out=sweeps/advice_digits.md

A reference is fitted on a small sample of a collection of trained and measured networks (3 x 3 x 3 of its width, batch
and data values, as many as `digits_tiny`), and `NUMBER` other configurations are diagnosed. Each is then "retrained":
the collection contains the configuration to which the advised knob and step lead, with networks trained from their own
random initializations, so the gain is the difference of two measured test errors, with at least three networks each.
The steps are twofold (one doubling) and fourfold; at the end of the grid, the last value is used, and if there is none,
or the advice is to change nothing, the gain is 0. Baselines take the same steps:

- `random`: each of the four changes with equal probability (the mean over them);
- `validation`: a free tree on training and test error and loss, fitted on the same sample to the same causes;
- `commonest`: the most common cause of the sample;
- `oracle`: the best of the four changes, or none.

Results are over `SAMPLES` draws of sample and models, with 95 % intervals of the mean over draws.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from mdtree_jax import diagnose_metrics, fit_reference, load_collection
from mdtree_jax.causes.labels import CAUSES, cause_labels
from mdtree_jax.collection.grid import Grid, make_grid
from mdtree_jax.collection.moves import AXES
from mdtree_jax.files import write_text
from mdtree_jax.registry.causes import NONE
from mdtree_jax.report.statistics import with_interval
from mdtree_jax.report.tables import markdown
from sweeps.provenance import provenance

NUMBER, SAMPLES, SIDE = 100, 20, 3
STEPS = {"x2": 1.0, "x4": 2.0}
VALIDATION = ["train_error", "train_loss", "test_loss", "test_error"]  # the published baseline, order and depth too
METHODS = ("diagnosis", "validation", "commonest", "random", "oracle")
METHODS += tuple(f"{method}, where the diagnosis answers" for method in METHODS)


def gains_of_steps(grid: Grid, doublings: float) -> np.ndarray:
    """Return what each cause's remedy gains at every row, (rows, 5), points; the last column, `none`, is 0."""
    moves = [grid.moves_against(cause)[0] for cause in CAUSES if cause != NONE]
    columns = [np.where(grid.edge(move), 0.0, grid.step_gain(move, doublings)) for move in moves]
    return np.stack([*columns, np.zeros(len(grid.test_error))], axis=1)


def sample_rows(table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Mark the rows of a random SIDE x SIDE x SIDE part of the grid, one value of each third of every axis."""
    chosen = np.ones(len(table), bool)
    for axis in AXES:
        values = np.sort(table[axis].unique())
        picked = [rng.choice(part) for part in np.array_split(values, SIDE)]
        chosen &= table[axis].isin(picked).to_numpy()
    return chosen


def one_draw(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> list[dict]:
    """Return the mean gain of every method and step for one sample and its models."""
    rng = np.random.default_rng(seed)
    part = train[sample_rows(train, rng)].reset_index(drop=True)
    part = load_collection(part[[c for c in part if not c.startswith(("label_", "rfi_"))]])
    if train is test:  # the sample itself is not diagnosed
        keys = set(map(tuple, part[list(AXES)].to_numpy()))
        others = np.array([tuple(row) not in keys for row in test[list(AXES)].to_numpy()])
    else:
        others = np.ones(len(test), bool)
    rows = rng.choice(np.flatnonzero(others), NUMBER, replace=False)
    reference = fit_reference(part, measure=False, name="sample")
    models = test.iloc[rows].reset_index(drop=True)
    diagnoses = diagnose_metrics(models.drop(columns=["test_error"]), reference, "percent", evidence="landscape")
    labels = cause_labels(make_grid(part))
    free = DecisionTreeClassifier(max_depth=4, random_state=seed).fit(part[VALIDATION], labels)
    place = {cause: i for i, cause in enumerate(CAUSES)}
    chosen = {
        "diagnosis": np.array([place[d.cause] for d in diagnoses]),
        "validation": np.array([place[c] for c in free.predict(models[VALIDATION])]),
        "commonest": np.full(NUMBER, place[labels.mode()[0]]),
    }
    answers = np.array([not d.abstains for d in diagnoses])
    grid, found = make_grid(test), []
    for step, doublings in STEPS.items():
        gained = gains_of_steps(grid, doublings)[rows]
        each = {name: gained[np.arange(NUMBER), c] for name, c in chosen.items()}
        each |= {"random": gained[:, : place[NONE]].mean(axis=1), "oracle": gained.max(axis=1)}
        means = {name: values.mean() for name, values in each.items()}
        if answers.any():
            means |= {f"{name}, where the diagnosis answers": values[answers].mean() for name, values in each.items()}
        found += [{"step": step, "method": m, "gain": g, "answers": answers.mean()} for m, g in means.items()]
    return found


def main() -> None:
    """Measure and write."""
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    start = time.perf_counter()
    train = load_collection(options["train"])
    test = train if options.get("test") in (None, options["train"]) else load_collection(options["test"])
    found = pd.DataFrame([row for seed in range(SAMPLES) for row in one_draw(train, test, seed)])
    rows = []
    for method in METHODS:
        cells = []
        for step in STEPS:
            values = found.loc[(found["method"] == method) & (found["step"] == step), "gain"]
            cells.append(with_interval(values.mean(), 1.96 * values.sem(), 2))
        rows.append([method, *cells])
    text = "\n".join(
        [
            "# Gain from following the advice",
            "",
            f"{provenance(start)} "
            f"Mean gain in points of test accuracy over {NUMBER} models, {SAMPLES} draws, with 95 % intervals; the "
            f"diagnosis answers {100 * found['answers'].mean():.0f} % of them; for the others, its first guess is "
            "used.",
            "",
            markdown(["advice", *(f"step {step}" for step in STEPS)], rows),
            "",
        ]
    )
    write_text(Path(options.get("out", "advice.md")), text)
    print(text)


if __name__ == "__main__":
    main()
