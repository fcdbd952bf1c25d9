"""`MDTreeClassifier`: a diagnostic tree as a scikit-learn estimator."""

from __future__ import annotations

import json
import os
from html import escape
from types import MethodType

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.collection.columns import canonicalize, feature_values, finite_rows_of, missing_message
from mdtree_jax.collection.grid import with_labels
from mdtree_jax.collection.tasks import OPTIMAL, TASKS, check_label, get_task, smallest_width
from mdtree_jax.files import write_text
from mdtree_jax.registry.questions import published_classes
from mdtree_jax.trees import fit as engine
from mdtree_jax.trees import robust
from mdtree_jax.trees.drawing import draw_tree, tree_text
from mdtree_jax.trees.members import MEMBERS, SIMILARITY, STRUCTURES, choose_members
from mdtree_jax.trees.saved import read_tree, tree_to_dict
from mdtree_jax.trees.structure import Structure

#: Name -> function (structure, X, y) -> thresholds.
_THRESHOLD_FITS = {"published": engine.fit_published, "exact": engine.fit_exact}
FITS = ("robust", *_THRESHOLD_FITS)


class _FitMethod:
    """Lets `fit` be both the constructor's parameter (kept in the instance's dictionary) and the method."""

    def __init__(self, function):
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance, owner=None):
        return self.function if instance is None else MethodType(self.function, instance)

    def __set__(self, instance, value):
        vars(instance)["fit"] = value


def choose_structure(task: str, *, similarity: bool = False, structure=None) -> Structure:
    """Return the structure for a task and its options.

    Raises:
        UserError: unknown task or structure, or `similarity` for a task that has no such variant.
    """
    if structure is None:
        get_task(task)
        if similarity and task not in SIMILARITY:
            raise UserError(
                f"similarity=True is only available for task='{', '.join(SIMILARITY)}', not for task='{task}'"
            )
        return SIMILARITY[task] if similarity else MEMBERS[task][0]
    if similarity:
        raise UserError("similarity=True and structure= cannot be combined; give only one of them")
    if isinstance(structure, Structure):
        return structure
    if isinstance(structure, dict):
        return Structure.from_dict(structure)
    if str(structure).endswith((".yaml", ".yml")):
        return Structure.from_yaml(structure)
    return STRUCTURES[check_choice("tree structure", str(structure), STRUCTURES)]


