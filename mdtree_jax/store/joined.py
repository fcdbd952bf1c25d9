"""A cohort that is joined from several run folders: which networks of which, and their measurements."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.registry.kernels import KERNELS, PAIR_CHOICES
from mdtree_jax.store.ledger import Writes
from mdtree_jax.store.parts import HISTORY, MEASURED, Parts
from mdtree_jax.store.tables import ADDITION, concat_members, join_parts, networks_of, sorted_rows, table_writer


class Joined:
    """The cohort `key` of a run with these `parts`, to which networks of other folders are added.

    Attributes:
        is_changed: whether anything was added.
        executors: how it and its additions were trained, by name.
        networks: name -> where networks are kept that are to be copied.
    """

    def __init__(self, key: str, parts: Parts, executors: Mapping[str, Any]):
        self.key, self.is_changed = key, False
        self.executors, self.networks = dict(executors), {}
        self._members = frozenset(parts.members(key))
        self._parts = parts
        self._rows: pd.DataFrame | None = None
        self._history: pd.DataFrame | None = None
        self._tables: dict[str, pd.DataFrame] | None = None
        self._metadata: dict[str, dict[str, Any]] = {}
        if key in parts.trained:
            self._take_all(parts)

    def add(self, source: Path, parts: Parts, executors: Mapping[str, Any], networks: Mapping[str, Path]) -> bool:
        """Add what `parts` have of the cohort and is not there yet; return whether anything was.

        Raises:
            UserError: seeds of one configuration that both have, where pairs of them were to be measured.
        """
        before = self._rows
        if before is None:
            self._take_all(parts)
            names = {_named(self.key, number) for number in parts.additions(self.key)}
            self.executors = {name: choice for name, choice in executors.items() if name in names}
            self.networks = dict(networks)
        elif new := networks_of(parts.trained[self.key]) - networks_of(before):
            is_measured = self.key in parts.measured
            if self._tables is not None and not is_measured:
                return False  # they could not be measured
            self._check_pairs(source, parts, new)
            self._add_rows(parts, new, executors, networks)
        elif not self._completes(before, parts):
            return False
        else:
            self._take_tables(parts)
        self.is_changed = True
        return True

    def writes(self) -> Writes:
        """Return what is to be written, in the order in which it is committed."""
        assert self._rows is not None  # something was added
        path, identity = self._parts.path, {"cohort": self.key, "config_hash": self._parts.grids.here}
        writes: dict[Path, Any] = {}
        if self._history is not None:
            writes[path(self.key, HISTORY)] = table_writer(self._history, identity)
        metadata = {**self._metadata["trained"], **identity, **self._share(self._rows)}
        writes[path(self.key)] = table_writer(self._rows, metadata)
        if self._tables is not None:
            metadata = {**self._metadata["members"], **identity, **self._share(self._tables["members"])}
            writes |= {path(self.key, kind): table_writer(self._tables[kind], metadata) for kind in MEASURED}
        return writes

    def copies(self, folder: Path) -> Writes:
        """Return what copies the networks to `folder`."""
        return {folder / name: functools.partial(_copy, path) for name, path in self.networks.items()}

    def _take_all(self, parts: Parts) -> None:
        self._rows = parts.trained[self.key]
        self._history = parts.history.get(self.key)
        self._metadata["trained"] = _made(parts.metadata[self.key, "trained"])
        if self.key in parts.measured:
            self._take_tables(parts)

    def _take_tables(self, parts: Parts) -> None:
        self._tables = {kind: getattr(parts.measured[self.key], kind) for kind in MEASURED}
        self._metadata["members"] = _made(parts.metadata[self.key, "members"])

    def _completes(self, ours: pd.DataFrame, parts: Parts) -> bool:
        """Return whether parts have the measurement, which is not there yet, of networks with just these numbers."""
        if self._tables is not None or self.key not in parts.measured:
            return False
        ours, theirs = (table.drop(columns=ADDITION, errors="ignore") for table in (ours, parts.trained[self.key]))
        ours = ours[[c for c in ours if not str(c).endswith("_seconds")]]
        return ours.equals(theirs.reindex(columns=ours.columns))

    def _check_pairs(self, source: Path, parts: Parts, new: frozenset[tuple[int, int]]) -> None:
        assert self._rows is not None  # there is something to add to
        if self._tables is None or self.key not in parts.measured:
            return
        metrics = parts.measured[self.key].metrics
        of_pairs = sorted(m for m in metrics if m in PAIR_CHOICES or (m in KERNELS and KERNELS[m].compares))
        split = {configuration for configuration, _ in new} & {*self._rows["configuration"].tolist()}
        if of_pairs and split:
            raise UserError(
                f"{source} has other seeds of a configuration of cohort {self.key} than the parts before it, and pairs "
                f"of them were never measured ({', '.join(of_pairs)}); split a grid by its axes or by shard=, not by "
                "seeds"
            )

    def _add_rows(
        self, parts: Parts, new: frozenset[tuple[int, int]], executors: Mapping[str, Any], networks: Mapping[str, Path]
    ) -> None:
        assert self._rows is not None  # there is something to add to
        theirs, ours = parts.trained[self.key], self._rows
        is_new = _is_of(theirs, new)
        before = ours[ADDITION].tolist() if ADDITION in ours else [0] * len(ours)
        added = theirs[ADDITION].tolist() if ADDITION in theirs else [0] * len(theirs)
        first = 1 + max(before)
        additions = [*before, *(first + number for number, wanted in zip(added, is_new, strict=True) if wanted)]
        both = [table.drop(columns=ADDITION, errors="ignore") for table in (ours, theirs[is_new])]
        self._rows = sorted_rows(concat_members(both).assign(**{ADDITION: additions}))
        self._metadata["trained"] = _made(parts.metadata[self.key, "trained"]) | {"extends": self._metadata["trained"]}
        if self.key in parts.history:
            curves = parts.history[self.key]
            curves = curves[_is_of(curves, new)]
            self._history = join_parts([*([] if self._history is None else [self._history]), curves], HISTORY)
        names = {_named(self.key, number): _named(self.key, first + number) for number in sorted(set(added))}
        self.executors |= {names[name]: choice for name, choice in executors.items() if name in names}
        if is_new.all():
            self.networks |= {names[name]: path for name, path in networks.items() if name in names}
        if self.key in parts.measured and self._tables is None:
            self._take_tables(parts)
        elif self.key in parts.measured:
            self._add_tables(parts, new)

    def _add_tables(self, parts: Parts, new: frozenset[tuple[int, int]]) -> None:
        assert self._tables is not None  # there is something to add to
        configurations = {configuration for configuration, _ in new}
        for kind in MEASURED:
            theirs = getattr(parts.measured[self.key], kind)
            wanted = theirs["configuration"].isin(configurations) if kind == "pairs" else _is_of(theirs, new)
            self._tables[kind] = join_parts([self._tables[kind], theirs[wanted]], kind)
        self._metadata["members"] = _made(parts.metadata[self.key, "members"]) | {"extends": self._metadata["members"]}

    def _share(self, rows: pd.DataFrame) -> dict[str, Any]:
        """Return the entry that says how many networks there are, where that is not all of the cohort."""
        return {} if networks_of(rows) == self._members else {"joined": len(rows)}


def _made(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name not in ("complete_for", "joined")}


def _is_of(rows: pd.DataFrame, networks: frozenset[tuple[int, int]]) -> Any:
    return pd.MultiIndex.from_frame(rows[["configuration", "seed"]]).isin(list(networks))


def _named(key: str, addition: int) -> str:
    return f"{key}+{addition}" if addition else key


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
