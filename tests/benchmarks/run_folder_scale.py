"""What a run folder costs per cohort, with cohorts that train and measure nothing: 1 000 beside 10 000.

    python -m tests.benchmarks.run_folder_scale                # about 15 minutes of one CPU core
    python -m tests.benchmarks.run_folder_scale 100 1000       # other numbers of cohorts

Prints CPU time per cohort of a whole run, of opening a finished one again, and of merging it into another one. A cost
that grows with the number of cohorts, so a quadratic run, shows as a ratio in the last column well above 1. The test
of it, tests/runs/test_scale.py, counts files and bytes instead.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from mdtree_jax import files
from mdtree_jax.recipe.axes import Grid, make_cohorts
from mdtree_jax.runs.monitor import Monitor
from mdtree_jax.runs.run import run_sweep
from mdtree_jax.store.exchange import import_parts
from mdtree_jax.store.folder import RunFolder
from tests import fake_training as fake


def cohorts_of(number: int):
    """Return so many cohorts of two networks of one configuration."""
    return make_cohorts(Grid(tuple(range(1, number + 1)), (16,), train_epochs=(3,), num_seeds=2), 200)


def opened(path: Path, cohorts) -> RunFolder:
    """Return the run folder of a grid of these cohorts."""
    return fake.run_folder(path, {"width": [cohort.width for cohort in cohorts]}, cohorts)


def train(path: Path, cohorts) -> None:
    """Train and measure in a run folder what is missing there."""
    with opened(path, cohorts) as folder:
        monitor = Monitor(Console(quiet=True), dict.fromkeys((cohort.key for cohort in cohorts), 1.0))
        run_sweep(fake.RECIPE, cohorts, None, folder, fake.trainer(), monitor, measurer=fake.measurer(), keep="all")


def merge(path: Path, cohorts, sources) -> None:
    """Merge parts into a new run folder."""
    with opened(path, cohorts) as folder:
        import_parts(folder, sources)
        folder.write_tables()


@contextlib.contextmanager
def no_networks():
    """Have no network written, whose cost is that of Orbax."""
    from mdtree_jax.store import checkpoint

    save = checkpoint.save_population
    checkpoint.save_population = lambda path, *_: path.mkdir(parents=True)
    try:
        yield
    finally:
        checkpoint.save_population = save


def main(numbers: list[int]) -> None:
    """Print a table of seconds per cohort."""
    rows: dict[str, list[float]] = {"run": [], "open again": [], "merge": []}
    for number in numbers:
        cohorts = cohorts_of(number)
        with tempfile.TemporaryDirectory() as folder, no_networks():
            for name, do in {
                "run": functools.partial(train, Path(folder) / "run", cohorts),
                "open again": functools.partial(train, Path(folder) / "run", cohorts),
                "merge": functools.partial(merge, Path(folder) / "merged", cohorts, [Path(folder) / "run"]),
            }.items():
                start = time.process_time()
                do()
                rows[name].append((time.process_time() - start) / number)
    print("| CPU milliseconds per cohort |", " | ".join(f"{number} cohorts" for number in numbers), "| ratio |")
    print("|---|" + "---|" * (len(numbers) + 1))
    for name, seconds in rows.items():
        print(f"| {name} |", " | ".join(f"{1000 * s:.2f}" for s in seconds), f"| {seconds[-1] / seconds[0]:.2f} |")


if __name__ == "__main__":
    files.os.fsync = lambda descriptor: None  # the disk's share is the same for every file
    main([int(word) for word in sys.argv[1:]] or [1000, 10000])
