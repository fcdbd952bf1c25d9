"""The gain from following the advice: one step on the grid in the diagnosed direction (Zhou et al., appendix A)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.causes.method_protocol import Fitted, Method, Sample, usable_methods
from mdtree_jax.checks import UserError
from mdtree_jax.collection.grid import Grid, make_grid, room_for_improvement
from mdtree_jax.collection.moves import Move
from mdtree_jax.collection.tasks import OPTIMAL, TASKS, _collection
from mdtree_jax.experiments.method_table import ONE_STEP_METHODS
from mdtree_jax.experiments.runner import (
    THRESHOLD_COLUMNS,
    Setup,
    check_two_classes,
    finite_rows,
    make_side,
    threshold_rows,
)
from mdtree_jax.experiments.sampling import SAMPLINGS
from mdtree_jax.parallel import ordered_map

STEPS = ("one", "random", "optimal")


class Setting(NamedTuple):
    """One task of the experiment: the tasks whose advice it needs, its sampling with k, and the oracle's causes.

    Against each cause one move is made: that of the first knob that the collection varies (the batch size, where it
    varies both that and the learning rate).
    """

    task: str
    asks: tuple[str, ...]
    sampling: str
    k: int
    causes: tuple[str, ...]
    random: tuple[float, ...]  # probability of each move under random advice


_LOW, _HIGH = "temperature_too_low", "temperature_too_high"
SETTINGS = (
    Setting("optimizer", ("optimizer",), "random", 8, (_LOW, _HIGH), (0.5, 0.5)),
    # A coin between width and batch, then a coin between the two ways of the batch.
    Setting("size", ("size", "optimizer"), "random_data", 1, (_LOW, _HIGH, "model_too_small"), (0.25, 0.25, 0.5)),
)


def step_gains(grid: Grid, move: Move) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, for each step, (gain clipped at 0, gain) in points of test accuracy, both (rows,).

    Steps: `one` is the adjacent grid value; `random` the mean over all values in the direction (the expectation of a
    uniform draw); `optimal` the best of them, the point itself excluded. At the edge of the grid the gain is 0; it is
    NaN where every configuration that the step could reach is missing. Clipping is value by value, before any mean.
    """
    one, optimal = grid.step_gain(move, None), grid.test_error - grid.best_ahead(move)
    total, total_clipped, count = (np.zeros(len(one)) for _ in range(3))
    for target in grid.lines[move.knob].each_ahead(move.sign):
        gain = np.where(target >= 0, grid.gain(target), 0.0)
        total, total_clipped, count = total + gain, total_clipped + np.maximum(gain, 0), count + (target >= 0)
    count[count == 0] = np.nan
    means = (total_clipped / count, total / count)
    pairs = zip(STEPS, ((np.maximum(one, 0), one), means, (np.maximum(optimal, 0), optimal)), strict=True)
    edge = grid.edge(move)
    return {step: (np.where(edge, 0.0, clipped), np.where(edge, 0.0, gain)) for step, (clipped, gain) in pairs}


def advice_to_direction(advice: dict[str, np.ndarray]) -> np.ndarray:
    """Return each row's direction as a place in (hotter, colder, wider), the causes of a `Setting`, (rows,).

    `advice` maps a task to its verdicts as places among the task's classes; where task `size` says temperature, task
    `optimizer` says which way.
    """
    too_low = TASKS["optimizer"].classes.index("temperature_too_low")
    places = np.where(advice["optimizer"] == too_low, 0, 1)
    if "size" in advice:
        places = np.where(advice["size"] == TASKS["size"].classes.index("size"), 2, places)
    return places


def one_step_methods(methods: Sequence[Method], tasks: Sequence[str]) -> list[Method]:
    """Return those of the methods that take part in the one-step experiment, none where it has none of the tasks."""
    if not any(setting.task in tasks for setting in SETTINGS):
        return []
    return [method for method in methods if method.name in ONE_STEP_METHODS]


