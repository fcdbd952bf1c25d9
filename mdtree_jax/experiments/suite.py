"""All experiments of one call of `transfer`: the published questions, one step, the joint question, coverage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from mdtree_jax.causes.method_protocol import JOINT_TASKS, AnyTask, Method
from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.collection.ranks import SCALES
from mdtree_jax.collection.tasks import TASKS, default_tasks
from mdtree_jax.experiments.coverage import coverage_table
from mdtree_jax.experiments.joint import JointRunner, joint_experiments_of
from mdtree_jax.experiments.method_table import get_methods
from mdtree_jax.experiments.one_step import ONE_STEP_METHODS, SETTINGS, OneStepRunner, one_step_methods
from mdtree_jax.experiments.runner import MODES, PUBLISHED_SEEDS, Experiment, Runner, experiments_of
from mdtree_jax.parallel import available_cores


class Suite(NamedTuple):
    """The experiments to run, with their methods; the methods of the one-step experiment; the tasks of coverage."""

    tasks: list[str]
    experiments: list[Experiment]
    methods: list[Method]
    one_step: list[Method]
    joint: list[Experiment]
    joint_methods: list[Method]
    coverage: list[str]
    notes: list[str]

    @property
    def size(self) -> int:
        """The total amount by which `run_suite` advances."""
        return len(self.experiments) + 2 * bool(self.one_step) + len(self.joint) + len(self.coverage)


class Tables(NamedTuple):
    """The results as tables, with columns as in docs/how-to/transfer.md; empty if not requested."""

    results: pd.DataFrame
    one_step: pd.DataFrame
    thresholds: pd.DataFrame
    coverage: pd.DataFrame


def choose_suite(mode: str, tasks: Sequence[str] | None, methods: Sequence[str] | None) -> Suite:
    """Return the suite for a mode, tasks and methods.

    Task `joint` is included only if it is named, and in `mode=coverage`, which uses all four tasks.

    Raises:
        UserError: an unknown task or method, or nothing is left to run.
    """
    known = [*TASKS, *JOINT_TASKS]
    default = [*default_tasks(), "joint"] if mode == "coverage" else default_tasks()
    tasks = [check_choice("task", name, known) for name in tasks or default]
    questions = [TASKS[name] for name in tasks if name in TASKS]
    joint_tasks = [JOINT_TASKS[name] for name in tasks if name in JOINT_TASKS]
    get_methods(methods, [*questions, *joint_tasks])  # a name that none of the tasks knows is refused
    ours, joint = (_answering(methods, asked) for asked in (questions, joint_tasks))
    asked = [task.name for task in questions]
    experiments = experiments_of(mode, asked) if ours else []
    one_step = one_step_methods(ours, asked) if mode in ("one_step", "all") else []
    joint_experiments = joint_experiments_of(mode, tasks) if joint else []
    coverage = [name for name in tasks if name != "joint_room"] if mode == "coverage" else []
    suite = Suite(tasks, experiments, ours, one_step, joint_experiments, joint, coverage, [])
    if not suite.size:
        raise UserError(_nothing_to_run(mode, tasks))
    if coverage:
        suite.notes.append("mode=coverage fits on all of the training side and ignores methods, k and seeds")
    if mode == "all" and not one_step:
        note = f"one_step is left out: it does not support these tasks or methods ({', '.join(ONE_STEP_METHODS)})"
        suite.notes.append(note)
    return suite


def _answering(names: Sequence[str] | None, tasks: Sequence[AnyTask]) -> list[Method]:
    """Return the named methods that support one of the tasks, None for the default; none without a task."""
    if not tasks:
        return []
    methods = get_methods(names) if names else get_methods(None, tasks)
    return [method for method in methods if any(map(method.answers, tasks))]


def _nothing_to_run(mode: str, tasks: Sequence[str]) -> str:
    there = {"one_step": [setting.task for setting in SETTINGS], "coverage": [*TASKS, "joint"]}.get(mode, tasks)
    if not set(there) & set(tasks):
        return f"mode={mode} has no experiment of the tasks {', '.join(tasks)}, only of {', '.join(there)}"
    return f"mode={mode} has no experiment with these methods, only {', '.join(ONE_STEP_METHODS)}"


def transfer(
    train: pd.DataFrame,
    test: pd.DataFrame | None = None,
    *,
    mode: str = "all",
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = PUBLISHED_SEEDS,
    **setup,
) -> Tables:
    """Run the experiments of a mode between two collections, like the command, and return tables.

    Args:
        train: a collection with labels, as returned by `load_collection`.
        test: another collection; None tests on the cells of `train` that were not sampled.
        mode: `dataset`, `scale`, `one_step`, `all` or `coverage`.
        tasks: names of tasks; None uses those of the mode.
        methods: names of methods; None uses all.
        seeds: of the samples; defaults to the five published seeds.
        setup: `k`, `allow_missing`, `say`, `jobs`, `scale` of `mdtree_jax.experiments.runner.Setup`.

    Raises:
        UserError: an unknown mode, task or method, or nothing to run.
    """
    suite = choose_suite(check_choice("mode", mode, MODES), tasks, methods)
    # A process that runs JAX must not fork.
    setup = {"say": lambda note: None, "jobs": 1 if "jax" in sys.modules else available_cores()} | setup
    return run_suite(suite, lambda share: None, train=train, test=test, seeds=list(seeds), **setup)


def run_suite(suite: Suite, advance: Callable[[float], None], **setup) -> Tables:
    """Run all of a suite; `setup` holds the arguments of `mdtree_jax.experiments.runner.Setup` except methods, advance.

    Raises:
        UserError: nothing can be run on these collections; an unknown scale; ranks without a test collection, or for
            the joint question or coverage, which use raw metrics.
    """
    if check_choice("scale", setup.get("scale", "raw"), SCALES) == "rank":
        if setup["test"] is None:
            raise UserError("scale=rank needs another collection, test=")
        if suite.joint or suite.coverage:
            raise UserError("scale=rank supports the tasks optimizer, size and data, but not joint or mode=coverage")
    said: list[str] = []
    say = setup["say"]

    def remember(note: str) -> None:
        said.append(note)
        say(note)

    setup["say"] = remember
    results, thresholds = Runner(methods=suite.methods, advance=advance, **setup).run(suite.experiments)
    one_step = OneStepRunner(methods=suite.one_step, advance=advance, **setup)
    gains, more = one_step.run(suite.tasks if suite.one_step else [])
    joint = JointRunner(methods=suite.joint_methods, advance=advance, **setup)
    rows = joint.run(suite.joint) if suite.joint else results.iloc[:0]
    results = _stacked(results, rows)
    coverage = coverage_table(setup["train"], setup["test"], suite.coverage, advance=advance, say=setup["say"])
    tables = Tables(results, gains, _stacked(thresholds, more), coverage)
    if said and not any(map(len, tables)):
        raise UserError(f"nothing can be run: {'; '.join(dict.fromkeys(said))}")
    return tables


def _stacked(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both tables; one without rows must not decide the types, as pandas before 3 lets it."""
    return pd.concat([first, second]) if len(first) and len(second) else second if len(second) else first
