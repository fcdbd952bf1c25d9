"""References: a collection, the trees and the joint model fitted on it, and their measured accuracy.

A reference is one readable JSON file. It stores the rows of its collection (metrics and test error, rounded to five
significant digits), on which the trees and the joint model are refitted on first use, with the same result each time.
For human readers it also holds the fitted thresholds, quantiles, two-dimensional bins and mean gains, its provenance,
and the measured accuracy.

    reference = fit_reference("runs/digits/collection.parquet", test="runs/digits_noisy/collection.parquet")
    reference.save("mine.json")
    reference = Reference.load("mine.json")

Two references are included in the package: `published_F`, the default, fitted on published/F and evaluated on
published/F_noise, and `digits`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.causes.labels import LEAST_GAIN, causes_of, gains
from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.collection.columns import COLUMN, sources
from mdtree_jax.collection.grid import Grid, compute_labels, make_grid
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.moves import knobs_of_moves
from mdtree_jax.collection.tasks import OPTIMAL, TASKS, Task, brought_labels, task_rows
from mdtree_jax.files import parse_json, user_path, write_text
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.trees.classifier import MDTreeClassifier
from mdtree_jax.trees.members import MEMBERS, ONE_CHECKPOINT
from mdtree_jax.trees.structure import Structure

_FORMAT = "mdtree_jax reference 1"
_DIGITS = 5
_FOLDER = Path(__file__).resolve().parent / "reference_files"
DEFAULT_REFERENCE = "published_F"
#: Quantiles of each metric that the file shows, and the pairs whose two-dimensional bins it shows.
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
PHASE_PAIRS = (
    ("train_error", "mode_connectivity_peak"),
    ("mode_connectivity_peak", "log_hessian_trace"),
    ("train_error", "log_hessian_trace"),
)
_BINS = 12


class Reference:
    """A collection and everything fitted on it; created by `fit_reference`, `load` or `default_reference`.

    Attributes:
        rows: the collection, as `load_collection` returns it, metrics rounded.
        provenance: collection, commit, date, rows, test (what the accuracy was measured on), accuracy.

    Everything else is computed on first access.
    """

    def __init__(self, rows: pd.DataFrame, provenance: Mapping):
        self.rows = rows
        self.provenance = dict(provenance)
        #: Cache for values that other modules compute from this reference.
        self.cache: dict = {}
        self._models: dict = {}
        self._trees: dict = {}

    @property
    def name(self) -> str:
        """The name of the collection."""
        return self.provenance["collection"]

    @property
    def track_record(self) -> dict:
        """How often the joint answer was right, percent; {} if not measured.

        Keys: `test`, `all`, `surest_80_percent`, `calibration_error`, `models`, and if measured `one_checkpoint` (the
        same without pair metrics), `by_cause` and `gains` (see `reference_fit.measured_accuracy`).
        """
        found = self.provenance.get("accuracy", {}).get("joint")
        return {"test": self.provenance["test"], **found} if found else {}

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of `joint.COLUMNS` that the collection has."""
        return tuple(name for name in joint.COLUMNS if name in self.rows)

    @property
    def shown(self) -> tuple[str, ...]:
        """The columns of `joint.SHOWN` that the collection has."""
        return tuple(name for name in joint.SHOWN if name in self.rows)

    @cached_property
    def grid(self) -> Grid:
        """The grid of all rows."""
        return make_grid(self.rows, allow_missing=True)

    @property
    def causes(self) -> tuple[str, ...]:
        """The causes that the collection can identify, `none` last."""
        return self.grid.causes

    @property
    def knobs(self) -> tuple[str, ...]:
        """The knobs that address the causes, in the order of the causes."""
        return knobs_of_moves(self.grid.moves)

    @cached_property
    def complete(self) -> np.ndarray:
        """Mask of the rows used for fitting: metrics finite and the gain of every step known, (rows,) bool."""
        values = self.rows[list(self.columns)].to_numpy(dtype=float)
        return np.all(np.isfinite(values), axis=1) & np.all(np.isfinite(gains(self.grid, "step")), axis=1)

    @cached_property
    def models(self) -> pd.DataFrame:
        """The complete rows."""
        return self.rows[self.complete].reset_index(drop=True)

    def joint_model(self, columns: Sequence[str] | None = None) -> joint.JointModel:
        """Return the joint model (label `step`) that uses the given columns only, None for all."""
        wanted = self.columns if columns is None else tuple(c for c in self.columns if c in columns)
        if wanted not in self._models:
            gained = gains(self.grid, "step")[self.complete]
            self._models[wanted] = joint.fit_joint(self.models, gained, wanted)
        return self._models[wanted]

    def room_model(self, columns: Sequence[str] | None = None) -> joint.JointModel:
        """Return the joint model of the rooms for improvement (label `room`); arguments as for `joint_model`."""
        model = self.joint_model(columns)
        if ("room", model.columns) not in self._models:
            gained = gains(self.grid, "room")[self.complete]
            self._models["room", model.columns] = joint.refit(model, gained)
        return self._models["room", model.columns]

    def tree(self, task: str, columns: Sequence[str] | None = None) -> MDTreeClassifier | None:
        """Return a fitted tree of a task that needs only the given columns, None for all columns.

        It is the main tree, or else the one that needs no second network, or else another one of the task. Returns None
        if there is no such tree, or if the collection has no label for the task or only one class.
        """
        have, question = [c for c in self.columns if columns is None or c in columns], TASKS[task]
        shown, *companions = MEMBERS[task]
        for structure in (shown, ONE_CHECKPOINT.get(task), *companions):
            if structure is None or any(s not in have for name in structure.features for s in sources(name)):
                continue
            key = (question, structure.name)
            if key not in self._trees:
                self._trees[key] = self._fitted(question, structure)
            return self._trees[key]
        return None

    def _fitted(self, question: Task, structure: Structure) -> MDTreeClassifier | None:
        """Return a tree fitted on the rows with a label for a question; None unless there are two classes."""
        labels = self._labels(question)
        if labels is None or not set(labels[self.complete].dropna()) - {OPTIMAL}:
            return None
        rows = task_rows(self.rows.assign(**{question.label: labels})[self.complete], question)
        if rows[question.label].nunique() != 2:
            return None
        return MDTreeClassifier(question.name, structure=structure).fit(rows, rows[question.label])

    def _labels(self, question: Task) -> pd.Series | None:
        """Return a question's label of every row; None if the collection has none."""
        if question.label in self.rows:
            return self.rows[question.label]
        # A question may have been registered after the collection was loaded.
        return compute_labels(self.grid)[question.label] if question.is_compared else None

    def summary(self) -> dict:
        """Return quantiles, two-dimensional bins, shares of the causes and mean gains, as plain values."""
        table = self.models[list(self.columns)]
        causes, gained = self.causes, gains(self.grid, "step")[self.complete]
        places = causes_of(gained)
        shares = np.bincount(places, minlength=len(causes)) / len(places)
        by_cause = {
            cause: {other: _mean(gained[places == i, j]) for j, other in enumerate(causes[:-1])}
            for i, cause in enumerate(causes)
        }
        return {
            "quantile_levels": list(QUANTILES),
            "quantiles": {c: [rounded(v) for v in table[c].quantile(list(QUANTILES))] for c in self.columns},
            "share_of_causes": {cause: rounded(share) for cause, share in zip(causes, shares, strict=True)},
            "mean_gain_of_a_doubling": by_cause,
            "bins": [phase_bins(table, pair, places, causes) for pair in PHASE_PAIRS if set(pair) <= set(self.columns)],
        }

    def to_dict(self) -> dict:
        """Return the reference as plain values, as stored in its file."""
        trees = {}
        for task in TASKS:
            for kind, columns in {"all": None, "one_checkpoint": _without_pairs(self.columns)}.items():
                tree = self.tree(task, columns)
                if tree is not None:
                    trees.setdefault(task, {})[kind] = _tree_dict(tree)
        brought = (name for name in brought_labels() if name in self.rows)
        kept = [*self.grid.axes, "test_error", *self.columns, *self.shown, *brought]
        return {
            "format": _FORMAT,
            "provenance": self.provenance,
            "trees": trees,
            "least_gain_points": LEAST_GAIN,
            "summary": self.summary(),
            "rows": {name: [kept_value(v) for v in self.rows[name]] for name in kept},
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write the reference to a JSON file atomically, with one line per column of the rows."""
        data = self.to_dict()
        rows = data.pop("rows")
        text = json.dumps(data, indent=1, ensure_ascii=False)
        text = _compact_lists(text)
        lines = ",\n".join(f'  "{name}": {json.dumps(values, separators=(",", ":"))}' for name, values in rows.items())
        write_text(path, f'{text[:-2]},\n "rows": {{\n{lines}\n }}\n}}\n')

    @classmethod
    def load(cls, path: str | os.PathLike) -> Reference:
        """Read a reference that `save` wrote.

        Raises:
            UserError: the file is missing, is not JSON, or does not hold a reference.
        """
        try:
            data = parse_json(user_path(path, "the reference").read_text(encoding="utf-8"))
            if not isinstance(data, dict) or data.get("format") != _FORMAT:
                found = data.get("format") if isinstance(data, dict) else type(data).__name__
                raise UserError(f"'{path}' is not a reference: its format is {found!r}, not '{_FORMAT}'")
            rows = as_numbers(_known_columns(pd.DataFrame(data["rows"])))
            provenance = dict(data["provenance"])
            name = provenance["collection"]
        except UserError:
            raise
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"the reference '{path}' cannot be read: {type(error).__name__} {error}") from error
        rows = load_collection(rows, allow_missing=True)
        rows.attrs["name"] = name
        return cls(rows, provenance)


def reference_names() -> list[str]:
    """Return the names of the references included in the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


@lru_cache
def packaged_reference(name: str) -> Reference:
    """Return a reference included in the package; raises `UserError` if there is none of that name."""
    return Reference.load(_FOLDER / f"{check_choice('reference', name, reference_names())}.json")


def default_reference() -> Reference:
    """Return the packaged reference `published_F`, fitted on published/F and evaluated on published/F_noise."""
    return packaged_reference(DEFAULT_REFERENCE)


def as_reference(source: Reference | str | os.PathLike | None) -> Reference:
    """Return a reference given as a `Reference`, a name or a file; None is the default one.

    Raises:
        UserError: as `get_reference`, or the source has another type.
    """
    if source is None:
        return default_reference()
    if isinstance(source, Reference):
        return source
    if isinstance(source, (str, os.PathLike)):
        return get_reference(source)
    raise UserError(
        f"reference={source!r:.60} is a {type(source).__name__}; expected a Reference (fit_reference(collection)), the "
        f"path of its file, or one of {', '.join(reference_names())}"
    )


def get_reference(source: str | os.PathLike) -> Reference:
    """Return a packaged reference by name, or one from a file; raises `UserError` as `Reference.load`."""
    if str(source) in reference_names():
        return packaged_reference(str(source))
    if not user_path(source, "reference=").is_file():
        raise UserError(
            f"reference={source} is neither a file nor a reference of the package: {', '.join(reference_names())}"
        )
    return Reference.load(source)


def phase_bins(table: pd.DataFrame, pair: tuple[str, str], places: np.ndarray, causes: Sequence[str]) -> dict:
    """Return the number of models of each cause in two-dimensional bins of two metrics.

    Edges are evenly spaced on the metric's scale in the joint model, from the 1 % to the 99 % quantile, and given in
    its unit; models outside are counted in the outermost bins. `counts[cause][i][j]` is bin i of the first metric and
    bin j of the second.
    """
    edges, index = [], []
    for name in pair:
        values = table[name].to_numpy(dtype=float)
        scale = joint.SCALES[name].to_scale
        low, high = np.quantile(values, [0.01, 0.99])
        ordered = np.sort(values)
        steps = np.linspace(scale(low), scale(high), _BINS + 1)
        steps = np.sort(steps)
        place = np.clip(np.searchsorted(steps, scale(values), side="right") - 1, 0, _BINS - 1)
        # Back from the scale by interpolation between the values that there are: scales are monotonic.
        at = np.argsort(scale(ordered), kind="stable")
        edges.append([rounded(v) for v in np.interp(steps, scale(ordered)[at], ordered[at])])
        index.append(place)
    counts = np.zeros((len(causes), _BINS, _BINS), dtype=int)
    np.add.at(counts, (places, index[0], index[1]), 1)
    return {
        "metrics": list(pair),
        "edges": edges,
        "counts": {cause: counts[i].tolist() for i, cause in enumerate(causes)},
    }


def _tree_dict(tree: MDTreeClassifier) -> dict:
    ends = tree.threshold_intervals_
    assert ends is not None  # a robust fit has them
    return {
        "members": [member.name for member in tree.members_],
        "nodes": [
            node._asdict() | {"threshold": rounded(t), "interval_90": [rounded(v) for v in interval]}
            for node, t, interval in zip(tree.structure_.nodes, tree.thresholds_, ends, strict=True)
        ],
    }


def _without_pairs(columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(c for c in columns if c not in joint.PAIR_COLUMNS)


def kept_value(value: float | str) -> float | str | None:
    """Return a value of the rows as stored in the file: numbers rounded, text unchanged."""
    return value if isinstance(value, str) else rounded(value)


def rounded(value: float) -> float | None:
    """Return a number rounded to `_DIGITS` significant digits, as int if whole, None if not finite."""
    if not np.isfinite(value):
        return None
    number = float(f"{float(value):.{_DIGITS}g}")
    return int(number) if number == int(number) else number


def _known_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the labels of questions that are not registered here."""
    known = {*COLUMN, *KNOBS}
    strangers = [c for c in rows if c not in known and rows[c].map(lambda value: isinstance(value, str)).any()]
    return rows.drop(columns=strangers)


def as_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table with float64 columns; unordered knobs and labels stay unchanged."""
    text = {*brought_labels(), *(knob.name for knob in KNOBS.values() if not knob.has_order)}
    return rows.astype({name: float for name in rows if name not in text})


def _mean(values: np.ndarray) -> float | None:
    return rounded(values.mean()) if len(values) else None


def _compact_lists(text: str) -> str:
    """Put lists of numbers in indented JSON on one line."""
    number = r"-?[\d.eE+-]+|null"
    pattern = re.compile(rf"\[\s*((?:{number})(?:,\s*(?:{number}))*)\s*\]")
    return pattern.sub(lambda m: "[" + re.sub(r"\s+", "", m.group(1)) + "]", text)
