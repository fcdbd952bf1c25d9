"""The transfer experiments: train on a sample of one collection, test on another (docs/explanation/experiments.md)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.causes.labels import gains
from mdtree_jax.causes.method_protocol import Fitted, Gains, Method, Sample, usable_methods
from mdtree_jax.checks import UserError
from mdtree_jax.collection.columns import finite_rows_of
from mdtree_jax.collection.grid import make_grid
from mdtree_jax.collection.ranks import at_ranks_of
from mdtree_jax.collection.tasks import TASKS, Task, _collection, default_tasks, task_rows, why_not_asked
from mdtree_jax.experiments.sampling import SAMPLINGS, Sampling
from mdtree_jax.parallel import ordered_map

PUBLISHED_SEEDS = (42, 90, 38, 18, 72)
KEY = ["experiment", "task", "method", "k", "seed"]
THRESHOLD_COLUMNS = [*KEY, "node", "feature", "threshold"]


class Experiment(NamedTuple):
    """One experiment: a task and a way to sample; `figure` is where the paper shows it, '' where it does not."""

    name: str
    mode: str
    task: str
    sampling: str
    figure: str


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("q1_dataset", "dataset", "optimizer", "random", "Fig. 3a"),
        Experiment("q2_width_dataset", "dataset", "size", "random_data", "Fig. 6a"),
        Experiment("q2_data_dataset", "dataset", "data", "random_width", "Q2 data, by width sample"),
        Experiment("q1_scale_data", "scale", "optimizer", "data_limit", "Fig. 3b"),
        Experiment("q1_scale_width", "scale", "optimizer", "width_limit", "Fig. 3c"),
        Experiment("q2_width_scale_data", "scale", "size", "data_limit", "Fig. 6b"),
        Experiment("q2_data_scale_width", "scale", "data", "width_limit", "Q2 data, by width limit"),
    )
}
#: The joint question, which runs only where tasks= names it; see `mdtree_jax.experiments.joint`.
JOINT_EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("joint_dataset", "dataset", "joint", "random", "the step that gains most"),
        Experiment("joint_room_dataset", "dataset", "joint_room", "random", "the largest room for improvement"),
        Experiment("joint_scale_data", "scale", "joint", "data_limit", "the step that gains most"),
        Experiment("joint_room_scale_data", "scale", "joint_room", "data_limit", "the largest room for improvement"),
        Experiment("joint_scale_width", "scale", "joint", "width_limit", "the step that gains most"),
        Experiment("joint_room_scale_width", "scale", "joint_room", "width_limit", "the largest room for improvement"),
    )
}
MODES = ("dataset", "scale", "one_step", "all", "coverage")


def experiments_of(mode: str, tasks: Sequence[str] | None = None) -> list[Experiment]:
    """Return the accuracy experiments of a mode, none for `one_step`, of the named tasks; None are the paper's."""
    known = _experiments_of_questions().values()
    return [e for e in known if mode in (e.mode, "all") and e.task in (tasks or default_tasks())]


def get_experiment(name: str) -> Experiment:
    """Return the experiment of that name, one of the joint question too; raises `KeyError`."""
    return (_experiments_of_questions() | JOINT_EXPERIMENTS)[name]


def _experiments_of_questions() -> dict[str, Experiment]:
    """Return those of the paper, and for a question that is not of the paper one a kind of sample."""
    samplings = {"dataset": "random", "scale_data": "data_limit", "scale_width": "width_limit"}
    more = [
        Experiment(f"{task.name}_{kind}", kind.partition("_")[0], task.name, sampling, "")
        for task in TASKS.values()
        if not task.is_published
        for kind, sampling in samplings.items()
    ]
    return EXPERIMENTS | {experiment.name: experiment for experiment in more}


def finite_rows(frame: pd.DataFrame, task: Task, methods: Sequence[Method], say: Callable[[str], None]) -> pd.DataFrame:
    """Return the rows on which every feature of every method is finite, so that all methods see the same rows."""
    finite = finite_rows_of(frame, [name for method in methods for name in method.features(task)])
    if finite.all():
        return frame
    if not finite.any():
        raise UserError(f"{_collection(frame)} has no row for task '{task.name}' on which every metric is finite")
    left_out = f"{len(frame) - finite.sum()} of {len(frame)} rows of {_collection(frame)}"
    say(f"task {task.name}: {left_out} are left out because a metric is not finite")
    return frame[finite]


