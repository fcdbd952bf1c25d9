"""Trains and measures the cohorts of a run folder, one after the other, and keeps its tables up to date.

No JAX at import: trainer and measurer are handed in, and checkpoints are imported when the first is written.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mdtree_jax import stopping
from mdtree_jax.checks import StaleState, UserError, check_choice
from mdtree_jax.recipe.cohort import Cohort, Recipe
from mdtree_jax.recipe.schema import KEEP
from mdtree_jax.runs.extend import (
    Networks,
    check_networks_are_there,
    executor_before,
    growth_line,
    members_of,
    stacked_networks,
    untrained,
)
from mdtree_jax.runs.monitor import Monitor, ScalarLog
from mdtree_jax.runs.rows import history_rows, member_rows
from mdtree_jax.store.folder import RunFolder
from mdtree_jax.store.tables import OK, not_converged, not_measurable

#: How much of the time may go to writing the tables while the run goes on: they hold everything, so their cost grows.
_SHARE_FOR_TABLES = 0.05


class Trainer(NamedTuple):
    """What `run_sweep` needs to train a cohort.

    `choose(recipe, cohort)` returns how the cohort is executed; `encode` and `decode` turn that into plain JSON values
    and back (None if this machine cannot do it: then it is chosen anew). `train(recipe, cohort, data, executor=,
    progress=, checkpoint=, resume=)` returns a `TrainedCohort`. From time to time it may call `checkpoint` with a flat
    dictionary of arrays; of a cohort that was killed, the last of them comes back as `resume`. `prepare(recipe, cohort,
    data, executor=)`, if there is one, compiles what `train` will need; it is called in another thread while the cohort
    before is trained and measured, because compiling is one thread's work.
    """

    choose: Callable[[Recipe, Cohort], Any]
    train: Callable[..., Any]
    encode: Callable[[Any], dict[str, Any]]
    decode: Callable[[dict[str, Any]], Any]
    prepare: Callable[..., None] | None = None


class Measurer(NamedTuple):
    """What `run_sweep` needs to measure a cohort.

    `config` are the settings as plain JSON values. `measure(recipe, cohort, data, variables, is_finite, progress=,
    checkpoint=, resume=, recorded=, record=)` returns a `MeasuredCohort`; `checkpoint` and `resume` are as of a
    `Trainer`; what was decided when the cohort was begun is `recorded`, None for a new one; `record` is called with it.
    Of a cohort that grew, or lacks metrics, it gets `known=` the `Measured` of before, which it is to complete.
    `earlier` are the values of settings that a `config` without them was made with.
    """

    config: dict[str, Any]
    measure: Callable[..., Any]
    earlier: Mapping[str, Any] = MappingProxyType({})


class SweepSummary(NamedTuple):
    """What `run_sweep` did: cohorts trained and measured now, configurations and networks in all, diverged ones,
    networks and pairs with a measured number that is not finite, and networks whose eigenvalue did not converge.
    """

    num_trained_cohorts: int
    num_measured_cohorts: int
    num_configurations: int
    num_members: int
    num_diverged: int
    num_not_measurable: int
    num_not_converged: int
    seconds: float


def run_sweep(
    recipe: Recipe,
    cohorts: Sequence[Cohort],
    data: Any,
    folder: RunFolder,
    trainer: Trainer | None,
    monitor: Monitor,
    *,
    measurer: Measurer | None = None,
    keep: str = "all",
    csv: bool = False,
    scalars: ScalarLog | None = None,
    check_files: bool = False,
) -> SweepSummary:
    """Train and measure every cohort of which `folder` (entered, so locked) does not have that yet.

    Without a `trainer` nothing is trained, without a `measurer` nothing measured. A folder of a smaller grid, or with
    fewer metrics, is extended: what it has is kept, only what is missing is trained and measured, and its tables end as
    those of a run of the larger grid. The executor of a cohort is written to its record before its first step, and
    taken from there when the run is continued. A member that diverges stays as a row with status `diverged`. Files that
    are damaged are said, and made again; of networks that are not needed, only with `check_files`.

    Raises:
        UserError: a full disk; trained networks that are needed to measure but gone.
        Stopped: a signal asked for it (`mdtree_jax.stopping`).

    Whatever stops it, what was finished so far is kept.
    """
    check_choice("keep", keep, KEEP)
    start = time.perf_counter()
    if measurer is not None:
        folder.use_measurement(measurer.config, measurer.earlier)
    if check_files:
        folder.check_networks(folder.cohorts)
    _say_damage(folder, monitor)
    to_train, to_measure = still_to_do(cohorts, folder, train=trainer is not None, measure=measurer is not None)
    check_networks_are_there(folder, cohorts, to_measure, {} if measurer is None else measurer.config)
    if folder.growth:
        monitor.say(growth_line(folder))
    folder.extend()
    tables = _Tables(folder, csv)
    pending = [cohort for cohort in cohorts if cohort.key in to_train | to_measure]
    places = {cohort.key: place for place, cohort in enumerate(cohorts, 1)}
    try:
        if pending:
            tables.write()  # a killed process may have left them behind its parts
        with _Ahead(recipe, data, folder, trainer, [cohort for cohort in pending if cohort.key in to_train]) as ahead:
            for cohort in pending:
                stopping.stop_if_asked("what is finished is saved")
                monitor.start_cohort(cohort.key)
                if cohort.key in to_measure and _networks_are_damaged(folder, cohort.key, monitor):
                    to_train.add(cohort.key)
                fresh = None
                if cohort.key in to_train:
                    ahead.start_next(cohort)
                    kept = keep == "all" or cohort.key in to_measure
                    fresh = _train_one(recipe, cohort, data, folder, _needed(trainer, folder, cohort), monitor, kept)
                if measurer is not None and cohort.key in to_measure:
                    _measure_one(recipe, cohort, data, folder, measurer, monitor, fresh, keep)
                rows = folder.trained_rows(cohort.key)
                tables.write_if_time()
                monitor.finish_cohort(rows)
                if scalars is not None:
                    scalars.write(places[cohort.key], rows)
    except BaseException:
        with contextlib.suppress(Exception):  # what stopped it is what is to be said
            tables.write()
        raise
    folder.write_tables(csv)
    members = folder.members
    return SweepSummary(
        num_trained_cohorts=len(to_train),
        num_measured_cohorts=len(to_measure),
        num_configurations=members["configuration"].nunique(),
        num_members=len(members),
        num_diverged=int((members["status"] != OK).sum()),
        num_not_measurable=0 if (failed := not_measurable(members, folder.pairs)) is None else int(failed.sum()),
        num_not_converged=0 if (stopped := not_converged(members)) is None else int(stopped.sum()),
        seconds=time.perf_counter() - start,
    )


def still_to_do(
    cohorts: Sequence[Cohort], folder: RunFolder, *, train: bool, measure: bool
) -> tuple[set[str], set[str]]:
    """Return the keys of the cohorts that are to be trained and to be measured; what is not trained is not measured."""
    trained, measured = set(folder.trained), set(folder.measured)
    to_train = {cohort.key for cohort in cohorts if train and cohort.key not in trained}
    there = to_train | trained
    to_measure = {c.key for c in cohorts if measure and c.key in there and c.key not in measured}
    return to_train, to_measure


class _Tables:
    """Writes the tables of a run folder as often as takes a small share of the time: they hold all cohorts so far."""

    def __init__(self, folder: RunFolder, csv: bool):
        self._folder, self._csv = folder, csv
        self._next = 0.0

    def write(self) -> None:
        """Write them now; they are not the final ones."""
        start = time.perf_counter()
        self._folder.write_tables(self._csv, is_final=False)
        end = time.perf_counter()
        self._next = end + (end - start) / _SHARE_FOR_TABLES

    def write_if_time(self) -> None:
        """Write them if the last time was long enough ago."""
        if time.perf_counter() >= self._next:
            self.write()


def _say_damage(folder: RunFolder, monitor: Monitor) -> None:
    while folder.damage:
        monitor.say(folder.damage.pop(0))


def _networks_are_damaged(folder: RunFolder, key: str, monitor: Monitor) -> bool:
    """Return whether networks of a trained cohort had to be set aside, so that it is to be trained again."""
    was_trained = key in folder.parts.trained
    folder.check_networks([key])
    _say_damage(folder, monitor)
    return was_trained and key not in folder.parts.trained


def _needed(trainer: Trainer | None, folder: RunFolder, cohort: Cohort) -> Trainer:
    if trainer is None:
        raise UserError(
            f"cohort {cohort.key} of {folder.path} is to be trained again before it can be measured, and stages= "
            "leaves training out; repeat the command with stages=[train,measure]"
        )
    return trainer


class _Ahead:
    """Has the next cohort prepared in another thread while one is worked on; a context manager.

    A preparation that fails is left to the cohort's own turn, which says why.
    """

    def __init__(self, recipe: Recipe, data: Any, folder: RunFolder, trainer: Trainer | None, to_train: list[Cohort]):
        self._recipe, self._data, self._folder, self._trainer = recipe, data, folder, trainer
        self._after = dict(itertools.pairwise(cohort.key for cohort in to_train))
        self._cohorts = {cohort.key: cohort for cohort in to_train}
        self._pool = ThreadPoolExecutor(1, "prepare")

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *exception) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def start_next(self, cohort: Cohort) -> None:
        """Have the cohort after this one prepared."""
        following = self._after.get(cohort.key)
        if following is None or self._trainer is None or self._trainer.prepare is None:
            return
        self._pool.submit(self._prepare, self._cohorts[following], self._trainer, self._trainer.prepare)

    def _prepare(self, cohort: Cohort, trainer: Trainer, prepare: Callable[..., None]) -> None:
        # The folder is written by the main thread alone; what is chosen here is chosen again there.
        choice = _recorded_executor(cohort, self._folder, trainer) or trainer.choose(self._recipe, cohort)
        prepare(self._recipe, untrained(cohort, self._folder), self._data, executor=choice)


def _recorded_executor(cohort: Cohort, folder: RunFolder, trainer: Trainer) -> Any:
    """Return how a cohort is executed as its record says, None if it does not or this machine cannot do it."""
    recorded = executor_before(cohort, folder)
    return None if recorded is None else trainer.decode(recorded)


def _train_one(
    recipe: Recipe, cohort: Cohort, data: Any, folder: RunFolder, trainer: Trainer, monitor: Monitor, keep: bool
) -> Networks:
    """Train what is missing of a cohort and commit it: executor, then networks and the part that says so.

    Returns the trained networks.
    """
    stopping.stop_if_asked("what is finished is saved")
    name, missing = folder.name_to_train(cohort.key), untrained(cohort, folder)
    choice = _recorded_executor(cohort, folder, trainer)
    if choice is None or folder.executor(cohort.key, name) is None:
        folder.forget_unfinished(cohort.key, name)  # a state goes with its executor
        choice = choice or trainer.choose(recipe, cohort)
        folder.record_executor(cohort.key, name, trainer.encode(choice))
    options = {"progress": monitor.progress, "checkpoint": functools.partial(_save_state, folder, cohort.key, name)}
    train = functools.partial(trainer.train, recipe, missing, data, executor=choice, **options)
    trained = _resumed(train, folder, cohort.key, name)
    rows, networks = member_rows(missing, trained), Networks(members_of(missing), trained.variables)
    history = history_rows(missing, trained)
    metadata = {
        "executor": trainer.encode(choice),
        "useful_step_fraction": float(trained.useful_step_fraction),
        "num_compilations": int(trained.num_compilations),
        "compile_seconds": float(trained.compile_seconds),
    }
    write = functools.partial(_save_networks, networks, folder.parts.grids.here) if keep else None
    folder.finish(cohort.key, rows, metadata, history, write)
    return networks


def _save_networks(networks: Networks, grid: str, path: Path) -> None:
    from mdtree_jax.store.checkpoint import save_population

    save_population(path, networks.variables, networks.members, grid)


def _measure_one(
    recipe: Recipe,
    cohort: Cohort,
    data: Any,
    folder: RunFolder,
    measurer: Measurer,
    monitor: Monitor,
    fresh: Networks | None,
    keep: str,
) -> None:
    """Measure what is missing of a trained cohort and commit the tables; `fresh` networks were trained just now."""
    stopping.stop_if_asked("what is finished is saved")
    variables, name = stacked_networks(folder, cohort, fresh), f"measured-{cohort.key}"
    rows = folder.trained_rows(cohort.key).set_index(["configuration", "seed"])["status"]
    is_finite = [rows[member.index, member.seed] == OK for member in cohort.members]
    options = {"progress": monitor.progress, "checkpoint": functools.partial(_save_state, folder, cohort.key, name)}
    options["recorded"] = folder.choices(cohort.key)
    options["record"] = functools.partial(folder.record_choices, cohort.key)
    if (known := folder.measurement(cohort.key)) is not None:
        options["known"] = known
    measure = functools.partial(measurer.measure, recipe, cohort, data, variables, is_finite, **options)
    measured = _resumed(measure, folder, cohort.key, name)
    tables = {"members": measured.members, "pairs": measured.pairs, "layers": measured.layers}
    metadata = {
        "choices": measured.choices,
        "keep": keep,
        "num_compilations": int(measured.num_compilations),
        "compile_seconds": float(measured.compile_seconds),
    }
    folder.finish_measurement(cohort.key, tables, metadata)


def _resumed(work: Callable[..., Any], folder: RunFolder, key: str, name: str) -> Any:
    """Return `work(resume=…)` with the state that was saved inside it; from the start where that is of another time."""
    try:
        return work(resume=_load_state(folder.unfinished_path(name)))
    except StaleState:
        folder.forget_unfinished(key, name)
        return work(resume=None)


def _save_state(folder: RunFolder, key: str, name: str, state: Mapping[str, np.ndarray]) -> None:
    from mdtree_jax.store.checkpoint import save_state

    folder.claim_state(key, name)
    save_state(folder.unfinished_path(name), state)
    stopping.stop_if_asked(f"what is finished and the state inside {name} are saved")


def _load_state(path: Path) -> dict[str, np.ndarray] | None:
    if not any(path.parent.glob(f"{path.name}*")):
        return None
    from mdtree_jax.store.checkpoint import load_state

    return load_state(path)
