"""Trains and measures the cohorts of a run folder, one after the other, and keeps its tables up to date.

No JAX at import: trainer and measurer are handed in, and checkpoints are imported when the first is written.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import StaleState, check_choice
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
from mdtree_jax.store.folder import RunFolder
from mdtree_jax.store.tables import DIVERGED, OK, VALIDATION_COLUMNS, not_converged, not_measurable, typed_members


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
) -> SweepSummary:
    """Train and measure every cohort of which `folder` (entered, so locked) does not have that yet.

    Without a `trainer` nothing is trained, without a `measurer` nothing measured. A folder of a smaller grid, or with
    fewer metrics, is extended: what it has is kept, only what is missing is trained and measured, and its tables end as
    those of a run of the larger grid. The executor of a cohort is written to the manifest before its first step, and
    taken from there when the run is continued. A member that diverges stays as a row with status `diverged`. Raises
    `UserError` on a full disk, and for trained networks that are needed to measure but gone; whatever stops it, what
    was finished so far is kept.
    """
    check_choice("keep", keep, KEEP)
    start = time.perf_counter()
    if measurer is not None:
        folder.use_measurement(measurer.config, measurer.earlier)
    to_train, to_measure = still_to_do(cohorts, folder, train=trainer is not None, measure=measurer is not None)
    check_networks_are_there(folder, cohorts, to_measure, {} if measurer is None else measurer.config)
    if folder.growth:
        monitor.say(growth_line(folder))
    folder.extend()
    folder.write_tables(csv)  # a killed process may have left them behind its parts
    pending = [cohort for cohort in cohorts if cohort.key in to_train | to_measure]
    with _Ahead(recipe, data, folder, trainer, [cohort for cohort in pending if cohort.key in to_train]) as ahead:
        for cohort in pending:
            monitor.start_cohort(cohort.key)
            is_measured_next = cohort.key in to_measure
            fresh = None
            if trainer is not None and cohort.key in to_train:
                keep_networks = keep == "all" or is_measured_next
                ahead.start_next(cohort)
                fresh = _train_one(recipe, cohort, data, folder, trainer, monitor, keep_networks)
            if measurer is not None and is_measured_next:
                _measure_one(recipe, cohort, data, folder, measurer, monitor, fresh, keep)
            rows = folder.trained_rows(cohort.key)
            folder.write_tables(csv)
            monitor.finish_cohort(rows)
            if scalars is not None:
                scalars.write(cohorts.index(cohort) + 1, rows)
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
    to_train = {cohort.key for cohort in cohorts if train and cohort.key not in folder.trained}
    there = to_train | set(folder.trained)
    to_measure = {c.key for c in cohorts if measure and c.key in there and c.key not in folder.measured}
    return to_train, to_measure


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
    """Return how a cohort is executed as the manifest says, None if it does not or this machine cannot do it."""
    recorded = executor_before(cohort, folder)
    return None if recorded is None else trainer.decode(recorded)


def _train_one(
    recipe: Recipe, cohort: Cohort, data: Any, folder: RunFolder, trainer: Trainer, monitor: Monitor, keep: bool
) -> Networks:
    """Train what is missing of a cohort and commit it: executor, then networks, then the part that says so.

    Returns the trained networks.
    """
    name, missing = folder.name_to_train(cohort.key), untrained(cohort, folder)
    choice = _recorded_executor(cohort, folder, trainer)
    if choice is None or folder.executor(name) is None:
        folder.forget_unfinished(name)  # a state goes with its executor
        choice = choice or trainer.choose(recipe, cohort)
        folder.record_executor(name, trainer.encode(choice))
    unfinished = folder.unfinished_path(name)
    options = {"progress": monitor.progress, "checkpoint": functools.partial(_save_state, unfinished)}
    train = functools.partial(trainer.train, recipe, missing, data, executor=choice, **options)
    trained = _resumed(train, unfinished, folder)
    rows, networks = member_rows(missing, trained), Networks(members_of(missing), trained.variables)
    history = history_rows(missing, trained)
    if keep:
        from mdtree_jax.store.checkpoint import save_population

        save_population(folder.checkpoint_path(name), networks.variables, networks.members, folder.parts.grids.here)
    metadata = {
        "executor": trainer.encode(choice),
        "useful_step_fraction": float(trained.useful_step_fraction),
        "num_compilations": int(trained.num_compilations),
        "compile_seconds": float(trained.compile_seconds),
    }
    folder.finish(cohort.key, rows, metadata, history)
    return networks


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
    variables = stacked_networks(folder, cohort, fresh)
    unfinished = folder.unfinished_path(f"measured-{cohort.key}")
    rows = folder.trained_rows(cohort.key).set_index(["configuration", "seed"])["status"]
    is_finite = [rows[member.index, member.seed] == OK for member in cohort.members]
    options = {"progress": monitor.progress, "checkpoint": functools.partial(_save_state, unfinished)}
    options["recorded"] = folder.choices(cohort.key)
    options["record"] = functools.partial(folder.record_choices, cohort.key)
    if (known := folder.measurement(cohort.key)) is not None:
        options["known"] = known
    measure = functools.partial(measurer.measure, recipe, cohort, data, variables, is_finite, **options)
    measured = _resumed(measure, unfinished, folder)
    tables = {"members": measured.members, "pairs": measured.pairs, "layers": measured.layers}
    metadata = {
        "choices": measured.choices,
        "keep": keep,
        "num_compilations": int(measured.num_compilations),
        "compile_seconds": float(measured.compile_seconds),
    }
    folder.finish_measurement(cohort.key, tables, metadata)


def _resumed(work: Callable[..., Any], unfinished: Path, folder: RunFolder) -> Any:
    """Return `work(resume=…)` with the state that was saved inside it; from the start where that is of another time."""
    try:
        return work(resume=_load_state(unfinished))
    except StaleState:
        folder.forget_unfinished(unfinished.name)
        return work(resume=None)


def _save_state(path: Path, state: Mapping[str, np.ndarray]) -> None:
    from mdtree_jax.store.checkpoint import save_state

    save_state(path, state)


def _load_state(path: Path) -> dict[str, np.ndarray] | None:
    if not any(path.parent.glob(f"{path.name}*")):
        return None
    from mdtree_jax.store.checkpoint import load_state

    return load_state(path)


def member_rows(cohort: Cohort, trained: Any) -> pd.DataFrame:
    """Return the per-seed rows of a trained cohort, in the order of its members."""
    per_member = {
        name: np.asarray(getattr(trained, name))
        for name in ("train_error", "test_error", "train_loss", "test_loss", "stop_epoch", "train_seconds")
    }
    if trained.validation_loss is not None:
        per_member |= {name: np.asarray(getattr(trained, name)) for name in VALIDATION_COLUMNS}
    members = cohort.members
    rows = pd.DataFrame(
        {
            "configuration": [member.index for member in members],
            "seed": [member.seed for member in members],
            "status": np.where(np.asarray(trained.is_finite), OK, DIVERGED),
            "cohort": cohort.key,
            "width": cohort.width,
            "batch_size": cohort.batch_size,
            "data_fraction": [member.data_fraction for member in members],
            "num_samples": [member.num_samples for member in members],
            "num_parameters": count_parameters(trained.variables["params"]),
            "learning_rate": [member.learning_rate for member in members],
            "weight_decay": [member.weight_decay for member in members],
            "train_epochs": cohort.train_epochs,
            **_further_knobs(cohort),
            **per_member,
            "train_flops": np.asarray(trained.train_flops),
        }
    )
    return typed_members(rows)


def history_rows(cohort: Cohort, trained: Any) -> pd.DataFrame | None:
    """Return the points of the learning curves of a trained cohort, None if they were not recorded."""
    if trained.history is None:
        return None
    values = dict(trained.history)
    members = [cohort.members[number] for number in values.pop("member")]
    keys = {"configuration": [member.index for member in members], "seed": [member.seed for member in members]}
    counts = dict.fromkeys((*keys, "epoch", "step"), np.int64)
    unknown = dict.fromkeys(("train_loss", "validation_loss", "validation_error"), np.nan)
    return pd.DataFrame({**keys, "epoch": 0, "step": 0, **unknown, **values}).astype(counts)


def _further_knobs(cohort: Cohort) -> dict[str, list[Any]]:
    """Return the values of the knobs that not every grid has, by member; true is 1."""
    columns = {name: [value] * len(cohort.members) for name, value in cohort.knobs}
    columns |= {name: [member.value(name) for member in cohort.members] for name in cohort.batched}
    return {name: [int(v) if isinstance(v, bool) else v for v in values] for name, values in columns.items()}


def count_parameters(stacked: Any) -> int:
    """Return the number of parameters of one member of a nested dict of arrays (members, …).

    >>> count_parameters({"dense": {"kernel": np.zeros((7, 4, 3)), "bias": np.zeros((7, 3))}})
    15
    """
    if isinstance(stacked, Mapping):
        return sum(count_parameters(value) for value in stacked.values())
    return int(np.prod(stacked.shape[1:]))