def check_two_classes(frame: pd.DataFrame, task: Task) -> None:
    """Raise `UserError` if the rows of a task, as `task_rows` returns them, are all of one class."""
    classes = frame[task.label].unique()
    if len(classes) < 2:
        raise UserError(
            f"{_collection(frame)} has only one class for task '{task.name}', '{classes[0]}' in {len(frame)} rows; "
            f"leave the task out with tasks=[{','.join(t for t in TASKS if t != task.name)}]"
        )


def make_side(
    frame: pd.DataFrame,
    task: Task,
    methods: Sequence[Method],
    source: pd.DataFrame | None = None,
    whole: pd.DataFrame | None = None,
) -> Sample:
    """Return one side of an experiment, with the features that the methods ask for made already.

    `source` is the collection that the metrics are read from, where they are on another scale than in `frame`; `whole`
    the collection whose grid gives the gains of its rows, for methods that learn from them.
    """

    def known(whole: pd.DataFrame) -> Gains:
        grid = make_grid(whole, allow_missing=True)
        return Gains(frame, gains(grid, "room")[whole.index.get_indexer(frame.index)], grid.causes)

    rows = None if source is None else source.loc[frame.index]
    side = Sample.of(frame, task, source=rows, gains=None if whole is None else functools.partial(known, whole))
    for method in methods:
        side.features[method.features(task)]
    return side


def threshold_rows(key: tuple, fitted: Fitted) -> list[tuple]:
    """Return a fitted tree's thresholds as rows of the table `thresholds`, none for a method without any."""
    return [(*key, place, *threshold) for place, threshold in enumerate(fitted.thresholds)]


@dataclass
class Setup:
    """What every experiment needs.

    `train` and `test` are whole collections with labels; `test` None means the cells of `train` that were not sampled.
    `say` gets one sentence for whatever is skipped or clipped, `advance` the share of one experiment that was done.
    `jobs` processes share the seeds. `scale` is that of the test side's metrics, see `mdtree_jax.collection.ranks`.
    """

    train: pd.DataFrame
    test: pd.DataFrame | None
    methods: Sequence[Method]
    seeds: Sequence[int]
    k: Sequence[int] | None = None
    allow_missing: bool = False
    say: Callable[[str], None] = lambda message: None
    advance: Callable[[float], None] = lambda amount: None
    jobs: int = 1
    scale: str = "raw"

    @functools.cached_property
    def sources(self) -> list[pd.DataFrame]:
        """The collections as the metrics are read from them, on the setup's scale."""
        if self.scale == "raw" or self.test is None:
            return self.collections
        return [self.train, at_ranks_of(self.train, self.test)]

    @property
    def collections(self) -> list[pd.DataFrame]:
        """The train collection and, if there is one, the test collection."""
        return [self.train] if self.test is None else [self.train, self.test]

    def why_not(self, sampling: Sampling, tasks: Sequence[Task] = ()) -> str:
        """Return why an experiment cannot be run on these collections, '' if it can."""
        reasons = [why_not_asked(frame, task) for task in tasks for frame in self.collections]
        return next(filter(None, [*reasons, sampling.why_not(self.train)]), "")


