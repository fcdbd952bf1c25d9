"""The run folder of a sweep: what is finished, what was decided, and the tables made from it.

```
runs/digits/
  manifest.json         resolved config, sessions (code, packages, machine), executor of each cohort
  run.lock              held while a process works here
  parts/<cohort>.parquet        rows of a trained cohort: its existence says that the cohort is trained
  parts/<table>/<cohort>.parquet        the same of a measured cohort: layers, pairs and, last, members
  checkpoints/<cohort>/         the trained networks, stacked (keep=all, and until they are measured)
  unfinished/<cohort>/          state inside a cohort that takes long; measured-<cohort> while it is measured
  members.parquet, pairs.parquet, layers.parquet, collection.parquet    made from the parts after every cohort
```
Every file is written whole or not at all, and a part comes after its checkpoint, so killing the process at any moment
loses at most the training or the measurement of the cohort it was at.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.files import is_temporary, one_sentence_on_write_failure, write_atomically
from mdtree_jax.store.lock import FolderLock
from mdtree_jax.store.manifest import check_same_config, config_hash, new_manifest, read_manifest, write_manifest
from mdtree_jax.store.tables import collect, join_members, join_parts, read_part, write_table

#: The tables of a measurement; the last one says that the cohort is measured.
MEASURED = ("layers", "pairs", "members")


class RunFolder:
    """A run folder at `path` for the sweep that `config` (resolved, plain values) describes.

    `cohorts` gives for every cohort's key its members as pairs (configuration, seed), in the order of the grid.

    Use it as a context manager: entering takes the folder's lock, refuses a folder made with another config, makes a
    new one, and clears what a killed process left behind. All methods raise `UserError` on a full disk.
    """

    def __init__(self, path: str | Path, config: dict[str, Any], cohorts: Mapping[str, Iterable[tuple[int, int]]]):
        self.path = Path(path).expanduser().absolute()
        self.config = config
        self.cohorts = {key: frozenset(members) for key, members in cohorts.items()}
        self._lock = FolderLock(self.path)
        self._manifest: dict[str, Any] = {}
        self._parts: dict[str, pd.DataFrame] = {}
        self._measured: dict[str, dict[str, pd.DataFrame]] = {}

    def __enter__(self) -> RunFolder:
        check_folder(self.path, self.config)  # before anything is made in somebody else's folder
        self._lock.__enter__()
        try:
            with self._writing():
                manifest = read_manifest(self.path / "manifest.json")
                if manifest is None:
                    manifest = new_manifest(self.config)
                    write_manifest(self.path / "manifest.json", manifest)
                check_same_config(self.path, manifest["config"], self.config)
                self._manifest = manifest
                self._clear_leftovers()
            self._read_parts()
        except BaseException:
            self._lock.__exit__()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self._lock.__exit__(*exception)

    @property
    def trained(self) -> tuple[str, ...]:
        """Keys of the trained cohorts, in the order of the grid."""
        return tuple(key for key in self.cohorts if key in self._parts)

    @property
    def measured(self) -> tuple[str, ...]:
        """Keys of the measured cohorts, in the order of the grid."""
        return tuple(key for key in self.cohorts if key in self._measured)

    @property
    def members(self) -> pd.DataFrame:
        """The per-seed table of all finished cohorts."""
        measured = [self._measured[key]["members"] for key in self.measured]
        return join_members([self._parts[key] for key in self.trained], measured)

    @property
    def pairs(self) -> pd.DataFrame:
        """The table of pairs of all measured cohorts."""
        return join_parts([self._measured[key]["pairs"] for key in self.measured], "pairs")

    def trained_rows(self, key: str) -> pd.DataFrame:
        """Return the rows of a trained cohort, by configuration and seed."""
        return self._parts[key]

    def use_measurement(self, config: dict[str, Any], earlier: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Say how this run measures, before the first measurement; raises `UserError` if the folder has another.

        `earlier` are the values of settings that a config without them was made with.
        """
        there = self._manifest.get("measure")
        if there is not None and self._measured:
            check_same_config(self.path, {**earlier, **there}, {**earlier, **config})
        elif there is not None and config_hash(there) != config_hash(config):
            for key in self.cohorts:  # what was begun was measured otherwise
                self.forget_unfinished(f"measured-{key}")
            self._manifest.pop("choices", None)
        self._manifest["measure"] = config
        self._write_manifest()

    def begin_session(self, session: dict[str, Any]) -> None:
        """Add to the manifest what this process runs on."""
        self._manifest["sessions"].append(session)
        self._write_manifest()

    def executor(self, key: str) -> dict[str, Any] | None:
        """Return the executor chosen for the cohort, None if none was yet."""
        return self._manifest["executors"].get(key)

    def record_executor(self, key: str, choice: dict[str, Any]) -> None:
        """Write the executor chosen for the cohort into the manifest, before its first step."""
        self._manifest["executors"][key] = choice
        self._write_manifest()

    def choices(self, key: str) -> dict[str, Any] | None:
        """Return what was decided for the measurement of the cohort, None if it was not begun."""
        return self._manifest.get("choices", {}).get(key)

    def record_choices(self, key: str, choices: dict[str, Any]) -> None:
        """Write what was decided for the measurement of the cohort into the manifest, before it begins."""
        if self.choices(key) != choices:
            self._manifest.setdefault("choices", {})[key] = choices
            self._write_manifest()

    def checkpoint_path(self, key: str) -> Path:
        """Where the stacked networks of the cohort are kept."""
        return self.path / "checkpoints" / key

    def unfinished_path(self, key: str) -> Path:
        """Where the state inside a long cohort is kept until the cohort is finished."""
        return self.path / "unfinished" / key

    def forget_unfinished(self, key: str) -> None:
        """Remove the state inside the cohort."""
        path = self.unfinished_path(key)
        for leftover in (path, *path.parent.glob(f"{key}.*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def finish(self, key: str, rows: pd.DataFrame, metadata: dict[str, Any]) -> None:
        """Commit the cohort: its rows become a part; from here on it is never trained again.

        The part says on what it was made, so that it still does in another folder.
        """
        session = self._manifest["sessions"][-1:]
        with self._writing():
            write_table(self._part(key), rows, {**metadata, "made_by": session, **self._identity(key)})
            self._parts[key] = rows
            self.forget_unfinished(key)

    def finish_measurement(self, key: str, tables: dict[str, pd.DataFrame], metadata: dict[str, Any]) -> None:
        """Commit the measurement of a trained cohort, its `layers`, `pairs` and `members`; never measured again."""
        session = self._manifest["sessions"][-1:]
        measure = {"measure_hash": config_hash(self._manifest["measure"]), "measure": self._manifest["measure"]}
        with self._writing():
            for kind in MEASURED:
                described = {**metadata, "made_by": session, **measure, **self._identity(key)}
                write_table(self._part(key, kind), tables[kind], described)
            self._measured[key] = {kind: tables[kind] for kind in MEASURED}
            self.forget_unfinished(f"measured-{key}")

    def forget_checkpoint(self, key: str) -> None:
        """Remove the networks of the cohort."""
        shutil.rmtree(self.checkpoint_path(key), ignore_errors=True)

    def write_tables(self, csv: bool = False) -> None:
        """Write the tables of the finished cohorts (and the same as CSV); the module says which."""
        members = self.members
        pairs = self.pairs
        layers = join_parts([self._measured[key]["layers"] for key in self.measured], "layers")
        tables = {"members": members, "collection": collect(members, pairs)}
        tables |= {"pairs": pairs, "layers": layers} if self._measured else {}
        with self._writing():
            for name, table in tables.items():
                write_table(self.path / f"{name}.parquet", table)
                if csv:
                    write_atomically(
                        self.path / f"{name}.csv", lambda temporary, table=table: table.to_csv(temporary, index=False)
                    )

    def export_parts(self, target: str | Path) -> int:
        """Copy the parts of all finished cohorts into the folder `target`; return how many cohorts.

        Raises `UserError` if no cohort is finished, or `target` cannot be written.
        """
        target = Path(target).expanduser()
        if not self.trained:
            raise UserError(f"{self.path} has no finished cohort to export; run the sweep without export_to= first")
        with one_sentence_on_write_failure(target):
            for key in self.trained:
                for path in self._part_paths(key):
                    copy = functools.partial(shutil.copyfile, path)
                    write_atomically(target / path.relative_to(self.path / "parts"), copy)
        return len(self.trained)

    def import_parts(self, source: str | Path) -> tuple[int, int]:
        """Take over the parts in `source` (exported ones, or a run folder); return how many were new and known.

        Where any cohort of the source is measured, those that are only trained are left out: their networks are not in
        the parts, so they could never be measured. All are checked before the first is taken. Raises `UserError` for a
        folder without parts, a part of another config, and a part whose members are not those of this grid.
        """
        source = Path(source).expanduser()
        folder = source / "parts" if (source / "parts").is_dir() else source
        found = [path for path in folder.rglob("*.parquet") if not is_temporary(path.name)]
        found = [path for path in found if path.parent == folder or path.parent.name in MEASURED]
        if not found:
            raise UserError(f"import_from='{source}' holds no parts (*.parquet)")
        # In the order in which they are committed: trained, then layers, pairs and members.
        kinds = ("trained", *MEASURED)
        paths = [(path, path.parent.name if path.parent != folder else "trained") for path in sorted(found)]
        paths.sort(key=lambda item: kinds.index(item[1]))
        trained, measured = ({path.stem for path, kind in paths if kind == which} for which in ("trained", "members"))
        paths = [(path, kind) for path, kind in paths if kind == "trained" or path.stem in measured]
        if measured:
            paths = [(path, kind) for path, kind in paths if path.stem in measured]
        alone = sorted(measured - trained - set(self._parts))
        if alone:
            raise UserError(f"import_from='{source}' holds measurements of cohort {alone[0]}, but not its training")
        there: dict[str, dict[str, pd.DataFrame]] = {}
        source_of: dict[tuple[str, str], Path] = {}
        for path, kind in paths:
            rows, metadata = read_part(path, kind)
            self._check_part(path, path.stem, kind, rows, metadata)
            there.setdefault(path.stem, {})[kind] = rows
            source_of[path.stem, kind] = path
        wanted = {key: self._kinds_to_import(key, rows) for key, rows in there.items()}
        with self._writing():
            for key, kind in [(key, kind) for key, kinds_of in wanted.items() for kind in kinds_of]:
                write_atomically(self._part(key, kind), functools.partial(shutil.copyfile, source_of[key, kind]))
        self._read_parts()
        self._write_manifest()  # how the measurements that came were made is now how this folder measures
        fresh = sum(1 for kinds_of in wanted.values() if kinds_of)
        return fresh, len(wanted) - fresh

    def _kinds_to_import(self, key: str, there: Mapping[str, pd.DataFrame]) -> list[str]:
        """Return which parts of a cohort are taken over, in the order in which they are committed.

        Measurements go with the networks that they are of: a cohort that was trained here takes only those of networks
        with the same numbers, else it keeps what it has.
        """
        if key not in self._parts:
            return [kind for kind in ("trained", *MEASURED) if kind in there]
        if key in self._measured or MEASURED[-1] not in there:
            return []
        numbers = [c for c in self._parts[key] if not c.endswith("_seconds")]
        ours = self._parts[key][numbers]
        if "trained" in there and not ours.equals(there["trained"].reindex(columns=numbers)):
            return []
        return list(MEASURED)

    def _read_parts(self) -> None:
        """Read and check all parts that are there."""
        self._parts = {key: self._read_own_part(key, "trained") for key in self.cohorts if self._part(key).exists()}
        self._measured = {
            key: {kind: self._read_own_part(key, kind) for kind in MEASURED}
            for key in self._parts
            if self._part(key, MEASURED[-1]).exists()
        }

    def _part(self, key: str, kind: str = "trained") -> Path:
        folder = self.path / "parts" if kind == "trained" else self.path / "parts" / kind
        return folder / f"{key}.parquet"

    def _part_paths(self, key: str) -> list[Path]:
        kinds = ("trained", *MEASURED) if key in self._measured else ("trained",)
        return [self._part(key, kind) for kind in kinds]

    def _identity(self, key: str) -> dict[str, Any]:
        return {"cohort": key, "config_hash": config_hash(self.config)}

    def _writing(self):
        return one_sentence_on_write_failure(self.path)

    def _write_manifest(self) -> None:
        with self._writing():
            write_manifest(self.path / "manifest.json", self._manifest)

    def _read_own_part(self, key: str, kind: str) -> pd.DataFrame:
        rows, metadata = read_part(self._part(key, kind), kind)
        self._check_part(self._part(key, kind), key, kind, rows, metadata)
        ours = {session["started"] for session in self._manifest["sessions"]}
        made_by = metadata.get("made_by", [])
        is_imported = bool(made_by) and not any(session.get("started") in ours for session in made_by)
        if metadata.get("keep") == "metrics_only" and not is_imported:  # killed before it came to that
            self.forget_checkpoint(key)
        return rows

    def _check_part(self, path: Path, key: str, kind: str, rows: pd.DataFrame, metadata: dict[str, Any]) -> None:
        """Raise `UserError` unless the part was made with this config and holds just the cohort's members.

        One with measurements must be made as this folder's measurements are.
        """
        if key not in self.cohorts or {name: metadata.get(name) for name in self._identity(key)} != self._identity(key):
            raise UserError(f"{path} is of a sweep with another config than {self.path}")
        wanted = self.cohorts[key]
        if kind in ("trained", "members"):
            members = set(zip(rows["configuration"], rows["seed"], strict=True))
            if len(rows) != len(wanted) or members != wanted:
                raise UserError(f"{path} does not hold the members of cohort {key}; it is damaged")
        if kind != "trained":
            self._manifest.setdefault("measure", metadata.get("measure"))
            check_same_config(path, metadata.get("measure") or {}, self._manifest["measure"])

    def _clear_leftovers(self) -> None:
        """Remove temporary files, and checkpoints of unfinished cohorts, that a killed process left behind."""
        for folder in (self.path, self.path / "parts", *(self.path / "parts" / kind for kind in MEASURED)):
            for path in folder.glob("*"):
                if is_temporary(path.name):
                    path.unlink(missing_ok=True)
        for kind in MEASURED:  # of a cohort whose training is gone, or of a measurement that was not committed
            for path in (self.path / "parts" / kind).glob("*.parquet"):
                if not (self._part(path.stem).exists() and self._part(path.stem, MEASURED[-1]).exists()):
                    path.unlink(missing_ok=True)
        for path in self.path.glob("checkpoints/*"):
            if path.name not in self.cohorts or not self._part(path.name).exists():
                shutil.rmtree(path, ignore_errors=True)
        for key in self.cohorts:
            if self._part(key).exists():
                self.forget_unfinished(key)
            if self._part(key, MEASURED[-1]).exists():
                self.forget_unfinished(f"measured-{key}")


def check_folder(path: Path, config: dict[str, Any]) -> None:
    """Raise `UserError` unless a run of `config` can start or go on at `path`.

    That is: nothing there, an empty folder, or a run folder made with the same config.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"out={path} is a file; wanted a folder")
    manifest = read_manifest(path / "manifest.json")
    if manifest is not None:
        check_same_config(path, manifest["config"], config)
    elif path.is_dir() and any(not _may_be_alone(entry.name) for entry in path.iterdir()):
        raise UserError(f"{path} is not empty and has no manifest.json, so it is no run folder; choose another out=")


def read_members(path: str | Path, config: dict[str, Any]) -> pd.DataFrame | None:
    """Return the per-seed table at `path`, None if no run was begun there; takes no lock.

    `config` may lack what is only known with the data. Raises `UserError` as `check_folder`.
    """
    path = Path(path).expanduser()
    manifest = read_manifest(path / "manifest.json") or {"config": {}}
    check_folder(path, manifest["config"] | config)
    table = path / "members.parquet"
    try:
        return pd.read_parquet(table) if table.exists() else None
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{table} cannot be read ({why}); delete it: the run makes it again") from error


def _may_be_alone(name: str) -> bool:
    """Whether a process killed before it wrote the manifest may have left a file of this name."""
    return name == "run.lock" or is_temporary(name)
