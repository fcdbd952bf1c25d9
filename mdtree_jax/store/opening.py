"""What is at a path before a run begins there: nothing, a run folder to go on with, or something to leave alone."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdtree_jax.checks import DamagedFile, UserError
from mdtree_jax.files import free_damaged_name, is_temporary
from mdtree_jax.store.grids import Grids, extension_from
from mdtree_jax.store.ledger import PARTS, RECORDS, CohortRecord, Ledger, check_links, read_record
from mdtree_jax.store.manifest import FORMAT, config_hash, new_manifest, read_manifest, write_manifest
from mdtree_jax.store.parts import HISTORY, MEASURED, Parts

#: The tables of a run, made from its parts.
TABLES = ("members", "collection", "pairs", "layers", HISTORY)


def check_folder(path: Path, config: dict[str, Any]) -> None:
    """Raise `UserError` unless a run of `config` can start or go on at `path`.

    That is: nothing there, an empty folder, or a run folder made with the same config or one that this extends, in
    which nothing that a run writes to is a link. Raises `DamagedFile` for a damaged manifest.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"out={path} is a file; expected a folder")
    parts = (f"{PARTS}/{kind}" for kind in (HISTORY, *MEASURED))
    check_links(path, ("manifest.json", "run.lock", *parts, *_table_names()))
    manifest = read_manifest(path / "manifest.json")
    if manifest is not None:
        extension_from(path, manifest["config"], config)
        return
    found = sorted(entry.name for entry in path.iterdir() if not _may_be_alone(entry.name)) if path.is_dir() else []
    if found:
        shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise UserError(
            f"{path} is not empty and has no manifest.json, so it is not a run folder (it holds {shown}); choose "
            "another out="
        )


def open_manifest(path: Path, config: dict[str, Any], damage: list[str]) -> dict[str, Any]:
    """Return the manifest of the locked run folder at `path`: a new one where there is none, or a damaged one.

    The latter is set aside, which is added to `damage` in words.
    """
    file = path / "manifest.json"
    try:
        manifest = read_manifest(file)
    except DamagedFile:
        aside = free_damaged_name(file)
        shutil.copyfile(file, aside)
        damage.append(f"{file} is damaged and was set aside as {aside.name}; it is made anew from the records")
        manifest = new_manifest(config) | sessions_and_tables(path)
        write_manifest(file, manifest)
    if manifest is None:
        manifest = new_manifest(config)
        write_manifest(file, manifest)
    return manifest


def made_with(path: Path, config: dict[str, Any]) -> bool:
    """Return whether all records of cohorts of which something is there are of this config, and there are any."""
    records = [record for record in _readable_records(path) if record.files]
    return bool(records) and all(record.config_hash == config_hash(config) for record in records)


def sessions_and_tables(path: Path) -> dict[str, Any]:
    """Return what of a lost manifest the records and the tables that are there can tell."""
    sessions = {json.dumps(one, sort_keys=True): one for record in _readable_records(path) for one in record.sessions}
    return {"sessions": sorted(sessions.values(), key=lambda one: one["started"]), "tables": tables_there(path)}


def tables_there(path: Path) -> dict[str, None]:
    """Return the names of the tables that are in a run folder, as a manifest has them whose content is not known."""
    return {name: None for name in _table_names() if (path / name).is_file()}


def _table_names() -> list[str]:
    return [f"{name}.{ending}" for name in TABLES for ending in ("parquet", "csv")]


def _readable_records(path: Path) -> Iterator[CohortRecord]:
    for one in sorted((path / RECORDS).glob("*.json")):
        with contextlib.suppress(DamagedFile):
            yield read_record(one)


def read_parts(
    path: str | Path, config: dict[str, Any], cohorts: Mapping[str, Sequence[tuple[int, int]]]
) -> Parts | None:
    """Return the parts of the run folder at `path`, None if no run was begun there; takes no lock, changes nothing.

    `config` may lack what is only known with the data. What is damaged counts as not there. Raises `UserError` as
    `check_folder`.
    """
    path = Path(path).expanduser()
    manifest = read_manifest(path / "manifest.json")
    config = config if manifest is None else manifest["config"] | config
    check_folder(path, config)
    if manifest is None:
        return None
    ledger = Ledger(path)
    ledger.read(cohorts)
    if manifest["format"] < FORMAT:
        ledger.adopt(cohorts)
    parts = Parts(path, manifest, Grids(path, manifest, config), cohorts, ledger)
    parts.read(rewrite=False)
    return parts


def _may_be_alone(name: str) -> bool:
    """Whether a process killed before it wrote the manifest may have left a file of this name."""
    return name == "run.lock" or is_temporary(name)


def adopt_earlier_format(
    manifest: dict[str, Any], ledger: Ledger, cohorts: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[str, Any]:
    """Make the records of a folder of a version without them, of what is there; return the manifest of this version."""
    manifest = dict(manifest)
    executors, choices = manifest.pop("executors", {}), manifest.pop("choices", {})
    additions: dict[str, dict[str, Any]] = {}
    for name, choice in executors.items():
        head, plus, number = name.rpartition("+")
        key = name if name in cohorts or not (plus and number.isdigit()) else head
        additions.setdefault(key, {})[name] = choice
    ledger.adopt(cohorts)
    for key in cohorts:
        record = ledger[key]
        record.executors = additions.get(key, {})
        if key in choices:
            record.choices = {"measure_hash": config_hash(manifest["measure"]), "choices": choices[key]}
        if record.executors or record.files or record.states or record.choices:
            ledger.save(key)
    return manifest | {"format": FORMAT}
