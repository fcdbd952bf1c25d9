"""The record of every cohort of a run folder, `cohorts/<cohort>.json`: what was written of it, and how it was made.

What a record names, this program wrote; nothing else in the folder is ever changed or deleted. A record is written
before the files that it names get their names, with the digests that they will have (and those that they have now), so
that a process can be killed at any moment: a file that is not there was not finished, one with either digest is whole,
and one with another is damaged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mdtree_jax.checks import DamagedFile, UserError
from mdtree_jax.files import digest_of, is_temporary, remove, set_aside, sync, temporary_path
from mdtree_jax.store.manifest import read_sealed, write_sealed

#: Path of a file or folder -> what writes it to another path.
Writes = Mapping[Path, Callable[[Path], object]]
#: Folders of a run folder in which this program writes.
RECORDS, PARTS, CHECKPOINTS, UNFINISHED = "cohorts", "parts", "checkpoints", "unfinished"


@dataclasses.dataclass
class CohortRecord:
    """What was written of a cohort, and how it was made.

    Attributes:
        cohort: its key.
        config_hash: of the grid in which its configurations were counted last.
        executors: how the cohort, or an addition to it, is trained, by name.
        choices: what was decided for its measurement, with the hash of the settings that it was decided for.
        sessions: the processes that worked on it, with the machine of each.
        files: what is there, or about to be, by its path in the run folder -> sha256.
        before: of what was replaced last, the sha256 that it had.
        states: names of states inside the cohort that may be in `unfinished`.
    """

    cohort: str
    config_hash: str = ""
    executors: dict[str, Any] = dataclasses.field(default_factory=dict)
    choices: dict[str, Any] = dataclasses.field(default_factory=dict)
    sessions: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    before: dict[str, str] = dataclasses.field(default_factory=dict)
    states: list[str] = dataclasses.field(default_factory=list)


class Ledger:
    """The records of the cohorts in the run folder at `folder`.

    Attributes:
        grid: hash of the config in which configurations are counted.
        session: what this process runs on, None if it has not said.
        damaged: keys of cohorts whose record cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder, self.grid = folder, ""
        self.session: dict[str, Any] | None = None
        self.damaged: list[str] = []
        self._records: dict[str, CohortRecord] = {}

    def __getitem__(self, key: str) -> CohortRecord:
        return self._records.setdefault(key, CohortRecord(key))

    def read(self, keys: Iterable[str]) -> None:
        """Read the records of these cohorts; `damaged` is what cannot be read."""
        self._records, self.damaged = {}, []
        there = set(_names(self.folder / RECORDS))
        for key in keys:
            if f"{key}.json" in there:
                try:
                    self._records[key] = read_record(self._path_of_record(key))
                except DamagedFile:
                    self.damaged.append(key)
        for record in self._records.values():
            record.files = {name: digest for name, digest in record.files.items() if self._is_there(name)}

    def save(self, key: str) -> None:
        """Write the record of a cohort as it is now."""
        record = self[key]
        record.config_hash = self.grid
        if self.session is not None and self.session not in record.sessions:
            record.sessions.append(self.session)
        path = self._path_of_record(key)
        if path.is_symlink():
            raise UserError(f"{path} is a link, which this program does not write through; move it away")
        write_sealed(path, dataclasses.asdict(record))

    def write(self, key: str, writes: Writes) -> None:
        """Write files and folders of a cohort, each by a function of a temporary path, and record them.

        They get their names in this order, after all of them were written and the record was. Raises `UserError` where
        something that this program did not write has such a name.
        """
        self.write_all({key: writes})

    def write_all(self, writes: Mapping[str, Writes]) -> None:
        """As `write`, of several cohorts: nothing of any of them changes before everything is written."""
        with contextlib.ExitStack() as stack:
            made: dict[str, dict[Path, Path]] = {key: {} for key in writes}
            for key, path, write in ((key, *item) for key, of_cohort in writes.items() for item in of_cohort.items()):
                if os.path.lexists(path) and self.name_of(path) not in self[key].files:
                    raise UserError(_foreign(path))
                path.parent.mkdir(parents=True, exist_ok=True)
                made[key][path] = temporary = stack.enter_context(_aside(path))
                write(temporary)
                sync(temporary)
            for key, of_cohort in made.items():
                self._rename(key, of_cohort)

    def _rename(self, key: str, made: Mapping[Path, Path]) -> None:
        """Record what is written under temporary names, then give it its names."""
        record = self[key]
        earlier = record.files, record.before
        digests = {self.name_of(path): digest_of(temporary) for path, temporary in made.items()}
        record.before = {name: record.files[name] for name in digests if name in record.files}
        record.files = record.files | digests
        try:
            self.save(key)
        except BaseException:
            record.files, record.before = earlier
            raise
        for path, temporary in made.items():
            if path.is_dir():
                remove(path)
            os.replace(temporary, path)

    def digest(self, key: str, path: Path) -> str | None:
        """Return the digest that a file of a cohort was written with, None if this program did not write it."""
        return self[key].files.get(self.name_of(path))

    def read_file(self, key: str, path: Path) -> bytes:
        """Return the content of a file of a cohort; raises `DamagedFile` if it is not what was written."""
        data = path.read_bytes()
        self._accept(key, path, hashlib.sha256(data).hexdigest())
        return data

    def check(self, key: str, path: Path) -> None:
        """Raise `DamagedFile` if a file or folder of a cohort is not what was written."""
        self._accept(key, path, digest_of(path))

    def is_damaged(self, key: str, path: Path) -> bool:
        """Return whether a file or folder of a cohort is not what was written."""
        try:
            self.check(key, path)
        except DamagedFile:
            return True
        return False

    def files(self, key: str, folder: str = "") -> list[Path]:
        """Return what was written of a cohort, in one of the folders if one is given."""
        names = [name for name in self[key].files if not folder or name.startswith(f"{folder}/")]
        return [self.folder / name for name in names]

    def remove(self, key: str, path: Path) -> None:
        """Remove a file or folder that was written of a cohort; nothing else."""
        if self[key].files.pop(self.name_of(path), None) is not None:
            remove(path)

    def set_aside(self, key: str, path: Path) -> str:
        """Give a damaged file or folder of a cohort another name; return what was done, in words."""
        aside = set_aside(path)
        self[key].files.pop(self.name_of(path), None)
        self.save(key)
        return f"{path} is damaged and was set aside as {aside.name}"

    def set_record_aside(self, key: str) -> str:
        """Set aside a record that cannot be read and, as they cannot be checked, all files of its cohort."""
        path, found = self._path_of_record(key), [one for one, _ in self._named_as(key)]
        for one in found:
            set_aside(one)
        aside = set_aside(path)
        with_files = f", with {len(found)} files of its cohort, which cannot be checked without it" if found else ""
        return f"{path} is damaged and was set aside as {aside.name}{with_files}"

    def claim_state(self, key: str, name: str) -> None:
        """Record that a state inside the cohort is kept under this name, before the first is written."""
        if name not in self[key].states:
            for path in self.state_paths(name):
                if os.path.lexists(path):
                    raise UserError(_foreign(path))
            self[key].states.append(name)
            self.save(key)

    def state_paths(self, name: str) -> list[Path]:
        """Return where a state can be: whole, and while it is replaced."""
        folder = self.folder / UNFINISHED
        return [folder / f"{name}{ending}" for ending in ("", ".new", ".old")]

    def forget_state(self, key: str, name: str) -> None:
        """Remove the state inside a cohort that has this name, if this program wrote one."""
        if name in self[key].states:
            for path in self.state_paths(name):
                remove(path)
            for temporary in (self.folder / UNFINISHED).glob(f"{_literal(name)}.*orbax-checkpoint-tmp*"):
                remove(temporary)

    def check_foreign(self, keys: Collection[str]) -> None:
        """Raise `UserError` if something that no record names has a name that this run writes to."""
        for path, key in self._named_as(*keys):
            name = self.name_of(path)
            states = {one.name for state in self[key].states for one in self.state_paths(state)}
            is_known = path.name in states if name.startswith(f"{UNFINISHED}/") else name in self[key].files
            if not is_known:
                raise UserError(_foreign(path))

    def adopt(self, keys: Collection[str]) -> None:
        """Record what is there under the names of cohorts, in a folder of a version without records."""
        for path, key in self._named_as(*keys):
            record, name = self[key], self.name_of(path)
            if name.startswith(f"{UNFINISHED}/"):
                record.states = sorted({*record.states, path.name.removesuffix(".new").removesuffix(".old")})
            else:
                record.files[name] = digest_of(path)

    def adopt_files(self, paths: Iterable[Path]) -> None:
        """Record parts that no record names, each as of the cohort that it has the name of."""
        for path in paths:
            self[path.stem].files[self.name_of(path)] = digest_of(path)

    def name_of(self, path: Path) -> str:
        """Return a path as records name it."""
        return path.relative_to(self.folder).as_posix()

    def _named_as(self, *keys: str) -> Iterator[tuple[Path, str]]:
        """Yield what has a name that files, networks or states of these cohorts have, and the key of the cohort."""
        wanted, parts = set(keys), self.folder / PARTS
        for folder in (parts, *(parts / name for name in _names(parts) if (parts / name).is_dir())):
            for name in _names(folder):
                if name.endswith(".parquet") and (key := name.removesuffix(".parquet")) in wanted:
                    yield folder / name, key
        for folder in (CHECKPOINTS, UNFINISHED):
            for name in _names(self.folder / folder):
                if is_temporary(name):
                    continue
                base = name.removesuffix(".new").removesuffix(".old") if folder == UNFINISHED else name
                base = base.removeprefix("measured-") if folder == UNFINISHED else base
                head, plus, number = base.rpartition("+")
                key = base if base in wanted else head if plus and number.isdigit() else ""
                if key in wanted:
                    yield self.folder / folder / name, key

    def _accept(self, key: str, path: Path, digest: str) -> None:
        record, name = self[key], self.name_of(path)
        if digest == record.before.get(name):  # killed before the new one got its name
            record.files[name] = digest
        elif digest != record.files.get(name):
            raise DamagedFile(f"{path} is damaged: it has another sha256 than when it was written")

    def _is_there(self, name: str) -> bool:
        return os.path.lexists(self.folder / name)

    def _path_of_record(self, key: str) -> Path:
        return self.folder / RECORDS / f"{key}.json"


def read_record(path: Path) -> CohortRecord:
    """Return the record of a cohort; raises `DamagedFile` if it is not as it was written."""
    try:
        values = read_sealed(path)
        del values["sha256"]
        record = CohortRecord(**values)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged, or not a record of a cohort") from error
    if f"{record.cohort}.json" != path.name:
        raise DamagedFile(f"{path} is damaged: it is the record of cohort {record.cohort}")
    return record


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Raise `UserError` if anything that a run in this folder writes to is a link."""
    for name in (RECORDS, PARTS, CHECKPOINTS, UNFINISHED, *names):
        if (folder / name).is_symlink():
            raise UserError(
                f"{folder / name} is a link, and a run writes and deletes only in its own folder; remove the link, or "
                "give the folder that is to hold the whole run as out="
            )


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    temporary = temporary_path(path)
    try:
        remove(temporary)  # a link there must not be written through
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            remove(temporary)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _literal(name: str) -> str:
    return name.replace("[", "[[]")


def _foreign(path: Path) -> str:
    return f"{path} has the name of a file of this run, but no record says that the run wrote it; move it away"
