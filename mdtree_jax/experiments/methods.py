"""The methods that the experiments compare: diagnostic trees and the baselines beside them.

A method is a function `(task, X_train, y_train, X_test, seed) -> (y_predicted, thresholds)`; X are the columns that
`Method.features(task)` names, y places among `task.classes`. `thresholds` is None where a method has none of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import sklearn
from sklearn.tree import DecisionTreeClassifier

from mdtree_jax.checks import check_choice
from mdtree_jax.collection.tasks import Task
from mdtree_jax.trees import fit as engine
from mdtree_jax.trees import robust
from mdtree_jax.trees.questions import MEMBERS, OPTIMIZER_SIMILARITY, RELATIVE_MEMBERS, STRUCTURES
from mdtree_jax.trees.structure import Structure

VALIDATION = ("train_error", "train_loss", "test_loss", "test_error")
LANDSCAPE = ("train_error", "mode_connectivity_peak", "cka", "log_hessian_trace")
#: The order of columns decides ties of the baselines (docs/explanation/experiments.md).
HYPERPARAMETER = {
    "optimizer": ("log_num_samples", "log_num_parameters"),
    "size": ("log_num_samples",),
    "data": ("log_num_parameters",),
}

Predict = Callable[[Task, np.ndarray, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray | None]]


class Method(NamedTuple):
    """One method: `label` is its name for people, `tasks` where it is defined, `seeded` whether the seed matters.

    `structure(task)` is the tree whose thresholds it returns; `adapt(has)` is the method without the parts whose
    features are not there, for a method that can do with less.
    """

    name: str
    label: str
    features: Callable[[Task], tuple[str, ...]]
    predict: Predict
    seeded: Callable[[Task], bool] = lambda task: False
    tasks: tuple[str, ...] = ("optimizer", "size", "data")
    structure: Callable[[Task], Structure] | None = None
    adapt: Callable[[Callable[[str], bool]], Method] | None = None


def _decision_tree(task, X_train, y_train, X_test, seed):
    """A free scikit-learn tree, as published: Gini, depth at most 4, the run's seed."""
    tree = DecisionTreeClassifier(criterion="gini", max_depth=4, random_state=seed)
    # float32 is what scikit-learn trees work in; converting here skips its input checks.
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
        tree.fit(X_train.astype(np.float32), y_train.astype(float)[:, None], check_input=False)
        return tree.predict(X_test.astype(np.float32), check_input=False).astype(int), None


def _majority(task, X_train, y_train, X_test, seed):
    return np.full(len(X_test), np.bincount(y_train, minlength=2).argmax()), None


def _baseline(name: str, label: str, features: Callable[[Task], tuple[str, ...]]) -> Method:
    # With one column there is no order of columns for the seed to shuffle.
    return Method(name, label, features, _decision_tree, seeded=lambda task: len(features(task)) > 1)


def _diagnostic_tree(name: str, label: str, fit: Callable, structure: Callable[[Task], Structure], **options) -> Method:
    def predict(task, X_train, y_train, X_test, seed):
        tree = structure(task)
        # The structure's classes may stand in another order than the task's.
        place = np.array([task.classes.index(name) for name in tree.classes])
        thresholds = fit(tree, X_train, np.argsort(place)[y_train])
        fitted = None if fit is _initial else thresholds
        return place[engine.predict_classes(tree, thresholds, X_test)], fitted

    return Method(name, label, lambda task: structure(task).features, predict, structure=structure, **options)


def robust_method(
    members: Callable[[Task], list[Structure]],
    options: robust.Options = robust.DEFAULT,
    name: str = "md_tree_robust",
    label: str = "MD tree (robust fit)",
    tasks: tuple[str, ...] = tuple(MEMBERS),
) -> Method:
    """Return the average over threshold settings and member trees; its thresholds are the medians of the first."""

    def features(task):
        return tuple(dict.fromkeys(name for tree in members(task) for name in tree.features))

    def predict(task, X_train, y_train, X_test, seed):
        trees, names = members(task), features(task)
        columns = [[names.index(name) for name in tree.features] for tree in trees]
        place = np.array([task.classes.index(name) for name in trees[0].classes])
        trained = robust.fit_members(trees, [X_train[:, c] for c in columns], np.argsort(place)[y_train], options)
        fit = robust.RobustFit(trained, robust.EXPONENT)  # the exponent changes probabilities, never the verdict
        votes = robust.predict_proba(fit, [X_test[:, c] for c in columns])
        return place[votes.argmax(axis=1)], robust.threshold_intervals(fit.members[0])[:, 0]

    def adapt(has):
        def there(task):
            first, *companions = members(task)
            return [first, *(tree for tree in companions if all(map(has, tree.features)))]

        return robust_method(there, options, name, label, tasks)

    return Method(name, label, features, predict, tasks=tasks, structure=lambda task: members(task)[0], adapt=adapt)


def _published_structure(task: Task) -> Structure:
    return STRUCTURES[task.name]


def _initial(structure: Structure, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    return structure.initial


METHODS = {
    method.name: method
    for method in (
        _baseline("hyperparameter", "hyperparameters", lambda task: HYPERPARAMETER[task.name]),
        _baseline("validation", "validation", lambda task: VALIDATION),
        _baseline(
            "hyperparameter_validation",
            "hyperparameters + validation",
            lambda task: HYPERPARAMETER[task.name] + VALIDATION,
        ),
        _baseline("landscape", "free tree on landscape", lambda task: LANDSCAPE),
        _diagnostic_tree("md_tree", "MD tree (published fit)", engine.fit_published, _published_structure),
        _diagnostic_tree("md_tree_exact", "MD tree (exact fit)", engine.fit_exact, _published_structure),
        _diagnostic_tree(
            "md_tree_similarity",
            "MD tree with similarity",
            engine.fit_published,
            lambda task: OPTIMIZER_SIMILARITY,
            tasks=("optimizer",),
        ),
        robust_method(lambda task: list(MEMBERS[task.name])),
        robust_method(
            lambda task: list(RELATIVE_MEMBERS[task.name]),
            name="md_tree_relative",
            label="MD tree, sharpness relative to the loss",
            tasks=tuple(RELATIVE_MEMBERS),
        ),
        Method("majority", "majority class", lambda task: (), _majority),
        _diagnostic_tree("initial_thresholds", "initial thresholds", _initial, _published_structure),
    )
}


def get_methods(names: list[str] | None) -> list[Method]:
    """Return the methods of those names, all of them for None.

    Raises:
        UserError: no such method; the message lists them.
    """
    return [METHODS[check_choice("method", name, METHODS)] for name in (names or METHODS)]
