"""How long the transfer experiments take, whole process with imports, beside the authors' scripts.

    python tests/benchmarks/transfer_speed.py

The authors' scripts for the same experiments took 95 s (78 s accuracy, 17 s one-step) on 2 CPU cores; that time was
taken once and is not repeated here. What is repeated, side by side in this run, are the fits of one tree: ours, and the
published procedure taken literally (every evaluation of the objective walks all rows down the tree).
Prints Markdown; medians of the repeats.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

ROOT = Path(__file__).resolve().parents[2]
AUTHORS_SECONDS = 95.0
RUNS = {
    "mode=all, 5 seeds, no figures": (["mode=all", "figures=false"], 5, AUTHORS_SECONDS / 20),
    "mode=all, 5 seeds, figures": (["mode=all"], 1, AUTHORS_SECONDS / 20 + 15),
    "mode=all, 50 seeds, no figures": (["mode=all", "seeds=50", "figures=false"], 1, 40.0),
    "--help": (["--help"], 5, 1.0),
}


def seconds(call, repeats: int) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def literal_fit(structure, X, y):
    """Return the published fit without our shortcut: the objective predicts every row at every evaluation."""
    from mdtree_jax.trees.fit import accuracy

    thresholds = structure.initial.copy()
    for i, node in enumerate(structure.nodes):

        def objective(value, i=i):
            return -accuracy(structure, np.concatenate([thresholds[:i], [value], thresholds[i + 1 :]]), X, y)

        thresholds[i] = minimize_scalar(objective, bounds=(node.low, node.high), method="bounded").x
    return thresholds


def main() -> None:
    """Measure and print."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if (ROOT.parent / "shared" / "published").is_dir():
        os.environ.setdefault("MDTREE_JAX_DATA", str(ROOT.parent / "shared" / "published"))
        environment |= {"MDTREE_JAX_DATA": os.environ["MDTREE_JAX_DATA"]}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| whole process | median s | limit s | authors' 95 s / ours |\n|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (arguments, repeats, limit) in RUNS.items():
            command = [sys.executable, "-m", "mdtree_jax.transfer", *arguments]
            took = seconds(
                lambda c=command: subprocess.run(c, cwd=folder, env=environment, check=True, capture_output=True),
                repeats,
            )
            ratio = f"{AUTHORS_SECONDS / took:.0f}" if "5 seeds" in name else ""
            print(f"| {name} | {took:.2f} | {limit:.2f} | {ratio} |")

    sys.path.insert(0, str(ROOT))
    from mdtree_jax import load_collection
    from mdtree_jax.collection.columns import feature_values
    from mdtree_jax.collection.tasks import OPTIMAL, TASKS
    from mdtree_jax.trees.fit import fit_exact, fit_published
    from mdtree_jax.trees.members import STRUCTURES

    F = load_collection("published/F")
    print("\n| one fit, all of F | published, literally, ms | published, ours, ms | ratio | exact, ms |")
    print("|---|--:|--:|--:|--:|")
    for task in TASKS.values():
        rows = F[(F[task.label] != OPTIMAL) & (F["width"] >= (task.min_width or 0))]
        structure = STRUCTURES[task.name]
        X = feature_values(rows, structure.features)
        y = np.array([structure.classes.index(label) for label in rows[task.label]])
        assert np.array_equal(literal_fit(structure, X, y), fit_published(structure, X, y))
        fits = (literal_fit, fit_published, fit_exact)
        slow, fast, exact = (1e3 * seconds(partial(fit, structure, X, y), 9) for fit in fits)
        print(f"| {task.name}, {len(rows)} models | {slow:.2f} | {fast:.2f} | {slow / fast:.1f} | {exact:.1f} |")


if __name__ == "__main__":
    main()
