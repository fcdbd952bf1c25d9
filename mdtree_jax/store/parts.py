"""The parts of a run folder: what is trained and what is measured of every cohort.

A cohort that grew when its run was extended has a part that lacks rows until those are trained. What extensions add to
a cohort are its additions 1, 2, …, what was trained first is 0; each has an executor and a checkpoint of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import DamagedFile, UserError
from mdtree_jax.files import is_temporary
from mdtree_jax.store.grids import Grids
from mdtree_jax.store.ledger import Ledger
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
    table_writer,
)

#: The tables of a measurement; the last one says that the cohort is measured.
MEASURED = ("layers", "pairs", "members")
#: Learning curves of a cohort, where they were recorded; written before the part that says that it is trained.
HISTORY = "history"
#: Those with one row for every member, among them and the part of the training.
_OF_NETWORKS = ("trained", "members")


class Damage(NamedTuple):
    """A damaged part: of which cohort, of which kind, where."""

    key: str
    kind: str
    path: Path


class Parts:
    """The parts in `folder`, whose `manifest` says how is measured; configurations are counted as in `grids.here`.

    Attributes:
        trained: key of a cohort -> its part, all or some of its members.
        measured: key of a cohort -> what is measured of it.
        history: key of a cohort -> the learning curves of its networks, or of those that were recorded.
        damaged: parts that are not as they were written, and so not among those.
    """

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        grids: Grids,
        cohorts: Mapping[str, Sequence[tuple[int, int]]],
        ledger: Ledger,
    ):
        self._folder, self._manifest, self._cohorts, self._ledger = folder, manifest, cohorts, ledger
        self.grids = grids
        self.trained: dict[str, pd.DataFrame] = {}
        self.measured: dict[str, Measured] = {}
        self.history: dict[str, pd.DataFrame] = {}
        self.damaged: list[Damage] = []
        self.superfluous: list[tuple[str, str]] = []
        self.metadata: dict[tuple[str, str], dict[str, Any]] = {}

    def read(self, *, rewrite: bool) -> None:
        """Read and check all parts that are there; with `rewrite`, those counted in earlier grids are written anew."""
        self.trained, self.measured, self.history, self.metadata, self.damaged = {}, {}, {}, {}, []
        for key in self._cohorts:
            with self._noting_damage(key):
                if not self._is_there(key):
                    continue
                curves = self._read_own(key, HISTORY, rewrite)[0] if self._is_there(key, HISTORY) else None
                self.trained[key], self.metadata[key, "trained"] = self._read_own(key, "trained", rewrite)
                if curves is not None:
                    self._take_history(key, curves)
                if all(self._is_there(key, kind) for kind in MEASURED):
                    read = {kind: self._read_own(key, kind, rewrite) for kind in MEASURED}
                    self._take(key, {kind: rows for kind, (rows, _) in read.items()}, read[MEASURED[-1]][1])

    @contextlib.contextmanager
    def _noting_damage(self, key: str) -> Iterator[None]:
        try:
            yield
        except _DamagedPart as part:
            self.damaged.append(Damage(key, part.kind, part.path))

    def path(self, key: str, kind: str = "trained") -> Path:
        """Where the part of a cohort is: its trained rows, or a table of its measurement."""
        folder = self._folder / "parts" if kind == "trained" else self._folder / "parts" / kind
        return folder / f"{key}.parquet"

    def damaged_networks(self) -> list[Path]:
        """Return the networks on disk that are not as they were written; reads all of them."""
        found = [(key, path) for key in self._cohorts for path in self._ledger.files(key, "checkpoints")]
        return [path for key, path in found if self._ledger.is_damaged(key, path)]

    def forget(self, key: str, kind: str = "trained") -> None:
        """Take a cohort that was set aside or removed for not trained or, with another kind, not measured."""
        self.measured.pop(key, None)
        if kind == "trained":
            self.trained.pop(key, None)
            self.history.pop(key, None)

    def members(self, key: str) -> Sequence[tuple[int, int]]:
        """Return (configuration, seed) of every member of a cohort, trained or not."""
        return self._cohorts[key]

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
        self,
        key: str,
        rows: pd.DataFrame,
        metadata: dict[str, Any],
        history: pd.DataFrame | None = None,
        networks: Mapping[Path, Callable[[Path], object]] = MappingProxyType({}),
    ) -> None:
        """Add trained members of a cohort to its part, and their learning curves, if recorded, to theirs.

        `networks` writes them to where they are kept.
        """
        metadata = {**metadata, **self._identity(key)}
        curves = [] if history is None else [*([self.history[key]] if key in self.history else []), history]
        writes = dict(networks)
        if curves:
            # Killed after this, the curves of networks that no part says are trained are left out when it is read.
            writes[self.path(key, HISTORY)] = table_writer(join_parts(curves, HISTORY), self._identity(key))
        if key in self.trained:
            before, added = self.trained[key], [1 + max(self.additions(key))] * len(rows)
            additions = [*(before[ADDITION] if ADDITION in before else [0] * len(before)), *added]
            rows = sorted_rows(concat_members([self.rows(key), rows]).assign(**{ADDITION: additions}))
            metadata["extends"] = self.metadata[key, "trained"]
        writes[self.path(key)] = table_writer(rows, metadata)
        self._ledger.write(key, writes)
        self.trained[key], self.metadata[key, "trained"] = rows, metadata
        if curves:
            self._take_history(key, join_parts(curves, HISTORY))

    def commit_measured(self, key: str, tables: Mapping[str, pd.DataFrame], metadata: dict[str, Any]) -> None:
        """Write what is measured of a cohort in the place of what was."""
        # Killed in between, an earlier table of members stands beside larger other tables: the cohort is measured on
        # as from the earlier one, and every number of that is in the larger tables as well.
        extends = {"extends": self.metadata[key, MEASURED[-1]]} if key in self.measured else {}
        metadata = {**metadata, **self._identity(key), **extends}
        self._ledger.write(key, {self.path(key, kind): table_writer(tables[kind], metadata) for kind in MEASURED})
        self._take(key, tables, metadata)

    def clear_uncommitted(self) -> None:
        """Remove temporary files, and measurements that were not committed, that a killed process left behind."""
        for folder in (self._folder / "parts", *(self._folder / "parts" / kind for kind in (HISTORY, *MEASURED))):
            for path in folder.glob("*.partial*"):
                if is_temporary(path.name):
                    path.unlink(missing_ok=True)
        for key in self._cohorts:
            is_trained = self._is_there(key)
            if not is_trained:
                self._ledger.remove(key, self.path(key, HISTORY))
            # Of a cohort whose training is gone, or of a measurement that was not committed.
            is_measured = all(self._is_there(key, kind) for kind in MEASURED)
            for kind in () if is_trained and is_measured else MEASURED:
                self._ledger.remove(key, self.path(key, kind))

    def _is_there(self, key: str, kind: str = "trained") -> bool:
        return self._ledger.digest(key, self.path(key, kind)) is not None

    def _check(self, path: Path, key: str, kind: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Read a part and return its rows, counted as in this grid, and its metadata.

        Raises:
            DamagedFile: it is not as it was written.
            UserError: it was not made with the config of this run, or one that this run had, or does not hold just the
                members that the cohort had then, or was measured otherwise than is measured here (it may lack
                metrics). Learning curves may be of some of the members.
        """
        rows, metadata = read_part(path, kind, self._ledger.read_file(key, path))
        there = metadata.get("config_hash", "")
        if metadata.get("cohort") != key or there not in self.grids:
            raise UserError(f"{path} is of a sweep with another config than {self._folder}")
        if self.grids.since(there) is not None:
            numbers = [self.grids.number_here(number, there) for number in rows["configuration"].tolist()]
            rows = sorted_rows(rows.assign(configuration=np.array(numbers, np.int64)), kind)
        if kind in _OF_NETWORKS:
            self._check_members(path, key, rows, metadata)
        if kind == HISTORY and not networks_of(rows) <= set(self._cohorts[key]):
            raise UserError(f"{path} holds learning curves of networks that are not of cohort {key}")
        if kind in MEASURED:
            measure = metadata.get("measure") or {}
            check_more_metrics(path, measure, self._manifest.setdefault("measure", measure))
        return rows, metadata

    def _check_members(self, path: Path, key: str, rows: pd.DataFrame, metadata: dict[str, Any]) -> None:
        """Raise `UserError` unless the rows are of the members that the cohort had, or as many as were joined."""
        there, found = metadata.get("complete_for", metadata["config_hash"]), networks_of(rows)
        if "joined" in metadata:
            is_right = len(rows) == len(found) == metadata["joined"] and found <= set(self._cohorts[key])
        else:
            grown = self.grids.since(there)
            wanted = self._cohorts[key] if grown is None else grown.of_smaller(self._cohorts[key])
            is_right = len(rows) == len(wanted) and found == set(wanted)
        if not is_right:
            raise UserError(f"{path} does not hold the members of cohort {key}; it is damaged")

    def _read_own(self, key: str, kind: str, rewrite: bool) -> tuple[pd.DataFrame, dict[str, Any]]:
        path = self.path(key, kind)
        try:
            rows, metadata = self._check(path, key, kind)
        except DamagedFile as error:
            raise _DamagedPart(kind, path) from error
        if rewrite and metadata["config_hash"] != self.grids.here:
            complete_for = metadata.pop("complete_for", metadata["config_hash"])
            if kind in _OF_NETWORKS and networks_of(rows) != set(self._cohorts[key]):
                metadata["complete_for"] = complete_for
            metadata |= self._identity(key)
            self._ledger.write(key, {path: table_writer(rows, metadata)})
        return rows, metadata

    def _take_history(self, key: str, rows: pd.DataFrame) -> None:
        trained, found = (pd.MultiIndex.from_frame(t[["configuration", "seed"]]) for t in (self.trained[key], rows))
        self.history[key] = rows[found.isin(trained)]

    def _take(self, key: str, tables: Mapping[str, pd.DataFrame], metadata: dict[str, Any]) -> None:
        self.metadata[key, MEASURED[-1]] = metadata
        self.measured[key] = Measured(metrics_of(metadata.get("measure")), **{kind: tables[kind] for kind in MEASURED})
        ours = {session["started"] for session in self._manifest["sessions"]}
        made_by = metadata.get("made_by", [])
        is_imported = bool(made_by) and not any(session.get("started") in ours for session in made_by)
        if metadata.get("keep") == "metrics_only" and not is_imported:
            self.superfluous += [(key, name) for name in metadata.get("superfluous", [key])]

    def _identity(self, key: str) -> dict[str, Any]:
        return {"cohort": key, "config_hash": self.grids.here}


class _DamagedPart(Exception):
    def __init__(self, kind: str, path: Path):
        super().__init__(kind, path)
        self.kind, self.path = kind, path


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
