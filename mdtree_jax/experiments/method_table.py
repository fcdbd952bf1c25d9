"""The table of methods that the experiments compare: diagnostic trees, the joint model, and baselines.

All are instances of `mdtree_jax.causes.method_protocol.Method`. To add your own method::

    METHOD_TABLE.register(Method("mine", "my method", features, fit))

It is then used with `methods=[mine]`. Lists of names define which methods each kind of experiment compares by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sklearn
from sklearn.tree import DecisionTreeClassifier

from mdtree_jax.causes import joint
from mdtree_jax.causes.method_protocol import (
    AnyTask,
    Fitted,
    Method,
    Sample,
    asks_causes,
    asks_two,
    joint_method,
    trees_and_gains,
)
from mdtree_jax.checks import check_choice
from mdtree_jax.collection.tasks import Task
from mdtree_jax.registry.table import Table
from mdtree_jax.trees import fit as engine
from mdtree_jax.trees import robust
from mdtree_jax.trees.members import MEMBERS, RELATIVE_MEMBERS, SIMILARITY
from mdtree_jax.trees.structure import Structure

VALIDATION = ("train_error", "train_loss", "test_loss", "test_error")
LANDSCAPE = ("train_error", "mode_connectivity_peak", "cka", "log_hessian_trace")
_NUM_TREES = 100


def _free_tree(name: str, label: str, features: Callable[[Any], tuple[str, ...]], **options) -> Method:
    """Return a free scikit-learn tree, as published: Gini, depth at most 4, the run's seed.

    The order of the features decides its ties.
    """

    def fit(sample: Sample, seed: int) -> Fitted:
        names = features(sample.task)
        tree = DecisionTreeClassifier(criterion="gini", max_depth=4, random_state=seed)
        # float32 is what scikit-learn trees work in; converting here skips its input checks.
        with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
            tree.fit(sample.features[names].astype(np.float32), sample.y.astype(float)[:, None], check_input=False)

        def predict(other: Sample) -> np.ndarray:
            with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
                return tree.predict(other.features[names].astype(np.float32), check_input=False).astype(int)

        return Fitted(predict)

    # With one column there is no order of columns for the seed to shuffle.
    return Method(name, label, features, fit, is_seeded=lambda task: len(features(task)) > 1, **options)


def _forest(name: str, label: str, asks: Sequence[str]) -> Method:
    """Return a random forest as scikit-learn sets it up; `asks` are its features, which may be a view."""

    def fit(sample: Sample, seed: int) -> Fitted:
        from sklearn.ensemble import RandomForestClassifier  # slow to import, and few runs need it

        names = tuple(asks)
        model = RandomForestClassifier(_NUM_TREES, random_state=seed).fit(sample.features[names], sample.y)

        def chances(other: Sample) -> np.ndarray:
            out = np.zeros((len(other), len(other.task.classes)))
            out[:, model.classes_] = model.predict_proba(other.features[names])
            return out

        return Fitted(lambda other: model.predict(other.features[names]), chances)

    def adapt(has: Callable[[str], bool]) -> Method:
        return _forest(name, label, tuple(filter(has, asks)) or asks)

    return Method(name, label, lambda task: tuple(asks), fit, is_seeded=lambda task: True, adapt=adapt)


def _fit_majority(sample: Sample, seed: int) -> Fitted:
    commonest = np.bincount(sample.y, minlength=2).argmax()
    return Fitted(lambda other: np.full(len(other), commonest))


def _named(structure: Structure, thresholds: np.ndarray) -> tuple[tuple[str, float], ...]:
    return tuple((node.feature, float(t)) for node, t in zip(structure.nodes, thresholds.tolist(), strict=True))


def _diagnostic_tree(
    name: str,
    label: str,
    find: Callable[[Structure, np.ndarray, np.ndarray], np.ndarray] | None,
    structure: Callable[[Any], Structure],
    answers: Callable[[AnyTask], bool] = asks_two,
) -> Method:
    """Return a diagnostic tree whose thresholds `find` chooses; None keeps the initial ones."""

    def fit(sample: Sample, seed: int) -> Fitted:
        tree = structure(sample.task)
        X, place = sample.features[tree.features], _places(sample.task, tree)
        thresholds = tree.initial if find is None else find(tree, X, np.argsort(place)[sample.y])

        def predict(other: Sample) -> np.ndarray:
            return place[engine.predict_classes(tree, thresholds, other.features[tree.features])]

        return Fitted(predict, thresholds=() if find is None else _named(tree, thresholds))

    return Method(name, label, lambda task: structure(task).features, fit, answers)


def _places(task: AnyTask, tree: Structure) -> np.ndarray:
    """Return the place of each class of a tree among the task's, whose order may be another."""
    return np.array([task.classes.index(name) for name in tree.classes])