@dataclass
class Runner(Setup):
    """Runs the accuracy experiments and remembers what is deterministic."""

    def run(self, experiments: Sequence[Experiment]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the tables `results` and `thresholds` of the experiments, columns as in docs/how-to/transfer.md."""
        pieces = [(e, seeds) for e in experiments for seeds in self._split_seeds(SAMPLINGS[e.sampling])]
        pieces.sort(key=lambda piece: SAMPLINGS[piece[0].sampling].random)  # the large pieces first
        results, thresholds, notes = [], [], {}
        for piece, done in zip(pieces, ordered_map(self._run, pieces, self.jobs), strict=True):
            results += done[0]
            thresholds += done[1]
            notes |= dict.fromkeys(done[2])
            self.advance(len(piece[1]) / len(self.seeds))
        for note in notes:
            self.say(note)
        columns = [*KEY, "n_train", "n_test", "accuracy"]
        table = pd.DataFrame(results, columns=columns)
        found = pd.DataFrame(thresholds, columns=THRESHOLD_COLUMNS)
        order = {"experiment": [e.name for e in experiments], "seed": list(self.seeds)}
        return _sorted(table, order), _sorted(found, order)

    def _split_seeds(self, sampling: Sampling) -> list[Sequence[int]]:
        """Return the seeds in pieces of work; a sampling without randomness is kept whole, to be worked out once."""
        size = -(-len(self.seeds) // (2 * self.jobs)) if sampling.random else len(self.seeds)
        size = min(size, 8) if sampling.random else size
        return [self.seeds[i : i + size] for i in range(0, len(self.seeds), size)]

    def _run(self, piece: tuple[Experiment, Sequence[int]]) -> tuple[list, list, list]:
        """Return rows of results, rows of thresholds and notes of one experiment for some of the seeds."""
        experiment, seeds = piece
        results, thresholds, notes = [], [], []
        task, sampling = TASKS[experiment.task], SAMPLINGS[experiment.sampling]
        if why := self.why_not(sampling, [task]):
            return [], [], [f"{experiment.name} is left out: {why}"]
        frames = [task_rows(frame, task) for frame in self.collections]
        if task.min_width and "width" in frames[0] and (smallest := frames[0]["width"].min()) < task.min_width:
            notes.append(
                f"{experiment.name}: no width is {task.min_width} or more; the widths from {smallest:g} are used"
            )
        methods = usable_methods(frames, task, self.methods, notes.append)
        frames = [finite_rows(frame, task, methods, notes.append) for frame in frames]
        check_two_classes(frames[0], task)
        around = zip(frames, self.sources, self.collections, strict=True)
        sides = [make_side(frame, task, methods, source, whole) for frame, source, whole in around]
        memory: dict = {}
        for k in choose_sizes(frames[0], sampling, self.k, experiment.name, notes.append):
            for seed in seeds:
                mask = sampling.mask(frames[0], k, seed)
                if not mask.any() or (len(sides) == 1 and mask.all()):
                    what = "every configuration and leaves none to test on" if mask.any() else "no configuration"
                    notes.append(f"{experiment.name}: k={k} samples {what}; it is left out")
                    continue
                for method in methods:
                    n_test, accuracy, fitted = self._outcome(method, sides, mask, seed, memory)
                    key = (experiment.name, task.name, method.name, k, seed)
                    results.append((*key, int(mask.sum()), n_test, accuracy))
                    thresholds += threshold_rows(key, fitted)
        return results, thresholds, notes

    def _outcome(self, method: Method, sides: list[Sample], mask: np.ndarray, seed: int, memory: dict):
        """Return what `evaluate` does, worked out once for the same sample and a seed that does not matter."""
        key = (method.name, mask.tobytes(), seed if method.is_seeded(sides[0].task) else None)
        if key not in memory:
            memory[key] = evaluate(method, sides, mask, seed)
        return memory[key]


def _sorted(table: pd.DataFrame, order: dict[str, list]) -> pd.DataFrame:
    """Return the rows by experiment, sample size and seed; methods and nodes keep their order."""
    places = {column: table[column].map({v: i for i, v in enumerate(values)}) for column, values in order.items()}
    rows = np.lexsort((places["seed"], table["k"], places["experiment"]))
    return table.iloc[rows].reset_index(drop=True)


def evaluate(method: Method, sides: Sequence[Sample], mask: np.ndarray, seed: int) -> tuple[int, float, Fitted]:
    """Fit a method on the sampled rows of the first side, ask it about the second, or about the rows not sampled.

    Returns:
        (n_test, accuracy in percent, what was fitted).
    """
    train = sides[0]
    test = sides[1] if len(sides) > 1 else train[~mask]
    fitted = method.fit(train[mask], seed)
    return len(test), 100.0 * float(np.mean(fitted.predict(test) == test.y)), fitted


def choose_sizes(
    frame: pd.DataFrame,
    sampling: Sampling,
    wanted: Sequence[int] | None,
    where: str,
    say: Callable[[str], None],
) -> list[int]:
    """Return the sample sizes k, those outside the grid clipped and said.

    Raises:
        UserError: a k that is not a whole number of at least 1.
    """
    if wanted is None:
        return list(sampling.sizes(frame))
    low, high = sampling.limits(frame)
    if not wanted:
        raise UserError("k=[] is empty; leave k out to use the sample sizes of the paper")
    sizes = []
    for k in wanted:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise UserError(f"k={k!r}; a sample size must be a whole number of at least 1")
        clipped = min(max(k, low), high)
        if clipped != k:
            say(f"{where}: k={k} ({sampling.unit}) exceeds the grid and is clipped to {clipped}")
        sizes.append(clipped)
    return list(dict.fromkeys(sizes))
