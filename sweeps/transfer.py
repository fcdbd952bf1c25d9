"""What transfers between families of models: every experiment between collections, on both scales of the metrics.

    python -m sweeps.transfer published/F published/F_noise digits digits_noisy out=sweeps/transfer.md seeds=1000:1050

Every ordered pair of the collections is a column. Nothing was chosen by these numbers except what the documentation
mentions.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import pandas as pd

from mdtree_jax import load_collection
from mdtree_jax.collection.ranks import SCALES
from mdtree_jax.collection.tasks import TASKS, task_rows
from mdtree_jax.config import parse_seeds
from mdtree_jax.experiments.method_table import METHODS
from mdtree_jax.experiments.one_step import ONE_STEP_METHODS
from mdtree_jax.experiments.runner import EXPERIMENTS
from mdtree_jax.experiments.suite import transfer
from mdtree_jax.files import write_text
from mdtree_jax.report.statistics import over_seeds, with_interval
from mdtree_jax.report.tables import markdown, method_label
from sweeps.provenance import provenance

Pair = tuple[str, str, str]
SCALE_WORDS = {"raw": "Metrics as they are", "rank": "Metrics of the test side by their ranks"}


def measure(frames: dict[str, pd.DataFrame], seeds: list[int]) -> tuple[dict[Pair, pd.DataFrame], ...]:
    """Return results and one-step gains of (train, test, scale)."""
    results, gains = {}, {}
    for train, test in itertools.permutations(frames, 2):
        for scale in SCALES:
            start = time.perf_counter()
            tables = transfer(frames[train], frames[test], mode="all", seeds=seeds, scale=scale)
            results[train, test, scale], gains[train, test, scale] = tables.results, tables.one_step
            print(f"{train} -> {test}, {scale}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return results, gains


def accuracy_table(results: dict[Pair, pd.DataFrame], experiment: str, scale: str) -> str:
    """Return a Markdown table: a row a method, a column a direction; mean over all sample sizes, percent."""
    cells, directions = {}, [pair for pair in results if pair[2] == scale]
    for train, test, _ in directions:
        part = results[train, test, scale]
        part = part[part["experiment"] == experiment].groupby(["method", "seed"], as_index=False)["accuracy"].mean()
        for method, row in over_seeds(part, ["method"], "accuracy").iterrows():
            cells[method, train, test] = with_interval(row["mean"], row["half_width"], 1)
    names = [name for name in METHODS if any(key[0] == name for key in cells)]
    header = ["method", *(f"{train} → {test}" for train, test, _ in directions)]
    rows = [[method_label(m), *(cells.get((m, a, b), "–") for a, b, _ in directions)] for m in names]
    return markdown(header, rows)


def gain_table(gains: dict[Pair, pd.DataFrame], task: str, scale: str) -> str:
    """Return a Markdown table: what one optimal step in the diagnosed direction gains, losses included."""
    cells, directions = {}, [pair for pair in gains if pair[2] == scale]
    for train, test, _ in directions:
        part = gains[train, test, scale]
        part = part[(part["task"] == task) & (part["step"] == "optimal")]
        for method, row in over_seeds(part, ["method"], "gain_unclipped").iterrows():
            cells[method, train, test] = with_interval(row["mean"], row["half_width"], 2)
    names = [name for name in ("oracle", *ONE_STEP_METHODS, "random") if any(key[0] == name for key in cells)]
    header = ["advice", *(f"{train} → {test}" for train, test, _ in directions)]
    rows = [[method_label(m), *(cells.get((m, a, b), "–") for a, b, _ in directions)] for m in names]
    return markdown(header, rows)


def class_rows(frames: dict[str, pd.DataFrame]) -> str:
    """Return a Markdown table: the share of each task's second class in percent, what `majority` lives on."""
    rows = []
    for task in TASKS.values():
        parts = [task_rows(frame, task)[task.label] for frame in frames.values()]
        rows.append([f"{task.name}: {task.classes[1]}", *(f"{100 * (p == task.classes[1]).mean():.1f}" for p in parts)])
    return markdown(["task", *frames], rows)


def main() -> None:
    """Measure and write."""
    names = [argument for argument in sys.argv[1:] if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    seeds, start = parse_seeds(options.get("seeds", "1000:1050")), time.perf_counter()
    frames = {name: load_collection(name) for name in names}
    results, gains = measure(frames, seeds)
    parts = [
        "# Transfer within and between families",
        "",
        provenance(start),
        "",
        f"Accuracy in percent on the whole test collection, mean over all sample sizes k and {len(seeds)} seeds, "
        "± half the 95 % interval of the mean over the seeds (Student's t), omitted if results do not depend on the "
        "seed. `published/…`: ResNet-18 on CIFAR-10, from the authors of the paper; `digits…`: small networks on "
        "handwritten digits, trained with this package.",
        "",
        "Share of the second class among the models of each task, in percent:",
        "",
        class_rows(frames),
        "",
    ]
    for scale in SCALES:
        parts += [f"## {SCALE_WORDS[scale]}", ""]
        for experiment in EXPERIMENTS.values():
            title = f"### {experiment.name}: task {experiment.task}"
            parts += [title, "", accuracy_table(results, experiment.name, scale), ""]
        for task in ("optimizer", "size"):
            parts += [f"### Gain of one step, task {task}", ""]
            parts += ["The best step in the diagnosed direction, including losses, in points of test accuracy.", ""]
            parts += [gain_table(gains, task, scale), ""]
    write_text(Path(options.get("out", "transfer.md")), "\n".join(parts))


if __name__ == "__main__":
    main()