class MDTreeClassifier(ClassifierMixin, BaseEstimator):
    """A diagnostic tree: structure fixed by hand, thresholds fitted (Zhou et al., "MD tree", ICML 2024).

    Args:
        task: `optimizer` (is the temperature too low or too high), `size` (width or temperature) or `data` (data or
            temperature).
        similarity: use the variant of task `optimizer` whose last node tests CKA instead of sharpness.
        fit: how thresholds are found: `robust` (the average vote over all threshold settings that explain the rows,
            and, for a collection and a task's own structure, over companion trees that use other metrics), `published`
            (one sweep of bounded scalar searches, which reproduces the paper) or `exact` (the thresholds that jointly
            maximize the training accuracy).
        structure: another tree: a `Structure`, a dictionary, a YAML file, or the name of a published one.
        min_width: if y comes from the collection, `fit` and `score` ignore rows with a smaller width. None uses the
            default of the task (32 for `data`, as published, or the five largest widths of a narrower grid); 0 uses all
            rows.

    Attributes:
        thresholds_: (nodes,), each in its feature's unit, in the order of `structure_.nodes`; the medians for the
            robust fit.
        threshold_intervals_: (nodes, 2) bounds of the central 90 % interval of each; None except for the robust fit.
        members_: the structures that vote, starting with `structure_`; only that one except for the robust fit.
        agreement_: share of the training rows on which the tree at `thresholds_` agrees with the estimator.
        classes_: (2,) the classes, sorted.
        leaf_counts_: (leaves, classes) number of training rows by leaf and class; leaves from left to right.
        structure_: the `Structure` in use.
        n_features_in_: number of columns of the array that `fit` got; of a collection, of the structure's features.
        feature_names_in_: the structure's features, if `fit` got a collection; arrays then have them in this order.

    X is a collection (a DataFrame in which features are found by name or published name), or an array whose columns are
    the structure's `features` in order; further columns of an array are ignored. Given a collection and no y, `fit` and
    `score` use its label (computed from the grid if absent) and leave out 'optimal' rows; `predict` returns a class for
    every row.

    Edge cases:

    ==============================  =====================================================
    only one class in y             UserError
    a feature that is not finite    UserError that names column and row
    a leaf that no row reaches      keeps its class; `predict_proba` is uniform
    two unknown classes in y        mapped to the structure's classes in sorted order
    ==============================  =====================================================

    >>> import numpy as np
    >>> X = np.array([[0.0, -0.1, 3.0], [9.0, -40.0, 8.0], [9.0, -1.0, 5.0]])
    >>> y = ["temperature_too_low", "temperature_too_low", "temperature_too_high"]
    >>> MDTreeClassifier(task="optimizer", fit="exact").fit(X, y).predict(X).tolist()
    ['temperature_too_low', 'temperature_too_low', 'temperature_too_high']
    """

    def __init__(self, task="optimizer", *, similarity=False, fit="robust", structure=None, min_width=None):
        self.task = task
        self.similarity = similarity
        self.fit = fit
        self.structure = structure
        self.min_width = min_width

    def get_params(self, deep=True):
        """Return the constructor's parameters."""
        return {name: vars(self)[name] for name in self._get_param_names()}

    @_FitMethod
    def fit(self, X, y=None):
        """Fit the thresholds.

        Args:
            X: a collection, or an array (rows, features of the structure in order).
            y: (rows,) classes, ours or the published ones; None uses the collection's label.

        Raises:
            UserError: unknown task, fit or structure; missing columns or values that are not finite; only one class.
        """
        fit = check_choice("fit", vars(self)["fit"], FITS)
        structure = choose_structure(self.task, similarity=self.similarity, structure=self.structure)
        rows, y = self._labelled(X, y, structure)
        members = [structure]
        if fit == "robust" and isinstance(rows, pd.DataFrame):
            frame = canonicalize(rows)
            members = choose_members(structure, lambda features: bool(finite_rows_of(frame, features).any()))
        values = [self._values(rows, structure, reset=True), *self._companion_values(rows, members[1:])]
        codes = self._learn_classes(y, structure)
        if len(codes) != len(values[0]):
            raise UserError(f"X has {len(values[0])} rows and y has {len(codes)}; they must be equal")
        if fit == "robust":
            self._set_average(members, robust.fit_robust(members, values, codes))
        else:
            self._set_thresholds(structure, _THRESHOLD_FITS[fit](structure, values[0], codes))
        leaf = engine.reach_nodes(structure, self.thresholds_, values[0])[1]
        counts = np.zeros((len(structure.leaves), len(self.classes_)), dtype=int)
        np.add.at(counts, (leaf, self._verdict_to_class[codes]), 1)
        self.leaf_counts_ = counts
        self._rows = robust.snap_rows(members, values, codes) if fit == "robust" else None
        alone = structure.leaf_verdicts[leaf]
        self.agreement_ = float(np.mean(alone == self._verdicts(values))) if fit == "robust" else 1.0
        return self

    def _set_thresholds(self, structure: Structure, thresholds: np.ndarray) -> None:
        self.members_, self.thresholds_, self.threshold_intervals_, self._average = (structure,), thresholds, None, None

    def _set_average(self, members: list[Structure], average: robust.RobustFit) -> None:
        intervals = robust.threshold_intervals(average.members[0])
        self.members_, self._average = tuple(members), average
        self.thresholds_, self.threshold_intervals_ = intervals[:, 0], intervals[:, 1:]

    def _verdicts(self, values: list) -> np.ndarray:
        """Return the index of each row's predicted class in the structure's classes."""
        if self._average is None:
            return engine.predict_classes(self.members_[0], self.thresholds_, values[0])
        return robust.predict_proba(self._average, values).argmax(axis=1)

    def predict(self, X):
        """Return the predicted class of every row, (rows,)."""
        self._fitted()
        return self.classes_[self._verdict_to_class[self._verdicts(self._member_values(X, self.members_))]]

    def predict_proba(self, X):
        """Return class probabilities, (rows, classes).

        Robust fit: the sharpened mean vote (`mdtree_jax.trees.robust`). Otherwise: the smoothed class frequencies of
        each row's leaf, (count + 1) / (rows + classes), so that the class of a leaf has a probability below 1/2 if most
        training rows contradict it.
        """
        self._fitted()
        if self._average is not None:
            votes = robust.predict_proba(self._average, self._member_values(X, self.members_))
            return votes[:, np.argsort(self._verdict_to_class)]
        leaf = self.apply(X)
        counts = self.leaf_counts_[leaf] + 1.0
        return counts / counts.sum(axis=1, keepdims=True)

    def apply(self, X):
        """Return the leaf that each row reaches in the tree at `thresholds_`, (rows,), numbered from left to right."""
        self._fitted()
        return engine.reach_nodes(self.structure_, self.thresholds_, self._values(X, self.structure_))[1]

    def decision_path(self, X):
        """Return the decision path of each row in the tree at `thresholds_`, CSR (rows, nodes + leaves)."""
        from scipy.sparse import csr_matrix

        self._fitted()
        reach, leaf = engine.reach_nodes(self.structure_, self.thresholds_, self._values(X, self.structure_))
        ends = leaf[:, None] == np.arange(len(self.structure_.leaves))
        return csr_matrix(np.concatenate([reach.T, ends], axis=1))

    def score(self, X, y=None):  # pyright: ignore[reportIncompatibleMethodOverride] - rows have no weights
        """Return the share of rows diagnosed correctly, a fraction in [0, 1]."""
        self._fitted()
        rows, y = self._labelled(X, y, self.structure_)
        y = self._understand(y)
        if not len(y):
            raise UserError("no row is left to score: all rows are 'optimal' or narrower than min_width")
        return float(np.mean(self.predict(rows) == y))

    def export_text(self, *, digits: int = 4) -> str:
        """Return the fitted tree as text: the test at each node; class, rows and share of agreement at each leaf.

        A robust fit is shown as its first member at the median thresholds, with their 90 % intervals, and with the
        share of the training rows on which that tree alone agrees with the average.
        """
        self._fitted()
        return tree_text(self, digits)

    def _repr_html_(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - scikit-learn has a property
        """Return what a notebook shows: the estimator, and its tree as text once it is fitted."""
        shown = [repr(self), *([self.export_text()] if hasattr(self, "thresholds_") else [])]
        return f"<pre>{escape(chr(10).join(shown))}</pre>"

    def _repr_mimebundle_(self, **kwargs) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def plot(self, ax=None):
        """Draw the fitted tree and return the matplotlib axes."""
        self._fitted()
        return draw_tree(self, ax)

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted tree to a small readable JSON file, atomically."""
        self._fitted()
        write_text(path, json.dumps(tree_to_dict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> MDTreeClassifier:
        """Read a fitted tree that `save` wrote.

        Raises:
            UserError: the file is missing, is not JSON, or does not hold a tree.
        """
        return read_tree(cls, path)

    def _fitted(self) -> None:
        check_is_fitted(self, "thresholds_")

    def _member_values(self, X, members) -> list[np.ndarray | None]:
        """Return each member's features; None for a companion that no row has the features of."""
        return [self._values(X, members[0]), *self._companion_values(X, members[1:])]

    def _companion_values(self, X, companions) -> list[np.ndarray | None]:
        """Return each companion's features, NaN in the rows that lack one, or None if all do."""
        if not companions or not isinstance(X, pd.DataFrame):
            return [None] * len(companions)
        frame, out = canonicalize(X), []
        for member in companions:
            there = finite_rows_of(frame, member.features)
            values = np.full((len(frame), len(member.features)), np.nan)
            if there.any():
                values[there] = feature_values(frame[there], member.features)
            out.append(values if there.any() else None)
        return out

    def _values(self, X, structure: Structure, *, reset: bool = False) -> np.ndarray:
        """Return the structure's features as float64 (rows, features)."""
        needed = len(structure.features)
        if isinstance(X, pd.DataFrame):
            values = feature_values(canonicalize(X), structure.features)
            if reset:
                self.n_features_in_ = needed
                self.feature_names_in_ = np.array(structure.features, dtype=object)
            return values
        values = np.asarray(validate_data(self, X, reset=reset, dtype=np.float64))
        if values.shape[1] < needed:
            raise UserError(
                f"X has {values.shape[1]} feature(s) (columns), but the tree '{structure.name}' needs {needed}: "
                + ", ".join(structure.features)
            )
        return values[:, :needed]

    def _labelled(self, X, y, structure: Structure):
        """Return the rows that are used and their classes."""
        if y is None:
            X, y = self._collection_rows(X, structure)
        else:
            y = column_or_1d(y, warn=True)
        keep = y.astype(object) != OPTIMAL
        if not keep.all():
            if len(keep) != len(X):
                raise UserError(f"X has {len(X)} rows and y has {len(keep)}; they must be equal")
            X, y = (X[keep] if hasattr(X, "shape") else np.asarray(X)[keep]), y[keep]
        return X, y

    def _collection_rows(self, X, structure: Structure):
        if not isinstance(X, pd.DataFrame):
            raise UserError(
                "this classifier requires y to be passed, but the target y is None: only a collection (a "
                "DataFrame with its grid or labels) brings its own"
            )
        task = get_task(self.task)
        if set(structure.classes) != set(task.classes):
            raise UserError(
                f"the tree '{structure.name}' has the classes {', '.join(structure.classes)}, but task='{task.name}' "
                f"has {', '.join(task.classes)}; set task= to the task of the tree"
            )
        X = canonicalize(X)
        if task.label not in X and task.is_compared:
            X = with_labels(X)
        check_label(X, task)
        X = X[X[task.label].notna()]
        smallest = self.min_width
        if smallest is None:
            smallest = smallest_width(task, X["width"]) if "width" in X else 0
        if smallest and "width" in X:
            wide = X["width"] >= smallest
            if not wide.any():
                raise UserError(
                    f"task '{self.task}' uses widths >= {smallest}, but the largest width is {X['width'].max():g}; set "
                    "min_width= to use others"
                )
            X = X[wide]
        elif smallest:
            raise UserError(missing_message(X, ["width"], why=f", which min_width={smallest} needs (0 uses all rows)"))
        return X, X[task.label].to_numpy(dtype=object)

    def _understand(self, y) -> np.ndarray:
        """Return y with published class names turned into ours, where the tree speaks of those."""
        y = np.asarray(y)
        if y.dtype.kind not in "OUST":
            return y
        ours = published_classes()
        return np.array([ours.get(v, v) if isinstance(v, str) else v for v in y.tolist()], dtype=object)

    def _learn_classes(self, y, structure: Structure) -> np.ndarray:
        """Set `classes_` and return each row's place among the structure's classes."""
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        if kind not in ("binary", "multiclass"):
            raise ValueError(f"Unknown label type: {kind}; y must hold classes")
        y = self._understand(y)
        found = np.unique(y)
        if len(found) < 2:
            shown = f"class '{found[0]}'" if len(found) else "no class"
            raise UserError(
                f"there is only one class to fit, {shown} in {len(y)} rows; a tree needs rows of two classes"
            )
        ours = {name for task in TASKS.values() for name in task.classes}
        if set(found) <= set(structure.classes):
            found = np.array(sorted(structure.classes))
        elif set(found) & ours:
            raise UserError(
                f"y holds {', '.join(map(str, found[:5]))}, and the tree '{structure.name}' tells "
                f"{', '.join(structure.classes)} apart; this is the label of another task"
            )
        elif len(found) != len(structure.classes):
            raise UserError(
                f"Only binary classification is supported: y holds {len(found)} classes, "
                f"{', '.join(map(str, found[:5]))}; the tree '{structure.name}' tells {len(structure.classes)} apart, "
                f"{', '.join(structure.classes)}"
            )
        self.structure_ = structure
        self._set_classes(found)
        place = np.searchsorted(self.classes_, y)
        return np.argsort(self._verdict_to_class)[place]

    def _set_classes(self, classes: np.ndarray) -> None:
        self.classes_ = classes.astype(str) if classes.dtype == object and isinstance(classes[0], str) else classes
        # Sorted classes stand for sorted verdicts: the identity where they are the same names.
        self._verdict_to_class = np.argsort(np.argsort(self.structure_.classes))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags
