"""The run folder of a sweep: what is finished, what was decided, and the tables made from it.

```
runs/digits/
  manifest.json         resolved config, sessions (code, packages, machine), executor of each cohort
  run.lock              held while a process works here
  parts/<cohort>.parquet        rows of a trained cohort: its existence says that they are trained
  parts/history/<cohort>.parquet        learning curves of a trained cohort, where they were recorded
  parts/<table>/<cohort>.parquet        the same of a measured cohort: layers, pairs and, last, members
  checkpoints/<cohort>/         the trained networks, stacked (keep=all, and until they are measured)
  checkpoints/<cohort>+1/       those that were added to the cohort when the run was first extended, and so on
  unfinished/<cohort>/          state inside a cohort that takes long; measured-<cohort> while it is measured
  members.parquet, pairs.parquet, layers.parquet, history.parquet, collection.parquet    made from the parts after
                                every cohort
```
Every file is written whole or not at all, and a part comes after its checkpoint, so killing the process at any moment
loses at most the training or the measurement of the cohort it was at.

A folder can be extended, to a larger grid and to more metrics. One write of the manifest does it, which keeps the
config before in `extended_from`; parts and checkpoints say in which grid their configurations are counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.files import is_temporary, one_sentence_on_write_failure, write_atomically
from mdtree_jax.recipe.extension import Extension
from mdtree_jax.store.grids import Grids, extension_from
from mdtree_jax.store.lock import FolderLock
from mdtree_jax.store.manifest import check_names, config_hash, new_manifest, read_manifest, write_manifest
from mdtree_jax.store.parts import Parts, check_more_metrics, metrics_of
from mdtree_jax.store.tables import Measured, collect, write_table


class RunFolder:
    """A run folder at `path` for the sweep that `config` (resolved, plain values) describes.

    `cohorts` gives for every cohort's key its members as pairs (configuration, seed), in the order of the grid.

    Use it as a context manager: entering takes the folder's lock, refuses a folder made with a config that this one
    does not extend, makes a new one, and clears what a killed process left behind. Where the config extends that of
    the folder, `extension` says how, and `extend` makes it so. All methods raise `UserError` on a full disk.
    """

    def __init__(self, path: str | Path, config: dict[str, Any], cohorts: Mapping[str, Iterable[tuple[int, int]]]):
        self.path = Path(path).expanduser().absolute()
        self.config = config
        self.cohorts = {key: tuple(members) for key, members in cohorts.items()}
        self.extension: Extension | None = None
        self.parts: Parts
        self._lock = FolderLock(self.path)
        self._manifest: dict[str, Any] = {}
        self._more: dict[str, Any] | None = None  # settings of measuring with metrics that the manifest's lack

    def __enter__(self) -> RunFolder:
        check_folder(self.path, self.config)  # before anything is made in somebody else's folder
        check_names(self.path, self.cohorts)
        self._lock.__enter__()
        try:
            with self.writing():
                manifest = read_manifest(self.path / "manifest.json")
                if manifest is None:
                    manifest = new_manifest(self.config)
                    write_manifest(self.path / "manifest.json", manifest)
                self.extension = extension_from(self.path, manifest["config"], self.config)
                self._manifest = manifest
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
            self._manifest.pop("choices", None)
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
            # What was begun is of other members; with its executor a state inside it goes.
            begun = {self.name_to_train(key) for key in grown}
            manifest["executors"] = {k: choice for k, choice in manifest["executors"].items() if k not in begun}
        if self._more is not None:
            manifest["measure"] = self._more
            self._forget_begun_measurements(self.cohorts)
            manifest.pop("choices", None)  # how much memory the added metrics take was not looked at
        self._manifest = manifest
        self.save_manifest()
        self.extension = self._more = None
        with self.writing():
            self.read_parts()

    def begin_session(self, session: dict[str, Any]) -> None:
        """Add to the manifest what this process runs on."""
        self._manifest["sessions"].append(session)
        self.save_manifest()

    def executor(self, name: str) -> dict[str, Any] | None:
        """Return the executor chosen for a cohort, or for an addition to one, None if none was yet."""
        return self._manifest["executors"].get(name)

    def record_executor(self, name: str, choice: dict[str, Any]) -> None:
        """Write the executor chosen for a cohort or an addition into the manifest, before its first step."""
        self._manifest["executors"][name] = choice
        self.save_manifest()

    def choices(self, key: str) -> dict[str, Any] | None:
        """Return what was decided for the measurement of the cohort, None if it was not begun."""
        return self._manifest.get("choices", {}).get(key)

    def record_choices(self, key: str, choices: dict[str, Any]) -> None:
        """Write what was decided for the measurement of the cohort into the manifest, before it begins."""
        if self.choices(key) != choices:
            self._manifest.setdefault("choices", {})[key] = choices
            self.save_manifest()

    def name_to_train(self, key: str) -> str:
        """Return the name that executor, state and checkpoint of a cohort's next training have.

        That is the cohort's key, and with +1, +2 … for what is added to it later.
        """
        return _named(key, 1 + max(self.parts.additions(key), default=-1))

    def checkpoint_path(self, name: str) -> Path:
        """Where the stacked networks of a cohort or an addition are kept."""
        return self.path / "checkpoints" / name

    def checkpoints(self, key: str) -> dict[Path, frozenset[tuple[int, int]]]:
        """Return where networks of a cohort are kept, and which (configuration, seed)."""
        found = self.parts.members_of_additions(key).items()
        paths = {self.checkpoint_path(_named(key, addition)): members for addition, members in found}
        return {path: members for path, members in paths.items() if path.is_dir()}

    def unfinished_path(self, name: str) -> Path:
        """Where the state inside a long cohort or addition is kept until that is finished."""
        return self.path / "unfinished" / name

    def forget_unfinished(self, name: str) -> None:
        """Remove the state inside a cohort or addition."""
        path = self.unfinished_path(name)
        for leftover in (path, *path.parent.glob(f"{name}.*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def finish(
        self, key: str, rows: pd.DataFrame, metadata: dict[str, Any], history: pd.DataFrame | None = None
    ) -> None:
        """Commit members of the cohort: their rows become a part, or join it; they are never trained again.

        `history` holds their learning curves, if they were recorded. The part says on what it was made, so that it
        still does in another folder.
        """
        name = self.name_to_train(key)
        with self.writing():
            self.parts.commit(key, rows, {**metadata, "made_by": self._manifest["sessions"][-1:]}, history)
            self.forget_unfinished(name)

    def finish_measurement(self, key: str, tables: dict[str, pd.DataFrame], metadata: dict[str, Any]) -> None:
        """Commit the measurement of a trained cohort, its `layers`, `pairs` and `members`; never measured again.

        Where the metadata say `keep`: metrics_only, the networks go that this is the first measurement of.
        """
        measure = {"measure_hash": config_hash(self._manifest["measure"]), "measure": self._manifest["measure"]}
        earlier = self.parts.measured.get(key)
        new = self.parts.additions(key, without=earlier.networks if earlier else ())
        about = {"made_by": self._manifest["sessions"][-1:], **measure}
        with self.writing():
            about["superfluous"] = [_named(key, addition) for addition in new]
            self.parts.commit_measured(key, tables, {**metadata, **about})
            self.forget_unfinished(f"measured-{key}")
        self._forget_superfluous_networks()

    def write_tables(self, csv: bool = False) -> None:
        """Write the tables of the finished cohorts (and the same as CSV); the module says which."""
        members = self.members
        pairs = self.pairs
        tables = {"members": members, "collection": collect(members, pairs)}
        tables |= {"pairs": pairs, "layers": self.parts.joined("layers")} if self.parts.measured else {}
        tables |= {"history": self.parts.joined_history()} if self.parts.history else {}
        precision = {name: self.config[name] for name in ("precision",) if name in self.config}  # other than float32
        with self.writing():
            for name, table in tables.items():
                grid = {"config_hash": self.parts.grids.here} if name == "members" else {}
                write_table(self.path / f"{name}.parquet", table, grid | precision or None)
                if csv:
                    write_atomically(
                        self.path / f"{name}.csv", lambda temporary, table=table: table.to_csv(temporary, index=False)
                    )

    def read_parts(self) -> None:
        """Read and check all parts that are there, counted as in the grid of the folder."""
        grids = Grids(self.path, self._manifest, self.config)
        self.parts = Parts(self.path, self._manifest, grids, self.cohorts)
        self.parts.clear_uncommitted()
        self.parts.read(rewrite=self.extension is None)
        self._forget_superfluous_networks()

    def save_manifest(self) -> None:
        """Write the manifest as it is now."""
        with self.writing():
            write_manifest(self.path / "manifest.json", self._manifest)

    def writing(self):
        """Return a context in which a full disk becomes a `UserError`."""
        return one_sentence_on_write_failure(self.path)

    def _forget_begun_measurements(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.forget_unfinished(f"measured-{key}")

    def _forget_superfluous_networks(self) -> None:
        while self.parts.superfluous:
            shutil.rmtree(self.checkpoint_path(self.parts.superfluous.pop()), ignore_errors=True)

    def _clear_leftovers(self) -> None:
        """Remove what a killed process left: temporary files, networks of unfinished cohorts, states of finished."""
        for path in self.path.glob("*"):
            if is_temporary(path.name):
                path.unlink(missing_ok=True)
        finished = {_named(key, addition) for key in self.cohorts for addition in self.parts.additions(key)}
        for path in self.path.glob("checkpoints/*"):
            if path.name not in finished:
                shutil.rmtree(path, ignore_errors=True)
        for name in finished:
            self.forget_unfinished(name)
        self._forget_begun_measurements(self.measured)


def _named(key: str, addition: int) -> str:
    return f"{key}+{addition}" if addition else key


def check_folder(path: Path, config: dict[str, Any]) -> None:
    """Raise `UserError` unless a run of `config` can start or go on at `path`.

    That is: nothing there, an empty folder, or a run folder made with the same config or one that this extends.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"out={path} is a file; expected a folder")
    manifest = read_manifest(path / "manifest.json")
    if manifest is not None:
        extension_from(path, manifest["config"], config)
    elif path.is_dir() and any(not _may_be_alone(entry.name) for entry in path.iterdir()):
        raise UserError(f"{path} is not empty and has no manifest.json, so it is not a run folder; choose another out=")


def read_parts(
    path: str | Path, config: dict[str, Any], cohorts: Mapping[str, Sequence[tuple[int, int]]]
) -> Parts | None:
    """Return the parts of the run folder at `path`, None if no run was begun there; takes no lock, changes nothing.

    `config` may lack what is only known with the data. Raises `UserError` as `check_folder`, and for damaged parts.
    """
    path = Path(path).expanduser()
    manifest = read_manifest(path / "manifest.json")
    config = config if manifest is None else manifest["config"] | config
    check_folder(path, config)
    if manifest is None:
        return None
    parts = Parts(path, manifest, Grids(path, manifest, config), cohorts)
    parts.read(rewrite=False)
    return parts


def _may_be_alone(name: str) -> bool:
    """Whether a process killed before it wrote the manifest may have left a file of this name."""
    return name == "run.lock" or is_temporary(name)
