"""Transfer of the joint question: train on a sample of one collection, tell the causes apart on another.

The experiments are those of the published questions (`mdtree_jax.experiments.runner`) with the joint answer: k
random cells, the k smallest data fractions, the widths up to k. Both labels of
`mdtree_jax.causes.labels` are reported, `step` as task `joint`, `room` as task `joint_room`. Labels come from the
whole grid, also where a sample trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from mdtree_jax.causes import joint
from mdtree_jax.causes.evaluate import JOINT_TASKS, JointSide, causes_told, forest, make_joint_side
from mdtree_jax.causes.labels import CAUSES
from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.collection.columns import feature_values, missing_columns, missing_message, sources
from mdtree_jax.experiments.methods import VALIDATION
from mdtree_jax.experiments.runner import JOINT_EXPERIMENTS, KEY, Experiment, Setup, choose_sizes
from mdtree_jax.experiments.sampling import SAMPLINGS
from mdtree_jax.parallel import ordered_map

#: Sample sizes of `joint_dataset`: a forest is slow, and between them the curves are smooth.
_CELLS = (1, 2, 4, 8, 16, 24, 48, 96, 130)


class JointMethod(NamedTuple):
    """One method: `predict(sample, sample_gains, y, test, seed)` gives the places of the causes of the test rows."""

    name: str
    label: str
    features: tuple[str, ...]
    predict: Callable[[pd.DataFrame, np.ndarray, np.ndarray, pd.DataFrame, int], np.ndarray]
    seeded: bool = True


def _joint(sample, gained, y, test, seed):
    return joint.predict_joint(joint.fit_joint(sample, gained), test).argmax(axis=1)


def _majority(sample, gained, y, test, seed):
    return np.full(len(test), np.bincount(y).argmax())


def _sklearn(name: str, label: str, features: tuple[str, ...], make: Callable) -> JointMethod:
    def predict(sample, gained, y, test, seed):
        model = make(random_state=seed).fit(feature_values(sample, features), y)
        return model.predict(feature_values(test, features))

    return JointMethod(name, label, features, predict)


def _tree(random_state: int) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(criterion="gini", max_depth=4, random_state=random_state)


JOINT_METHODS = {
    method.name: method
    for method in (
        JointMethod("md_tree_joint", "MD tree joint", joint.METRICS, _joint, seeded=False),
        _sklearn("forest", "random forest, same features", joint.METRICS, forest),
        _sklearn("validation", "validation", VALIDATION, _tree),
        _sklearn("validation_forest", "random forest on validation", VALIDATION, forest),
        _sklearn("hyperparameter", "hyperparameters", ("log_num_samples", "log_num_parameters"), _tree),
        JointMethod("majority", "majority class", (), _majority, seeded=False),
    )
}


def get_joint_methods(names: Sequence[str] | None) -> list[JointMethod]:
    """Return the methods of those names, all of them for None.

    Raises:
        UserError: no such method; the message lists them.
    """
    return [JOINT_METHODS[check_choice("method of task joint", name, JOINT_METHODS)] for name in names or JOINT_METHODS]


def joint_experiments_of(mode: str, tasks: Sequence[str]) -> list[Experiment]:
    """Return the joint experiments of a mode, both labels where `tasks` names `joint`."""
    wanted = set(tasks) | ({"joint_room"} if "joint" in tasks else set())
    return [e for e in JOINT_EXPERIMENTS.values() if mode in (e.mode, "all") and e.task in wanted]


@dataclass
class JointRunner(Setup):
    """Runs the joint experiments; `methods` are `JointMethod`s, `test` None means the cells that were not sampled."""

    def run(self, experiments: Sequence[Experiment]) -> pd.DataFrame:
        """Return the table `results` of the experiments; accuracy in percent."""
        rows = []
        methods = self._usable()
        options = {"allow_missing": self.allow_missing}
        options["causes"] = causes_told(self.collections, self.say, allow_missing=self.allow_missing)
        for experiment in experiments:
            if why := self.why_not(SAMPLINGS[experiment.sampling]):
                self.say(f"{experiment.name} is left out: {why}")
                self.advance(1)
                continue
            label, columns = JOINT_TASKS[experiment.task], self._columns(methods)
            sides = [make_joint_side(frame, label, columns, **options) for frame in self.collections]
            pieces = self._pieces(experiment, sides)

            def work(piece, sides=sides, experiment=experiment):
                return self._run(experiment, sides, methods, *piece)

            for part in ordered_map(work, pieces, self.jobs):
                rows += part
                self.advance(1 / len(pieces))
        return pd.DataFrame(rows, columns=[*KEY, "n_train", "n_test", "accuracy"])

    def _usable(self) -> list[JointMethod]:
        usable = []
        for method in self.methods:
            lacking = [(f, lack) for f in self.collections if (lack := missing_columns(f, method.features))]
            if lacking:
                self.say(f"task joint goes without {method.name}: {missing_message(*lacking[0])}")
            else:
                usable.append(method)
        if not usable:
            raise UserError("no method is left for task 'joint': the collection lacks the columns of all of them")
        return usable

    @staticmethod
    def _columns(methods: Sequence[JointMethod]) -> list[str]:
        return list(dict.fromkeys(source for m in methods for name in m.features for source in sources(name)))

    def _pieces(self, experiment: Experiment, sides: Sequence[JointSide]) -> list[tuple[int, Sequence[int]]]:
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
            test = sides[1] if len(sides) > 1 else JointSide(*(part[~mask] for part in train))
            if not mask.any() or not len(test.y):
                continue
            for method in methods:
                if method.seeded or method.name not in memory:
                    sample = JointSide(*(part[mask] for part in train))
                    memory[method.name] = method.predict(*sample, test.frame, seed)
                accuracy = 100.0 * float(np.mean(memory[method.name] == test.y))
                key = (experiment.name, experiment.task, method.name, k, seed)
                rows.append((*key, int(mask.sum()), len(test.y), accuracy))
        return rows


def confusion(y: np.ndarray, predicted: np.ndarray, causes: Sequence[str] = CAUSES) -> pd.DataFrame:
    """Return how often each cause (rows) got each answer (columns)."""
    table = np.zeros((len(causes), len(causes)), dtype=int)
    np.add.at(table, (y, predicted), 1)
    return pd.DataFrame(table, index=causes, columns=causes)
