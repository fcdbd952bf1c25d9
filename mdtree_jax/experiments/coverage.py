"""The table of accuracy against coverage, within a collection and between two: `coverage_table`.

Methods, baselines and bootstrap intervals are described in `mdtree_jax.causes.evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from threadpoolctl import threadpool_limits

from mdtree_jax.causes.evaluate import accuracy_at, answer_all, bootstrap_interval, calibration_error
from mdtree_jax.causes.method_protocol import JOINT_TASKS
from mdtree_jax.collection.tasks import TASKS, why_not_asked
from mdtree_jax.experiments.method_table import COVERAGE_METHODS, get_methods

COVERAGES = (50, 60, 70, 80, 90, 100)
COLUMNS = ["task", "method", "coverage", "n_test", "accuracy", "low", "high", "calibration_error"]


def coverage_table(
    train: pd.DataFrame,
    test: pd.DataFrame | None,
    tasks: Sequence[str],
    *,
    advance: Callable[[float], None] = lambda amount: None,
    say: Callable[[str], None] = lambda message: None,
) -> pd.DataFrame:
    """Return accuracy against coverage, fitted on all of `train`: one row per task, method and coverage.

    Args:
        train, test: loaded collections; without a test side, half of the cells, drawn with seed 0, are used for it.
        tasks: names of `TASKS`, and `joint`, which reports both labels; tasks without a label are left out.

    Columns: accuracy with the ends of its 95 % interval and calibration error in percent, coverage in percent.
    """
    rows, methods = [], get_methods(COVERAGE_METHODS)
    for name in tasks:
        sides = [train] if test is None else [train, test]
        if name in TASKS and (why := next(filter(None, (why_not_asked(side, TASKS[name]) for side in sides)), "")):
            say(f"task {name} is left out: {why}")
            advance(1)
            continue
        for task in JOINT_TASKS.values() if name == "joint" else (TASKS[name],):
            with threadpool_limits(1):  # threads would only wait for each other
                found = answer_all(methods, task, train, test, say)
            for method, answers in found.items():
                error = calibration_error(answers)
                for coverage in COVERAGES:
                    ends = bootstrap_interval(answers, coverage)
                    key = (task.name, method, coverage, len(answers.right))
                    rows.append((*key, accuracy_at(answers, coverage), *ends, error))
        advance(1)
    return pd.DataFrame(rows, columns=COLUMNS)
