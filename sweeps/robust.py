"""Evaluation of the robust fit: every cell against every baseline, other collections, blocks, calibration, ablation.

    python -m sweeps.robust                 # in a checkout; writes sweeps/robust.md

Expected: about 18 minutes on 2 CPU cores; no cell of F -> F' more than 0.5 points below the best baseline; at least
40 % of the way from the published fit to thresholds tuned on the test side. The seeds are 1000 ... 1049; the members,
bounds and constants of the robust fit were chosen on the seeds 0 ... 199, using F', F' -> F and the blocks. New seeds
do not make a new F', so the results for F -> F' are optimistic.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from mdtree_jax import MDTreeClassifier, load_collection
from mdtree_jax.collection.tasks import TASKS, task_rows
from mdtree_jax.experiments.method_table import METHODS, get_methods, robust_method
from mdtree_jax.experiments.one_step import ONE_STEP_METHODS, OneStepRunner
from mdtree_jax.experiments.runner import EXPERIMENTS, Runner, experiments_of, make_side
from mdtree_jax.files import write_text
from mdtree_jax.parallel import available_cores, ordered_map
from mdtree_jax.report.tables import markdown, method_label
from mdtree_jax.trees.members import MEMBERS, STRUCTURES
from mdtree_jax.trees.robust import Options
from sweeps.provenance import provenance

SEEDS = range(1000, 1050)
RIVALS = (
    "md_tree",
    "md_tree_exact",
    "initial_thresholds",
    "md_tree_similarity",
    "landscape",
    "validation",
    "hyperparameter_validation",
)
#: Accuracy of the published structure with thresholds tuned on F' itself, percent (issue: the target's far end).
TUNED_ON_TEST = {"optimizer": 92.7, "size": 81.6}
UNDISCOUNTED = {"row_weight": 1.0, "most_rows": float("inf")}


def single(task):
    """Return the published structure as the only member."""
    return [STRUCTURES[task.name]]


def everyone(task):
    """Return all members of a task."""
    return list(MEMBERS[task.name])


ABLATION = [
    METHODS["initial_thresholds"],
    METHODS["md_tree"],
    METHODS["md_tree_exact"],
    robust_method(single, Options(bound_in_sigmas=0.0, **UNDISCOUNTED), "a1", "averaging, flat prior, one tree"),
    robust_method(single, Options(**UNDISCOUNTED), "a2", "+ prior"),
    robust_method(single, Options(), "a3", "+ discounted evidence"),
    robust_method(everyone, Options(), "a4", "+ companion trees = robust"),
    robust_method(everyone, Options(bound_in_sigmas=0.0), "a5", "robust with a flat prior"),
    robust_method(everyone, Options(**UNDISCOUNTED), "a6", "robust without discount"),
]


def mean_table(train, test, methods, seeds) -> pd.DataFrame:
    """Return mean accuracy by (experiment, k) and method, percent."""
    runner = Runner(train, test, methods, list(seeds), jobs=available_cores())
    table = runner.run(experiments_of("all"))[0]
    return table.groupby(["experiment", "k", "method"], sort=False).accuracy.mean().unstack(sort=False)


def cell_table(means: pd.DataFrame) -> str:
    """Return every cell: robust, the best rival, who that is, and the difference; misses in bold."""
    rows = []
    for (experiment, k), row in means.iterrows():
        rivals = row[[m for m in RIVALS if m in row]].dropna()
        difference = row.md_tree_robust - rivals.max()
        shown = f"{difference:+.2f}" if difference >= -0.5 else f"**{difference:+.2f}**"
        best = rivals.idxmax()
        rows.append([experiment, k, f"{row.md_tree_robust:.2f}", f"{rivals[best]:.2f}", method_label(best), shown])
    return markdown(["experiment", "k", "robust", "best rival", "which", "difference"], rows)


def summary_table(means: pd.DataFrame, tuned: dict[str, float]) -> str:
    """Return means over k: published, best rival, robust, worst difference, misses, share of the gap closed."""
    rows = []
    for experiment in EXPERIMENTS:
        part = means.loc[experiment]
        rivals = part[[m for m in RIVALS if m in part]]
        worst = (part.md_tree_robust - rivals.max(axis=1)).to_numpy()
        average = part.mean()
        far = tuned.get(EXPERIMENTS[experiment].task)
        gap = f"{100 * (average.md_tree_robust - average.md_tree) / (far - average.md_tree):.0f} %" if far else "–"
        best, missed = average[rivals.columns].max(), f"{np.sum(worst < -0.5)} of {len(worst)}"
        shown = [f"{v:.1f}" for v in (average.md_tree, best, average.md_tree_robust)]
        rows.append([experiment, *shown, f"{worst.min():+.2f}", missed, gap])
    header = [
        "experiment",
        "published fit",
        "best rival",
        "robust",
        "worst cell",
        "cells missed",
        "of the way to tuned on F'",
    ]
    return markdown(header, rows)


def blocks(frame: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, rows inside) of the lowest, middle and highest third of every axis."""
    for axis in ("width", "batch_size", "data_fraction"):
        values = np.unique(frame[axis])
        for name, part in zip(("low", "middle", "high"), np.array_split(values, 3), strict=True):
            yield f"{axis} {name}", frame[axis].isin(part).to_numpy()


