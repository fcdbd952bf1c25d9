"""The run folder of a sweep: what is finished, what was decided, and the tables made from it.

```
runs/digits/
  manifest.json         resolved config, sessions (code, packages, machine), digests of the tables of a finished run
  run.lock              held while a process works here
  cohorts/<cohort>.json         record of a cohort: its executor, sessions, and digests of all files written of it
  parts/<cohort>.parquet        rows of a trained cohort: its existence says that they are trained
  parts/history/<cohort>.parquet        learning curves of a trained cohort, where they were recorded
  parts/<table>/<cohort>.parquet        the same of a measured cohort: layers, pairs and, last, members
  checkpoints/<cohort>/         the trained networks, stacked (keep=all, and until they are measured)
  checkpoints/<cohort>+1/       those that were added to the cohort when the run was first extended, and so on
  unfinished/<cohort>/          state inside a cohort that takes long; measured-<cohort> while it is measured
  members.parquet, pairs.parquet, layers.parquet, history.parquet, collection.parquet    made from the parts, from
                                time to time and at the end
```
Every file is written whole or not at all, and a part comes after its checkpoint, so killing the process at any moment
loses at most the training or the measurement of the cohort it was at. Nothing is written over or deleted but what the
records, or the manifest for the tables, say that a run wrote here, and nothing through a link.

A file that is not as it was written is set aside with `.damaged` behind its name when it is read, and what it held is
made again: of a trained part, of learning curves and of networks all of the cohort, of a measured part its measurement.

A folder can be extended, to a larger grid and to more metrics. One write of the manifest does it, which keeps the
config before in `extended_from`; parts and checkpoints say in which grid their configurations are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from mdtree_jax.checks import DamagedFile
from mdtree_jax.files import (
    is_temporary,
    one_sentence_on_write_failure,
    remove,
)
from mdtree_jax.recipe.extension import Extension
from mdtree_jax.store.grids import Grids, extension_from
from mdtree_jax.store.joined import Joined
from mdtree_jax.store.ledger import CHECKPOINTS, RECORDS, UNFINISHED, Ledger
from mdtree_jax.store.lock import FolderLock
from mdtree_jax.store.manifest import FORMAT, check_names, check_same_config, config_hash, write_manifest
from mdtree_jax.store.opening import adopt_earlier_format, check_folder, made_with, open_manifest, tables_there
from mdtree_jax.store.parts import HISTORY, MEASURED, Parts, check_more_metrics, metrics_of
from mdtree_jax.store.run_tables import write_run_tables
from mdtree_jax.store.tables import Measured, networks_of


class RunFolder:
    """A run folder at `path` for the sweep that `config` (resolved, plain values) describes.

    `cohorts` gives for every cohort's key its members as pairs (configuration, seed), in the order of the grid.

    Use it as a context manager: entering takes the folder's lock, refuses a folder made with a config that this one
    does not extend, makes a new one, and clears what a killed process left behind. Where the config extends that of
    the folder, `extension` says how, and `extend` makes it so. `damage` are sentences on what was damaged and is to be
    made again. All methods raise `UserError` on a full disk.
    """

    def __init__(self, path: str | Path, config: dict[str, Any], cohorts: Mapping[str, Iterable[tuple[int, int]]]):
        self.path = Path(path).expanduser().absolute()
        self.config = config
        self.cohorts = {key: tuple(members) for key, members in cohorts.items()}
        self.extension: Extension | None = None
        self.damage: list[str] = []
        self.parts: Parts
        self.ledger = Ledger(self.path)
        self._lock = FolderLock(self.path)
        self._manifest: dict[str, Any] = {}
        self._more: dict[str, Any] | None = None  # settings of measuring with metrics that the manifest's lack

    def __enter__(self) -> RunFolder:
        try:
            check_folder(self.path, self.config)  # before anything is made in somebody else's folder
        except DamagedFile:
            if not made_with(self.path, self.config):
                raise
        check_names(self.path, self.cohorts)
        self._lock.__enter__()
        try:
            with self.writing():
                self._manifest = open_manifest(self.path, self.config, self.damage)
                self.extension = extension_from(self.path, self._manifest["config"], self.config)
                self._open_records()
                self.read_parts()
                self._clear_leftovers()
        except BaseException:
            self._lock.__exit__()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self._lock.__exit__(*exception)

    @property
    def trained(self) -> tuple[str, ...]:
        """Keys of the cohorts of which all members are trained, in the order of the grid."""
        return tuple(key for key in self.cohorts if not self.parts.missing(key))

    @property
    def measured(self) -> tuple[str, ...]:
        """Keys of the cohorts of which all members are measured, with all metrics, in the order of the grid."""
        wanted = metrics_of(self._more or self._manifest.get("measure"))
        return tuple(key for key in self.cohorts if self.parts.is_measured(key, wanted))

    @property
    def members(self) -> pd.DataFrame:
        """The per-seed table of all that is finished."""
        return self.parts.joined_members()

    @property
    def pairs(self) -> pd.DataFrame:
        """The table of pairs of all that is measured."""
        return self.parts.joined("pairs")

    def trained_rows(self, key: str) -> pd.DataFrame:
        """Return the rows of the trained members of a cohort, by configuration and seed."""
        return self.parts.rows(key)

    def measurement(self, key: str) -> Measured | None:
        """Return what is measured of a cohort, None if nothing is."""
        return self.parts.measured.get(key)

    def use_measurement(self, config: dict[str, Any], earlier: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Say how this run measures, before the first measurement; raises `UserError` if the folder has another.

        Metrics that the folder lacks extend it, which `extend` does. `earlier` are the values of settings that a
        config without them was made with.
        """
        there = self._manifest.get("measure")
        if there is not None and self.parts.measured:
            check_more_metrics(self.path, {**earlier, **there}, {**earlier, **config})
            if metrics_of(config) != metrics_of(there):
                self._more = config
                return
        elif there is not None and config_hash(there) != config_hash(config):
            self._forget_begun_measurements(self.cohorts)  # what was begun was measured otherwise
        self._manifest["measure"] = config
        self.save_manifest()

    @property
    def growth(self) -> str:
        """What `extend` will change, in words; "" if it has nothing to do."""
        words = [self.extension.in_words()] if self.extension is not None else []
        if self._more is not None:
            there = metrics_of(self._manifest["measure"])
            words.append(f"metrics + {', '.join(metric for metric in self._more['metrics'] if metric not in there)}")
        return "; ".join(words)

    def extend(self) -> None:
        """Make this the folder of its config and its metrics, where these extend what is there."""
        if self.extension is None and self._more is None:
            return
        manifest = dict(self._manifest)
        before = {name: manifest[name] for name in ("config", "config_hash", "measure") if name in manifest}
        manifest["extended_from"] = [*manifest.get("extended_from", []), before]
        if self.extension is not None:
            manifest |= {"config": self.config, "config_hash": config_hash(self.config)}
            grown = [k for k, members in self.cohorts.items() if self.extension.of_smaller(members) != [*members]]
            self._forget_begun_measurements(grown)
            for key in grown:  # what was begun is of other members; with its executor a state inside it goes
                if self.ledger[key].executors.pop(self.name_to_train(key), None) is not None:
                    self.ledger.save(key)
        if self._more is not None:
            manifest["measure"] = self._more
            self._forget_begun_measurements(self.cohorts)
        self._manifest = manifest
        self.save_manifest()
        self.extension = self._more = None
        with self.writing():
            self.read_parts()

    def begin_session(self, session: dict[str, Any]) -> None:
        """Add to the manifest what this process runs on."""
        self._manifest["sessions"].append(session)
        self.ledger.session = session
        self.save_manifest()

    def executor(self, key: str, name: str) -> dict[str, Any] | None:
        """Return the executor chosen for a cohort, or for an addition to it that has this name, None if none was."""
        return self.ledger[key].executors.get(name)

    def record_executor(self, key: str, name: str, choice: dict[str, Any]) -> None:
        """Record the executor chosen for a cohort or an addition to it, before its first step."""
        self.ledger[key].executors[name] = choice
        with self.writing():
            self.ledger.save(key)

    def choices(self, key: str) -> dict[str, Any] | None:
        """Return what was decided for the measurement of the cohort, None if it was not begun with these settings."""
        recorded = self.ledger[key].choices
        return recorded["choices"] if recorded.get("measure_hash") == self._measure_hash else None

    def record_choices(self, key: str, choices: dict[str, Any]) -> None:
        """Record what was decided for the measurement of the cohort, before it begins."""
        if self.choices(key) != choices:
            self.ledger[key].choices = {"measure_hash": self._measure_hash, "choices": choices}
            with self.writing():
                self.ledger.save(key)

    @property
    def _measure_hash(self) -> str:
        return config_hash(self._manifest["measure"])

    def name_to_train(self, key: str) -> str:
        """Return the name that executor, state and checkpoint of a cohort's next training have.

        That is the cohort's key, and with +1, +2 … for what is added to it later.
        """
        return _named(key, 1 + max(self.parts.additions(key), default=-1))

    def checkpoint_path(self, name: str) -> Path:
        """Where the stacked networks of a cohort or an addition are kept."""
        return self.path / CHECKPOINTS / name

    def checkpoints(self, key: str) -> dict[Path, frozenset[tuple[int, int]]]:
        """Return where networks of a cohort are kept, and which (configuration, seed)."""
        found = self.parts.members_of_additions(key).items()
        paths = {self.checkpoint_path(_named(key, addition)): members for addition, members in found}
        return {path: members for path, members in paths.items() if path.is_dir()}

    def unfinished_path(self, name: str) -> Path:
        """Where the state inside a long cohort or addition is kept until that is finished."""
        return self.path / UNFINISHED / name

    def claim_state(self, key: str, name: str) -> None:
        """Record that a state inside a cohort or addition is kept, before the first one is written."""
        with self.writing():
            self.ledger.claim_state(key, name)

    def forget_unfinished(self, key: str, name: str) -> None:
        """Remove the state inside a cohort or addition."""
        self.ledger.forget_state(key, name)

    def finish(
        self,
        key: str,
        rows: pd.DataFrame,
        metadata: dict[str, Any],
        history: pd.DataFrame | None = None,
        networks: Callable[[Path], object] | None = None,
    ) -> None:
        """Commit members of the cohort: their rows become a part, or join it; they are never trained again.

        `history` holds their learning curves, if they were recorded; `networks` writes the networks to a path, if they
        are kept. The part says on what it was made, so that it still does in another folder.
        """
        name = self.name_to_train(key)
        kept = {} if networks is None else {self.checkpoint_path(name): networks}
        with self.writing():
            self.parts.commit(key, rows, {**metadata, "made_by": self._manifest["sessions"][-1:]}, history, kept)
            self.forget_unfinished(key, name)

    def finish_measurement(self, key: str, tables: dict[str, pd.DataFrame], metadata: dict[str, Any]) -> None:
        """Commit the measurement of a trained cohort, its `layers`, `pairs` and `members`; never measured again.

        Where the metadata say `keep`: metrics_only, the networks go that this is the first measurement of.
        """
        measure = {"measure_hash": self._measure_hash, "measure": self._manifest["measure"]}
        earlier = self.parts.measured.get(key)
        new = self.parts.additions(key, without=earlier.networks if earlier else ())
        about = {"made_by": self._manifest["sessions"][-1:], **measure}
        with self.writing():
            about["superfluous"] = [_named(key, addition) for addition in new]
            self.parts.commit_measured(key, tables, {**metadata, **about})
            self.forget_unfinished(key, f"measured-{key}")
        self._forget_superfluous_networks()

    def write_tables(self, csv: bool = False, *, is_final: bool = True) -> None:
        """Write the tables of the finished cohorts (and the same as CSV); the module says which.

        Only final ones have their digests in the manifest. Raises `UserError` where a file of such a name was not
        written by a run here.
        """
        with self.writing():
            write_run_tables(
                self.path, self.parts, self._manifest["tables"], self.save_manifest, csv=csv, is_final=is_final
            )

    def read_parts(self) -> None:
        """Read and check all parts that are there, counted as in the grid of the folder; set damaged ones aside."""
        grids = Grids(self.path, self._manifest, self.config)
        self.ledger.grid = grids.here if self.extension is None else grids.stored
        self.parts = Parts(self.path, self._manifest, grids, self.cohorts, self.ledger)
        self.parts.clear_uncommitted()
        self.parts.read(rewrite=self.extension is None)
        for damage in self.parts.damaged:
            self._repair(*damage)
        self._forget_superfluous_networks()

    def check_measured_alike(self, source: Path, measure: dict[str, Any] | None) -> None:
        """Raise `UserError` if another folder was measured otherwise; the first one says how this one is."""
        if measure is not None:
            check_same_config(source, measure, self._manifest.setdefault("measure", measure))

    def join(self, cohorts: Mapping[str, Joined], grids: Iterable[dict[str, Any] | None]) -> None:
        """Write cohorts that were joined from other folders, of grids that the one here extends (None: this grid)."""
        known = self._manifest.setdefault("joined_from", [])
        known += [config for config in grids if config is not None and config not in known]
        if not known:
            del self._manifest["joined_from"]
        self.save_manifest()
        for key, cohort in cohorts.items():
            self.ledger[key].executors = cohort.executors
        folder = self.path / CHECKPOINTS
        self.ledger.write_all({key: {**one.copies(folder), **one.writes()} for key, one in cohorts.items()})
        self.read_parts()

    def check_networks(self, keys: Iterable[str]) -> None:
        """Set damaged networks of cohorts aside; such a cohort is to be trained again."""
        for key in keys:
            damaged = (path for path in self.ledger.files(key, CHECKPOINTS) if self.ledger.is_damaged(key, path))
            if (path := next(damaged, None)) is not None:
                self._repair(key, "networks", path)

    def _repair(self, key: str, kind: str, path: Path) -> None:
        """Set a damaged part or damaged networks aside, and forget what is made of them, so that it is made again."""
        with self.writing():
            done = self.ledger.set_aside(key, path)
            of_measurement = kind in MEASURED
            if of_measurement:
                held = frozenset().union(*self.checkpoints(key).values())
                of_measurement = held >= networks_of(self.parts.trained[key])
            # Last what says that something is there.
            removed = reversed(MEASURED) if of_measurement else (*reversed(MEASURED), "trained", HISTORY)
            for one in removed:
                self.ledger.remove(key, self.parts.path(key, one))
            if not of_measurement:
                for networks in self.ledger.files(key, CHECKPOINTS):
                    self.ledger.remove(key, networks)
                record = self.ledger[key]
                record.executors = {name: choice for name, choice in record.executors.items() if name == key}
            self.ledger.save(key)
        self.parts.forget(key, "members" if of_measurement else "trained")
        self.damage.append(f"{done}; cohort {key} is {'measured' if of_measurement else 'trained'} again")

    def save_manifest(self) -> None:
        """Write the manifest as it is now."""
        with self.writing():
            write_manifest(self.path / "manifest.json", self._manifest)

    def writing(self):
        """Return a context in which a full disk becomes a `UserError`."""
        return one_sentence_on_write_failure(self.path)

    def _open_records(self) -> None:
        """Read the records of the cohorts; in a folder of a version without them, make them of what is there."""
        self.ledger.grid = self._manifest["config_hash"]
        self.ledger.read(self.cohorts)
        if self._manifest["format"] < FORMAT:
            with_records = adopt_earlier_format(self._manifest, self.ledger, self.cohorts)
            self._manifest = with_records | {"tables": tables_there(self.path)}
            self.save_manifest()
        for key in self.ledger.damaged:
            self.damage.append(f"{self.ledger.set_record_aside(key)}; cohort {key} is made again")
        self.ledger.check_foreign(self.cohorts)

    def _forget_begun_measurements(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.forget_unfinished(key, f"measured-{key}")

    def _forget_superfluous_networks(self) -> None:
        while self.parts.superfluous:
            key, name = self.parts.superfluous.pop()
            self.ledger.remove(key, self.checkpoint_path(name))

    def _clear_leftovers(self) -> None:
        """Remove what a killed process left: temporary files, networks of unfinished cohorts, states of finished."""
        for folder in (self.path, self.path / RECORDS, self.path / CHECKPOINTS):
            for path in folder.glob("*.partial*"):
                if is_temporary(path.name):
                    remove(path)
        for key in self.cohorts:
            finished = [_named(key, addition) for addition in self.parts.additions(key)]
            for path in self.ledger.files(key, CHECKPOINTS):
                if path.name not in finished:
                    self.ledger.remove(key, path)
            for name in finished:
                self.forget_unfinished(key, name)
        self._forget_begun_measurements(self.measured)


def _named(key: str, addition: int) -> str:
    return f"{key}+{addition}" if addition else key
