"""The parts of a run folder: what is trained and what is measured of every cohort.

A cohort that grew when its run was extended has a part that lacks rows until those are trained. What extensions add to
a cohort are its additions 1, 2, …, what was trained first is 0; each has an executor and a checkpoint of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.files import is_temporary
from mdtree_jax.store.grids import Grids
from mdtree_jax.store.manifest import check_same_config, config_hash
from mdtree_jax.store.tables import (
    ADDITION,
    Measured,
    concat_members,
    join_members,
    join_parts,
    networks_of,
    read_part,
    sorted_rows,
    write_table,
)

#: The tables of a measurement; the last one says that the cohort is measured.
MEASURED = ("layers", "pairs", "members")
#: Learning curves of a cohort, where they were recorded; written before the part that says that it is trained.
HISTORY = "history"
#: Those with one row for every member, among them and the part of the training.
_OF_NETWORKS = ("trained", "members")


class Parts:
    """The parts in `folder`, whose `manifest` says how is measured; configurations are counted as in `grids.here`.

    Attributes:
        trained: key of a cohort -> its part, all or some of its members.
        measured: key of a cohort -> what is measured of it.
        history: key of a cohort -> the learning curves of its networks, or of those that were recorded.
    """

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        grids: Grids,
        cohorts: Mapping[str, Sequence[tuple[int, int]]],
    ):
        self._folder, self._manifest, self._cohorts = folder, manifest, cohorts
        self.grids = grids
        self.trained: dict[str, pd.DataFrame] = {}
        self.measured: dict[str, Measured] = {}
        self.history: dict[str, pd.DataFrame] = {}
        self.superfluous: list[str] = []
        self._metadata: dict[tuple[str, str], dict[str, Any]] = {}

    def read(self, *, rewrite: bool) -> None:
        """Read and check all parts that are there; with `rewrite`, those counted in earlier grids are written anew."""
        self.trained, self.measured, self.history, self._metadata = {}, {}, {}, {}
        for key in self._cohorts:
            if not self.path(key).exists():
                continue
            self.trained[key], self._metadata[key, "trained"] = self._read_own(key, "trained", rewrite)
            if self.path(key, HISTORY).exists():
                self._take_history(key, self._read_own(key, HISTORY, rewrite)[0])
            if self.path(key, MEASURED[-1]).exists():
                read = {kind: self._read_own(key, kind, rewrite) for kind in MEASURED}
                self._take(key, {kind: rows for kind, (rows, _) in read.items()}, read[MEASURED[-1]][1])

    def path(self, key: str, kind: str = "trained") -> Path:
        """Where the part of a cohort is: its trained rows, or a table of its measurement."""
        folder = self._folder / "parts" if kind == "trained" else self._folder / "parts" / kind
        return folder / f"{key}.parquet"

    def rows(self, key: str) -> pd.DataFrame:
        """Return the rows of the trained members of a cohort, by configuration and seed."""
        return self.trained[key].drop(columns=ADDITION, errors="ignore")

    def missing(self, key: str) -> tuple[tuple[int, int], ...]:
        """Return the members (configuration, seed) of a cohort that are not trained yet, in its order."""
        there = networks_of(self.trained[key]) if key in self.trained else ()
        return tuple(member for member in self._cohorts[key] if member not in there)

    def is_measured(self, key: str, metrics: Collection[str]) -> bool:
        """Return whether all members of a cohort were measured with these metrics."""
        found = self.measured.get(key)
        return found is not None and found.metrics >= set(metrics) and found.networks >= set(self._cohorts[key])

    def joined_members(self) -> pd.DataFrame:
        """Return the per-seed table of all that is finished."""
        there = [key for key in self._cohorts if key in self.trained]
        return join_members(
            [self.rows(key) for key in there], [self.measured[key].members for key in there if key in self.measured]
        )

    def joined_history(self) -> pd.DataFrame:
        """Return the learning curves of all that is trained, as far as they were recorded."""
        return join_parts([self.history[key] for key in self._cohorts if key in self.history], HISTORY)

    def joined(self, kind: str) -> pd.DataFrame:
        """Return the table of pairs or layers of all that is measured."""
        return join_parts([getattr(self.measured[key], kind) for key in self._cohorts if key in self.measured], kind)

    def additions(self, key: str, without: Collection[tuple[int, int]] = ()) -> list[int]:
        """Return the additions that the trained members of a cohort are of, but those that hold any of `without`."""
        members = self.members_of_additions(key)
        return [addition for addition, there in members.items() if there.isdisjoint(without)]

    def members_of_additions(self, key: str) -> dict[int, frozenset[tuple[int, int]]]:
        """Return the trained members (configuration, seed) of every addition of a cohort."""
        if key not in self.trained:
            return {}
        rows = self.trained[key]
        if ADDITION not in rows:
            return {0: networks_of(rows)}
        return {number: networks_of(rows[rows[ADDITION] == number]) for number in sorted({*rows[ADDITION].tolist()})}

    def commit(
        self, key: str, rows: pd.DataFrame, metadata: dict[str, Any], history: pd.DataFrame | None = None
    ) -> None:
        """Add trained members of a cohort to its part, and their learning curves, if recorded, to theirs."""
        metadata = {**metadata, **self._identity(key)}
        curves = [] if history is None else [*([self.history[key]] if key in self.history else []), history]
        if curves:
            # Killed after this, the curves of networks that no part says are trained are left out when it is read.
            write_table(self.path(key, HISTORY), join_parts(curves, HISTORY), self._identity(key))
        if key in self.trained:
            before, added = self.trained[key], [1 + max(self.additions(key))] * len(rows)
            additions = [*(before[ADDITION] if ADDITION in before else [0] * len(before)), *added]
            rows = sorted_rows(concat_members([self.rows(key), rows]).assign(**{ADDITION: additions}))
            metadata["extends"] = self._metadata[key, "trained"]
        write_table(self.path(key), rows, metadata)
        self.trained[key], self._metadata[key, "trained"] = rows, metadata
        if curves:
            self._take_history(key, join_parts(curves, HISTORY))

    def commit_measured(self, key: str, tables: Mapping[str, pd.DataFrame], metadata: dict[str, Any]) -> None:
        """Write what is measured of a cohort in the place of what was."""
        # Killed in between, an earlier table of members stands beside larger other tables: the cohort is measured on
        # as from the earlier one, and every number of that is in the larger tables as well.
        extends = {"extends": self._metadata[key, MEASURED[-1]]} if key in self.measured else {}
        metadata = {**metadata, **self._identity(key), **extends}
        for kind in MEASURED:
            write_table(self.path(key, kind), tables[kind], metadata)
        self._take(key, tables, metadata)

    def check(self, path: Path, key: str, kind: str, *, is_own: bool) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Read a part and return its rows, counted as in this grid, and its metadata.

        Raises:
            UserError: unless it was made with the config of this run, or one that this run had, and holds just the
                members that the cohort had then (one of another folder must hold all members), and was measured as is
                measured here (an own one may lack metrics). Learning curves may be of some of the members.
        """
        rows, metadata = read_part(path, kind)
        there = metadata.get("config_hash", "")
        if key not in self._cohorts or metadata.get("cohort") != key or there not in self.grids:
            raise UserError(f"{path} is of a sweep with another config than {self._folder}")
        if self.grids.since(there) is not None:
            numbers = [self.grids.number_here(number, there) for number in rows["configuration"].tolist()]
            rows = sorted_rows(rows.assign(configuration=np.array(numbers, np.int64)), kind)
        grown = self.grids.since(metadata.get("complete_for", there)) if is_own else None
        wanted = self._cohorts[key] if grown is None else grown.of_smaller(self._cohorts[key])
        if kind in _OF_NETWORKS and (len(rows) != len(wanted) or networks_of(rows) != set(wanted)):
            raise UserError(f"{path} does not hold the members of cohort {key}; it is damaged")
        if kind == HISTORY and not networks_of(rows) <= set(self._cohorts[key]):
            raise UserError(f"{path} holds learning curves of networks that are not of cohort {key}; it is damaged")
        if kind in MEASURED:
            measure = metadata.get("measure") or {}
            ours = self._manifest.setdefault("measure", measure)
            (check_more_metrics if is_own else check_same_config)(path, measure, ours)
        return rows, metadata

    def clear_uncommitted(self) -> None:
        """Remove temporary files, and measurements that were not committed, that a killed process left behind."""
        for folder in (self._folder / "parts", *(self._folder / "parts" / kind for kind in (HISTORY, *MEASURED))):
            for path in folder.glob("*"):
                if is_temporary(path.name):
                    path.unlink(missing_ok=True)
        for kind in MEASURED:  # of a cohort whose training is gone, or of a measurement that was not committed
            for path in (self._folder / "parts" / kind).glob("*.parquet"):
                if not (self.path(path.stem).exists() and self.path(path.stem, MEASURED[-1]).exists()):
                    path.unlink(missing_ok=True)
        for path in (self._folder / "parts" / HISTORY).glob("*.parquet"):
            if not self.path(path.stem).exists():
                path.unlink(missing_ok=True)

    def _read_own(self, key: str, kind: str, rewrite: bool) -> tuple[pd.DataFrame, dict[str, Any]]:
        path = self.path(key, kind)
        rows, metadata = self.check(path, key, kind, is_own=True)
        if rewrite and metadata["config_hash"] != self.grids.here:
            complete_for = metadata.pop("complete_for", metadata["config_hash"])
            if kind in _OF_NETWORKS and networks_of(rows) != set(self._cohorts[key]):
                metadata["complete_for"] = complete_for
            metadata |= self._identity(key)
            write_table(path, rows, metadata)
        return rows, metadata

    def _take_history(self, key: str, rows: pd.DataFrame) -> None:
        trained, found = (pd.MultiIndex.from_frame(t[["configuration", "seed"]]) for t in (self.trained[key], rows))
        self.history[key] = rows[found.isin(trained)]

    def _take(self, key: str, tables: Mapping[str, pd.DataFrame], metadata: dict[str, Any]) -> None:
        self._metadata[key, MEASURED[-1]] = metadata
        self.measured[key] = Measured(metrics_of(metadata.get("measure")), **{kind: tables[kind] for kind in MEASURED})
        ours = {session["started"] for session in self._manifest["sessions"]}
        made_by = metadata.get("made_by", [])
        is_imported = bool(made_by) and not any(session.get("started") in ours for session in made_by)
        if metadata.get("keep") == "metrics_only" and not is_imported:
            self.superfluous += metadata.get("superfluous", [key])

    def _identity(self, key: str) -> dict[str, Any]:
        return {"cohort": key, "config_hash": self.grids.here}


def metrics_of(measure: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the metrics of settings of measuring."""
    return frozenset((measure or {}).get("metrics", ()))


def check_more_metrics(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise `UserError` unless settings of measuring are the same but for metrics that were added here."""
    others = [{name: value for name, value in one.items() if name != "metrics"} for one in (there, here)]
    if config_hash(others[0]) != config_hash(others[1]) or ("metrics" in there) != ("metrics" in here):
        check_same_config(folder, there, here)
    left_out = [metric for metric in there.get("metrics", ()) if metric not in metrics_of(here)]
    if left_out:
        raise UserError(
            f"{folder} has measured {', '.join(left_out)}, which grid.measure.metrics leaves out here: a run can be "
            "extended, not cut; keep the metrics, or choose another out="
        )


def trainings_of(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the metadata of every training, or measurement, that a part is made of, the first one first."""
    earlier = trainings_of(metadata["extends"]) if "extends" in metadata else []
    return [*earlier, metadata]
