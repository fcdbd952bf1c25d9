"""The protocol of methods that answer a question about models: fitted on rows of one collection, applied to others.

    fitted = method.fit(Sample.of(collection, question), seed)
    fitted.predict(Sample.of(other, question))

All methods of `mdtree_jax.experiments.method_table` follow this protocol. This module defines the two that a diagnosis
uses: `trees_and_gains` answers the questions, `joint_method` names the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.causes.joint import question_probabilities
from mdtree_jax.causes.labels import CAUSES
from mdtree_jax.checks import UserError
from mdtree_jax.collection.columns import feature_values, missing_columns, missing_message
from mdtree_jax.collection.tasks import Task, task_rows
from mdtree_jax.trees.classifier import MDTreeClassifier
from mdtree_jax.trees.members import MEMBERS

if TYPE_CHECKING:
    from typing_extensions import TypeIs


class JointTask(NamedTuple):
    """The question which cause applies, by one of two labels: `step` or `room` (`mdtree_jax.causes.labels`).

    `classes` are the causes that the collections can identify, `none` last.
    """

    name: str
    label: str
    title: str
    classes: tuple[str, ...] = CAUSES
    hyperparameters: tuple[str, ...] = ("log_num_samples", "log_num_parameters")


#: Task of the results table -> the joint question that it asks.
JOINT_TASKS = {
    task.name: task
    for task in (
        JointTask("joint", "step", "The cause whose step of about ×2 gains most"),
        JointTask("joint_room", "room", "The cause with the largest room for improvement"),
    )
}

AnyTask = Task | JointTask


class _Features(dict):
    """Arrays of named features, each computed on first access."""

    def __init__(self, make: Callable[[tuple[str, ...]], np.ndarray]):
        super().__init__()
        self._make = make

    def __missing__(self, names: tuple[str, ...]) -> np.ndarray:
        self[names] = value = self._make(names)
        return value


class Gains(NamedTuple):
    """Rows of a collection, and the gain of each remedy for each of them.

    `gained` is (rows, causes - 1), in points, NaN if unknown; `causes` names its columns, followed by `none`.
    """

    frame: pd.DataFrame
    gained: np.ndarray
    causes: tuple[str, ...]


class Sample:
    """Rows of a collection as a method sees them.

    Attributes:
        task: the question.
        y: (rows,) the index of each row's label in `task.classes`.
        features: names -> (rows, features) float64, computed on first access.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        task: AnyTask,
        y: np.ndarray,
        gains: Callable[[], Gains] | None = None,
        source: pd.DataFrame | None = None,
    ):
        """Hold rows.

        Args:
            frame: rows of a loaded collection.
            task: the question.
            y: as the attribute.
            gains: a function that returns `gains`; called when a method needs them.
            source: the same rows with the metrics on another scale, if the metrics are to be read from it.
        """
        self.task, self.y, self._gains = task, y, gains
        self._whole: tuple[Sample, np.ndarray] | None = None
        self.__dict__["frame"] = frame
        metrics = frame if source is None else source
        self.features = _Features(lambda names: feature_values(metrics, names))

    @classmethod
    def of(cls, frame: pd.DataFrame, task: Task, **more: Any) -> Sample:
        """Return all rows of a table with the labels of a question in its column; `more` as the class takes it."""
        return cls(frame, task, np.array([task.classes.index(label) for label in frame[task.label]]), **more)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        assert self._whole is not None  # a whole side has its table from the start
        whole, rows = self._whole
        return whole.frame.loc[rows]

    @cached_property
    def gains(self) -> Gains:
        """The rows of the same side from whose gains a method may learn: those of the sample, or more.

        Raises:
            UserError: the gains of these rows are not known.
        """
        if self._gains is not None:
            return self._gains()
        if self._whole is None:
            raise UserError(f"task '{self.task.name}' needs gains, and the gains of these rows are unknown")
        known = self._whole[0].gains
        keep = known.frame.index.isin(self.frame.index)  # a loaded collection's index is unique
        return known._replace(frame=known.frame[keep], gained=known.gained[keep])

    def __getitem__(self, rows: np.ndarray) -> Sample:
        """Return some of the rows, (rows,) bool; their table is made when it is first asked for."""
        part = object.__new__(Sample)
        part.task, part.y, part._gains, part._whole = self.task, self.y[rows], None, (self, rows)
        part.features = _Features(lambda names: self.features[names][rows])
        return part

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.y)


class Fitted(NamedTuple):
    """A fitted method: functions of another sample of the same task.

    `predict(sample)` returns class indices, (rows,). `chances(sample)` returns probabilities, (rows, classes); None for
    a method without probabilities. `thresholds` are (feature, threshold) of each node of a fitted tree.
    """

    predict: Callable[[Sample], np.ndarray]
    chances: Callable[[Sample], np.ndarray] | None = None
    thresholds: tuple[tuple[str, float], ...] = ()


