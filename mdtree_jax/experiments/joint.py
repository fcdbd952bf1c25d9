"""Transfer of the joint question: fit on a sample of one collection, identify the causes on another.

The experiments are those of the published questions (`mdtree_jax.experiments.runner`) with the joint answer: k
random cells, the k smallest data fractions, the widths up to k. Both labels of
`mdtree_jax.causes.labels` are reported, `step` as task `joint`, `room` as task `joint_room`. Labels are computed from
the whole grid, even if methods are fitted on a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdtree_jax.causes.evaluate import causes_told, joint_sample, make_joint_side
from mdtree_jax.causes.labels import CAUSES
from mdtree_jax.causes.method_protocol import JOINT_TASKS, JointTask, Method, Sample, usable_methods
from mdtree_jax.collection.columns import sources
from mdtree_jax.experiments.runner import JOINT_EXPERIMENTS, KEY, Experiment, Setup, choose_sizes
from mdtree_jax.experiments.sampling import SAMPLINGS
from mdtree_jax.parallel import ordered_map

#: Sample sizes of `joint_dataset`: a forest is slow, and between them the curves are smooth.
_CELLS = (1, 2, 4, 8, 16, 24, 48, 96, 130)


def joint_experiments_of(mode: str, tasks: Sequence[str]) -> list[Experiment]:
    """Return the joint experiments of a mode, both labels where `tasks` names `joint`."""
    wanted = set(tasks) | ({"joint_room"} if "joint" in tasks else set())
    return [e for e in JOINT_EXPERIMENTS.values() if mode in (e.mode, "all") and e.task in wanted]


@dataclass
class JointRunner(Setup):
    """Runs the joint experiments; `test` None means the cells that were not sampled."""

    def run(self, experiments: Sequence[Experiment]) -> pd.DataFrame:
        """Return the table `results` of the experiments; accuracy in percent."""
        rows = []
        methods = usable_methods(self.collections, JOINT_TASKS["joint"], self.methods, self.say)
        causes = causes_told(self.collections, self.say, allow_missing=self.allow_missing)
        for experiment in experiments:
            if why := self.why_not(SAMPLINGS[experiment.sampling]):
                self.say(f"{experiment.name} is left out: {why}")
                self.advance(1)
                continue
            task = JOINT_TASKS[experiment.task]
            sides = [self._side(frame, task, methods, causes) for frame in self.collections]
            pieces = self._pieces(experiment, sides)

            def work(piece, sides=sides, experiment=experiment):
                return self._run(experiment, sides, methods, *piece)

            for part in ordered_map(work, pieces, self.jobs):
                rows += part
                self.advance(1 / len(pieces))
        return pd.DataFrame(rows, columns=[*KEY, "n_train", "n_test", "accuracy"])

    def _side(self, frame: pd.DataFrame, task: JointTask, methods: Sequence[Method], causes: Sequence[str]) -> Sample:
        """Return the rows of a collection on which every method's columns are finite and every gain is known."""
        columns = list(dict.fromkeys(source for m in methods for name in m.features(task) for source in sources(name)))
        side = make_joint_side(frame, task.label, columns, allow_missing=self.allow_missing, causes=causes)
        return joint_sample(side, task, causes)

    def _pieces(self, experiment: Experiment, sides: Sequence[Sample]) -> list[tuple[int, Sequence[int]]]:
        """Return (k, seeds) of every piece of work; without randomness in the sample its seeds stay together."""
        sampling, frame = SAMPLINGS[experiment.sampling], sides[0].frame
        wanted = self.k
        if wanted is None and experiment.sampling == "random":
            most = sampling.limits(frame)[1] - (self.test is None)
            wanted = [k for k in _CELLS if k <= most]
        sizes = choose_sizes(frame, sampling, wanted, experiment.name, self.say)
        together = [[seed] for seed in self.seeds] if sampling.random else [self.seeds]
        return [(k, seeds) for k in sizes for seeds in together]

    def _run(self, experiment, sides, methods, k: int, seeds: Sequence[int]) -> list[tuple]:
        train, rows, memory = sides[0], [], {}
        for seed in seeds:
            mask = SAMPLINGS[experiment.sampling].mask(train.frame, k, seed)
            test = sides[1] if len(sides) > 1 else train[~mask]
            if not mask.any() or not len(test):
                continue
            for method in methods:
                # A sample that is drawn has one seed a piece, so that nothing is reused across samples.
                if method.is_seeded(train.task) or method.name not in memory:
                    memory[method.name] = method.fit(train[mask], seed).predict(test)
                accuracy = 100.0 * float(np.mean(memory[method.name] == test.y))
                key = (experiment.name, experiment.task, method.name, k, seed)
                rows.append((*key, int(mask.sum()), len(test), accuracy))
        return rows


def confusion(y: np.ndarray, predicted: np.ndarray, causes: Sequence[str] = CAUSES) -> pd.DataFrame:
    """Return how often each cause (rows) got each answer (columns)."""
    table = np.zeros((len(causes), len(causes)), dtype=int)
    np.add.at(table, (y, predicted), 1)
    return pd.DataFrame(table, index=list(causes), columns=list(causes))