def block_results(collections: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return accuracy of initial thresholds, published and robust fit, trained inside a block and tested outside it."""
    methods = get_methods(["initial_thresholds", "md_tree", "md_tree_robust"])
    pieces = list(itertools.product(TASKS.values(), collections, collections))

    def work(piece):
        task, train_name, test_name = piece
        train, test = (task_rows(collections[name], task) for name in (train_name, test_name))
        sides, rows = [make_side(frame, task, methods) for frame in (train, test)], []
        for (block, inside), (_, also) in zip(blocks(train), blocks(test), strict=True):
            for way, (mask, held) in {"inside": (inside, ~also), "outside": (~inside, also)}.items():
                if not mask.any() or not held.any() or len(np.unique(sides[0].y[mask])) < 2:
                    continue  # a block with one class, or below the smallest width of the task
                for method in methods:
                    names = method.features(task)
                    X, y, X_test = sides[0].features[names][mask], sides[0].y[mask], sides[1].features[names][held]
                    right = method.predict(task, X, y, X_test, 0)[0] == sides[1].y[held]
                    rows.append((task.name, train_name, test_name, block, way, method.name, 100 * right.mean()))
        return rows

    rows = [row for part in ordered_map(work, pieces, available_cores()) for row in part]
    return pd.DataFrame(rows, columns=["task", "train", "test", "block", "trained", "method", "accuracy"])


def block_table(table: pd.DataFrame) -> str:
    """Return means over blocks by task, and how often robust is not behind the better of the two others."""
    wide = table.set_index([c for c in table if c not in ("method", "accuracy")] + ["method"]).accuracy.unstack()
    rows = []
    for task, part in wide.groupby(level="task", sort=False):
        better = part[["initial_thresholds", "md_tree"]].max(axis=1)
        difference = part.md_tree_robust - better
        means = [f"{part[m].mean():.1f}" for m in ("initial_thresholds", "md_tree", "md_tree_robust")]
        rows.append([task, *means, f"{np.sum(difference >= -0.5)} of {len(part)}", f"{difference.min():+.1f}"])
    header = ["task", "initial thresholds", "published fit", "robust", "within 0.5 of the better", "worst"]
    return markdown(header, rows)


def calibration_error(tree: MDTreeClassifier, frame: pd.DataFrame) -> float:
    """Return the mean distance of stated and true share right over 10 equal-count bins, in points."""
    rows = task_rows(frame, TASKS[tree.task])
    stated = tree.predict_proba(rows).max(axis=1)
    right = (tree.predict(rows) == rows[TASKS[tree.task].label]).to_numpy()
    bins = np.array_split(np.argsort(stated, kind="stable"), 10)
    return 100 * float(np.mean([abs(stated[b].mean() - right[b].mean()) for b in bins]))


def one_step_table(train, test) -> str:
    """Return mean gains of the optimal step and their share of the oracle's."""
    runner = OneStepRunner(train, test, get_methods(list(ONE_STEP_METHODS)), list(SEEDS), jobs=available_cores())
    table = runner.run()[0]
    table = table[table.step == "optimal"].groupby(["task", "method"], sort=False)[["gain", "gain_unclipped"]].mean()
    rows = []
    for (task, method), row in table.iterrows():
        share = 100 * row.gain / table.loc[(task, "oracle"), "gain"]
        rows.append([task, method_label(method), f"{row.gain:.3f}", f"{share:.1f} %", f"{row.gain_unclipped:.3f}"])
    return markdown(["task", "method", "gain, points", "of the oracle's", "losses included"], rows)


def fit_seconds(F: pd.DataFrame) -> str:
    """Return the median time of a fit on 96 and on all models."""
    rows = []
    for task in TASKS.values():
        frame = task_rows(F, task)
        cells = [np.random.default_rng(0).permutation(len(frame))[:96], np.arange(len(frame))]
        times = []
        for chosen in cells:
            part, clock = frame.iloc[chosen], []
            for _ in range(7):
                start = time.perf_counter()
                MDTreeClassifier(task.name).fit(part, part[task.label])
                clock.append(time.perf_counter() - start)
            times.append(statistics.median(clock))
        rows.append([task.name, f"{1e3 * times[0]:.0f}", f"{1e3 * times[1]:.0f} ({len(frame)} models)"])
    return markdown(["task", "96 models, ms", "all of F, ms"], rows)


def main() -> None:
    """Measure everything and write sweeps/robust.md."""
    start = time.perf_counter()
    F, F_noise = load_collection("published/F"), load_collection("published/F_noise")
    methods = get_methods([*RIVALS, "md_tree_robust"])
    forward, backward = (mean_table(*pair, methods, SEEDS) for pair in ((F, F_noise), (F_noise, F)))
    ablation = mean_table(F, F_noise, ABLATION, SEEDS).groupby(level="experiment", sort=False).mean()
    ablation_rows = [[m.label, *(f"{v:.1f}" for v in ablation[m.name])] for m in ABLATION]
    calibration = [
        [task, f"{calibration_error(MDTreeClassifier(task, fit=fit).fit(F), F_noise):.1f}", fit]
        for task in TASKS
        for fit in ("robust", "published")
    ]
    parts = [
        "# The robust fit",
        f"PROVENANCE Seeds {SEEDS[0]} … {SEEDS[-1]}.",
        "Members, bounds and constants were chosen on other seeds, but using F', F' → F and the blocks: new seeds do "
        "not make a new F', so the results for F → F' are optimistic.",
        "## F → F', means over k",
        summary_table(forward, TUNED_ON_TEST),
        "## F' → F, means over k",
        summary_table(backward, {}),
        "## Blocks",
        "Fitted on one third of an axis and tested on the rest (and vice versa), for all four pairs of F and F'; "
        "blocks with only one class are left out.",
        block_table(block_results({"F": F, "F'": F_noise})),
        "## Ablation, F → F', means over k",
        markdown(["fit", *ablation.index], ablation_rows),
        "## One step, F → F', the best value in the advised direction",
        one_step_table(F, F_noise),
        "## Calibration, all of F → F'",
        "Mean absolute difference between confidence and accuracy over 10 equal-count bins, in points.",
        markdown(["task", "error", "fit"], calibration),
        "## Time of a fit",
        fit_seconds(F),
        "## Every cell, F → F'",
        cell_table(forward),
        "## Every cell, F' → F",
        cell_table(backward),
    ]
    text = "\n\n".join(parts).replace("PROVENANCE", provenance(start)) + "\n"
    write_text(Path(__file__).with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