def likeliest(chances: Callable[[Sample], np.ndarray], **more) -> Fitted:
    """Return the fitted method that predicts the class with the largest probability."""
    return Fitted(lambda sample: chances(sample).argmax(axis=1), chances, **more)


class Method(NamedTuple):
    """One method.

    Attributes:
        name: identifier, as used in tables.
        label: display name.
        features: task -> the features that it uses.
        fit: (sample, seed) -> the fitted method.
        answers: task -> whether the method supports it.
        is_seeded: task -> whether its answers depend on the seed.
        adapt: `adapt(has)` returns the method restricted to the available features; None for a method that needs all of
            its features.
    """

    name: str
    label: str
    features: Callable[[Any], tuple[str, ...]]
    fit: Callable[[Sample, int], Fitted]
    answers: Callable[[AnyTask], bool] = lambda task: True
    is_seeded: Callable[[AnyTask], bool] = lambda task: False
    adapt: Callable[[Callable[[str], bool]], Method] | None = None


def asks_causes(task: AnyTask) -> TypeIs[JointTask]:
    """Return whether a task is the joint question."""
    return isinstance(task, JointTask)


def asks_two(task: AnyTask) -> TypeIs[Task]:
    """Return whether a task has two answers, as a diagnostic tree does."""
    return not isinstance(task, JointTask)


def joint_method(columns: Sequence[str] = joint.COLUMNS) -> Method:
    """Return the joint model restricted to the given columns, which names the cause."""

    def fit(sample: Sample, seed: int) -> Fitted:
        model = joint.fit_joint(sample.gains.frame, sample.gains.gained, columns)
        return likeliest(lambda other: joint.predict_joint(model, other.frame))

    def adapt(has: Callable[[str], bool]) -> Method:
        left = [name for name in columns if has(name)]
        return joint_method(left if joint.metrics_of(left) else columns)

    return Method(
        "md_tree_joint", "MD tree joint", lambda task: joint.metrics_of(columns), fit, asks_causes, adapt=adapt
    )


def trees_and_gains(columns: Sequence[str] = joint.COLUMNS) -> Method:
    """Return the method that answers the questions of a diagnosis: the mean of the trees and the room model."""

    def features(task: AnyTask) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*joint.metrics_of(columns), *MEMBERS[task.name][0].features)))

    def fit(sample: Sample, seed: int) -> Fitted:
        task = cast(Task, sample.task)  # `asks_two`
        frame, gained, causes = sample.gains
        model = joint.fit_joint(frame, gained, columns)
        learned = task_rows(sample.frame, task)
        tree = MDTreeClassifier(task.name).fit(learned, learned[task.label])
        order = [tree.classes_.tolist().index(name) for name in task.classes]

        def chances(other: Sample) -> np.ndarray:
            gains = joint.gain_posterior(model, other.frame)
            room = joint.task_probabilities(*gains, task, causes)
            return question_probabilities(tree.predict_proba(other.frame)[:, order], room)

        return likeliest(chances)

    def adapt(has: Callable[[str], bool]) -> Method:
        left = [name for name in columns if has(name)]
        return trees_and_gains(left if joint.metrics_of(left) else columns)

    return Method("trees_and_gains", "MD tree and joint model, mean", features, fit, asks_two, adapt=adapt)


def usable_methods(
    frames: Sequence[pd.DataFrame], task: AnyTask, methods: Sequence[Method], say: Callable[[str], None]
) -> list[Method]:
    """Return the methods that support a task and whose columns are available; `say` gets those that are skipped.

    Raises:
        UserError: no method is left.
    """
    usable, skipped = [], {}
    for method in methods:
        if not method.answers(task):
            continue
        if method.adapt:
            whole = method
            method = method.adapt(lambda name: not any(missing_columns(frame, [name]) for frame in frames))
            absent = sorted(set(whole.features(task)) - set(method.features(task)))
            if absent:
                say(f"{method.name} answers task {task.name} without {', '.join(absent)}, which a collection lacks")
        lacking = [(f, lack) for f in frames if (lack := missing_columns(f, method.features(task)))]
        if lacking:
            frame, names = lacking[0]
            skipped.setdefault(missing_message(frame, names), []).append(method.name)
        else:
            usable.append(method)
    for reason, names in skipped.items():
        say(f"task {task.name} is run without {', '.join(names)}: {reason}")
    if not usable and skipped:
        raise UserError(f"no method is left for task '{task.name}': {next(iter(skipped))}")
    return usable