def robust_method(
    members: Callable[[Any], Sequence[Structure]],
    options: robust.Options = robust.DEFAULT,
    name: str = "md_tree_robust",
    label: str = "MD tree (robust fit)",
    answers: Callable[[AnyTask], bool] = asks_two,
) -> Method:
    """Return the average over threshold settings and member trees; its thresholds are the medians of the first."""

    def features(task: Task) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for tree in members(task) for name in tree.features))

    def values(trees: Sequence[Structure], sample: Sample) -> list[np.ndarray]:
        return [sample.features[tree.features] for tree in trees]

    def fit(sample: Sample, seed: int) -> Fitted:
        trees, place = members(sample.task), _places(sample.task, members(sample.task)[0])
        X, y = values(trees, sample), np.argsort(place)[sample.y]
        trained = robust.fit_members(trees, X, y, options)
        quick = robust.RobustFit(trained, robust.EXPONENT)  # the exponent changes probabilities, never the verdict

        def predict(other: Sample) -> np.ndarray:
            return place[robust.predict_proba(quick, values(trees, other)).argmax(axis=1)]

        def chances(other: Sample) -> np.ndarray:
            fitted = robust.with_exponent(trained, X, y, options)
            return robust.predict_proba(fitted, values(trees, other))[:, np.argsort(place)]

        return Fitted(predict, chances, _named(trees[0], robust.threshold_intervals(trained[0])[:, 0]))

    def adapt(has: Callable[[str], bool]) -> Method:
        def there(task: Task) -> list[Structure]:
            first, *companions = members(task)
            return [first, *(tree for tree in companions if all(map(has, tree.features)))]

        return robust_method(there, options, name, label, answers)

    return Method(name, label, features, fit, answers, adapt=adapt)


def _shown(task: Task) -> Structure:
    return MEMBERS[task.name][0]


METHOD_TABLE: Table[Method] = Table(
    "method",
    [
        _free_tree("hyperparameter", "hyperparameters", lambda task: task.hyperparameters),
        _free_tree("validation", "validation", lambda task: VALIDATION),
        _free_tree(
            "hyperparameter_validation",
            "hyperparameters + validation",
            lambda task: task.hyperparameters + VALIDATION,
        ),
        _free_tree("landscape", "free tree on landscape", lambda task: LANDSCAPE),
        _diagnostic_tree("md_tree", "MD tree (published fit)", engine.fit_published, _shown),
        _diagnostic_tree("md_tree_exact", "MD tree (exact fit)", engine.fit_exact, _shown),
        _diagnostic_tree(
            "md_tree_similarity",
            "MD tree with similarity",
            engine.fit_published,
            lambda task: SIMILARITY[task.name],
            lambda task: task.name in SIMILARITY,
        ),
        robust_method(lambda task: MEMBERS[task.name]),
        robust_method(
            lambda task: RELATIVE_MEMBERS[task.name],
            name="md_tree_relative",
            label="MD tree, sharpness relative to the loss",
            answers=lambda task: task.name in RELATIVE_MEMBERS,
        ),
        Method("majority", "majority class", lambda task: (), _fit_majority),
        _diagnostic_tree("initial_thresholds", "initial thresholds", None, _shown),
        joint_method(),
        trees_and_gains(),
        _forest("forest", "random forest, same features", tuple(joint.METRICS)),
        _forest("validation_forest", "random forest on validation", VALIDATION),
    ],
)

_QUESTION_NAMES = (
    "hyperparameter", "validation", "hyperparameter_validation", "landscape", "md_tree", "md_tree_exact",
    "md_tree_similarity", "md_tree_robust", "md_tree_relative", "majority", "initial_thresholds",
)  # fmt: skip
_JOINT_NAMES = ("md_tree_joint", "forest", "validation", "validation_forest", "hyperparameter", "majority")

#: Default methods of the experiments on the questions, and on the joint question.
METHODS = {name: METHOD_TABLE[name] for name in _QUESTION_NAMES}
JOINT_METHODS = {name: METHOD_TABLE[name] for name in _JOINT_NAMES}
#: Methods of `mode=one_step`, in addition to the references `random` and `oracle`.
ONE_STEP_METHODS = ("hyperparameter", "validation", "md_tree", "md_tree_exact", "md_tree_robust")
#: Methods of `mode=coverage`: the answer of a diagnosis, the trees alone, and a forest.
COVERAGE_METHODS = ("trees_and_gains", "md_tree_joint", "md_tree_robust", "forest")


def get_methods(names: Sequence[str] | None, tasks: Sequence[AnyTask] = ()) -> list[Method]:
    """Return the methods with the given names; None returns the default methods.

    Args:
        names: of methods.
        tasks: the tasks; methods that support none of them count as unknown. None means the questions.

    Raises:
        UserError: an unknown method; the message lists the known ones.
    """
    defaults = (JOINT_METHODS if asks_causes(task) else METHODS for task in tasks)
    known = {name: method for part in (defaults if tasks else (METHODS,)) for name, method in part.items()}
    if names is None:
        return list(known.values())
    more = {m.name: m for m in METHOD_TABLE.values() if not tasks or any(map(m.answers, tasks))}
    return [METHOD_TABLE[check_choice("method", name, known | more)] for name in names]