@dataclass
class OneStepRunner(Setup):
    """Runs the one-step experiments; `test` None means the configurations of `train` that were not sampled."""

    def run(self, tasks: Sequence[str] = tuple(TASKS)) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the tables one_step (task, method, step, seed, gain, gain_unclipped) and thresholds of its trees."""
        rows, thresholds = [], []
        settings = [s for s in SETTINGS if s.task in tasks]
        for gains, fitted, notes in ordered_map(self._run, settings, self.jobs):
            rows += gains
            thresholds += fitted
            for note in notes:
                self.say(note)
            self.advance(1)
        table = pd.DataFrame(rows, columns=["task", "method", "step", "seed", "gain", "gain_unclipped"])
        return table, pd.DataFrame(thresholds, columns=THRESHOLD_COLUMNS)

    def _run(self, setting: Setting) -> tuple[list, list, list]:
        """Return rows of gains, rows of thresholds and notes of one task."""
        rows, thresholds, notes, where = [], [], [], f"one_step_{setting.task}"
        tasks = [TASKS[name] for name in setting.asks]
        if why := self.why_not(SAMPLINGS[setting.sampling], tasks):
            return [], [], [f"{where} is left out: {why}"]
        frames = [_clear_rows(frame, tasks) for frame in self.collections]
        methods = self.methods
        for task in tasks:
            methods = usable_methods(frames, task, methods, notes.append)
        for task in tasks:
            frames = [finite_rows(frame, task, methods, notes.append) for frame in frames]
        for task in tasks:
            check_two_classes(frames[0], task)
        sides = {
            task.name: [
                make_side(frame, task, methods, source, whole)
                for frame, source, whole in zip(frames, self.sources, self.collections, strict=True)
            ]
            for task in tasks
        }
        table = GainTable(setting, self.collections[-1], frames[-1], allow_missing=self.allow_missing)
        sampling = SAMPLINGS[setting.sampling]
        most = sampling.limits(frames[0])[1] - (self.test is None)  # without a test side something must be left
        k = min(setting.k, most)
        if k < 1:
            raise UserError(
                f"{where}: with only one of {sampling.unit}, the grid leaves nothing to test on; give test="
            )
        if k != setting.k:
            notes.append(f"{where}: k={setting.k} ({sampling.unit}) exceeds the grid and is clipped to {k}")
        for seed in self.seeds:
            sampled = sampling.mask(frames[0], k, seed)
            if not sampled.any():
                notes.append(f"{where}: seed {seed} samples no configuration and is left out")
                continue
            tested = table.is_complete & (~sampled if self.test is None else True)
            if not tested.any():
                raise UserError(f"{where}: no configuration with all of its neighbours is left to test on")
            advised = {name: weights[tested] for name, weights in table.references().items()}
            for method in methods:
                advice = {}
                for task in tasks:
                    advice[task.name], fitted = _advise(method, sides[task.name], sampled, tested, seed)
                    thresholds += threshold_rows((where, task.name, method.name, k, seed), fitted)
                advised[method.name] = np.eye(len(setting.causes))[advice_to_direction(advice)]
            for name, weights in advised.items():
                for step, *gains in table.mean_gains(weights, tested):
                    rows.append((setting.task, name, step, seed, *gains))
        return rows, thresholds, notes


def _advise(
    method: Method, sides: Sequence[Sample], sampled: np.ndarray, tested: np.ndarray, seed: int
) -> tuple[np.ndarray, Fitted]:
    """Return the verdicts on the tested rows, as places among the task's classes, and what was fitted."""
    fitted = method.fit(sides[0][sampled], seed)
    return fitted.predict(sides[-1][tested]), fitted


def _clear_rows(frame: pd.DataFrame, tasks) -> pd.DataFrame:
    """Return the rows that are 'optimal' in none of the tasks."""
    labels = [frame[task.label] for task in tasks]
    keep = np.logical_and.reduce([(label.notna() & (label != OPTIMAL)).to_numpy() for label in labels])
    if not keep.any():
        raise UserError(f"collection '{frame.attrs.get('name')}': every row is 'optimal' in task {tasks[0].name}")
    return frame[keep]


class GainTable:
    """Gains of every direction and step at the rows of the test side."""

    def __init__(self, setting: Setting, collection: pd.DataFrame, rows: pd.DataFrame, *, allow_missing: bool):
        grid = make_grid(collection, allow_missing=allow_missing)
        here = collection.index.isin(rows.index)  # a loaded collection's index is unique
        self.setting = setting
        moves = [move for cause in setting.causes for move in grid.moves_against(cause)[:1]]
        if len(moves) < len(setting.causes):
            raise UserError(
                f"one_step_{setting.task}: {_collection(collection)} has no axis for {', '.join(setting.causes)} each"
            )
        self.room = np.stack([room_for_improvement(grid, move)[here] for move in moves], axis=1)
        gains = [step_gains(grid, move) for move in moves]
        self.gains = {
            step: [np.stack([gain[step][i][here] for gain in gains], axis=1) for i in (0, 1)] for step in STEPS
        }
        # The same rows for every method and the references, whichever way they advise.
        self.is_complete = np.all([np.isfinite(g).all(axis=1) for pair in self.gains.values() for g in pair], axis=0)

    def references(self) -> dict[str, np.ndarray]:
        """Return the advice of chance and of the oracle as weights (rows, directions)."""
        chance = np.tile(self.setting.random, (len(self.room), 1))
        return {"random": chance, "oracle": np.eye(self.room.shape[1])[self.room.argmax(axis=1)]}

    def mean_gains(self, weights: np.ndarray, tested: np.ndarray) -> list[tuple[str, float, float]]:
        """Return (step, gain, gain_unclipped), means over the tested rows under weights (tested, directions)."""
        out = []
        for step, pair in self.gains.items():
            means = [np.mean((weights * gains[tested]).sum(axis=1)) for gains in pair]
            out.append((step, *map(float, means)))
        return out
