"""The manifest of a run folder: its configuration, its sessions (`mdtree_jax.provenance`), digests of its tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from mdtree_jax.checks import DamagedFile, UserError
from mdtree_jax.files import digest_of, is_temporary, write_atomically
from mdtree_jax.registry.knobs import KNOBS

#: 2: records of cohorts, with digests; in 1 the manifest held how every cohort was executed.
FORMAT = 2
_SEAL = "sha256"


def config_hash(config: dict[str, Any]) -> str:
    """Return the first 16 hex digits of the sha256 of `config` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def data_hash(*arrays: np.ndarray) -> str:
    """Return the first 16 hex digits of the sha256 of the arrays' shapes, types and contents."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def new_manifest(config: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a new run with the resolved `config`; sessions and tables are added as they come."""
    return {"format": FORMAT, "config": config, "config_hash": config_hash(config), "sessions": [], "tables": {}}


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest at `path`, None if there is none.

    Raises:
        DamagedFile: it cannot be read, or was changed.
        UserError: it is of another version.
    """
    to_do = "restore it, or use another folder"
    try:
        manifest = read_sealed(path)
        known = manifest["format"] in (1, FORMAT) and isinstance(manifest["config"], dict)
        seal_lacks = manifest["format"] == FORMAT and _SEAL not in manifest
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{path} is not a manifest of a run, or is damaged ({error}); {to_do}") from error
    if not known:
        raise UserError(f"{path} has format {manifest['format']}, but this version writes {FORMAT}; use another folder")
    if seal_lacks:
        raise DamagedFile(f"{path} is damaged: it has no {_SEAL}; {to_do}")
    manifest.pop(_SEAL, None)
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest` as indented JSON with its digest, whole or not at all."""
    write_sealed(path, manifest)


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Write a dictionary as JSON, with the sha256 of it as its last entry, whole or not at all."""
    text = json.dumps({**values, _SEAL: _seal(values)}, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_sealed(path: Path) -> dict[str, Any]:
    """Return a dictionary that is in a JSON file, with its sha256 if it has one.

    Raises:
        ValueError: it is no JSON object, or it has another sha256.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    if _SEAL in values and values[_SEAL] != _seal({name: v for name, v in values.items() if name != _SEAL}):
        raise ValueError(f"its content has another {_SEAL}")
    return values


def _seal(values: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(values))  # keys that are no text sort as they will be read
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def check_table(path: Path) -> None:
    """Raise `DamagedFile` if the manifest beside a table of a finished run says that other bits were written."""
    try:
        tables = (read_manifest(path.parent / "manifest.json") or {}).get("tables", {})
    except UserError:  # the folder need not be of a run
        return
    wanted = tables.get(path.name) if isinstance(tables, dict) else None
    if wanted is not None and path.is_file() and digest_of(path) != wanted:
        raise DamagedFile(
            f"{path} is damaged, or was changed after the run wrote it; delete it and repeat the sweep's command, "
            "which writes it anew from the parts"
        )


def check_same_config(folder: Path | str, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise `UserError` naming every key in which the two configs differ, with both values.

    A knob that one of them lacks has its default there.
    """
    # Through JSON, so that tuples and lists, and floats written in another way, compare equal.
    there, here = json.loads(json.dumps(there)), json.loads(json.dumps(here))
    both = {key: (_setting(there, here, key), _setting(here, there, key)) for key in {**there, **here}}
    keys = [key for key, (theirs, ours) in both.items() if theirs != ours]
    if keys:
        listed = "; ".join("{} is {} there, {} here".format(key, *both[key]) for key in keys)
        raise UserError(f"{folder} was created with another config ({listed}); choose another out= or the same values")


def check_names(folder: Path, keys: Collection[str]) -> None:
    """Raise `UserError` if a run folder has cohorts of other names than these, whose networks would be lost."""
    there = (path.name for path in sorted(folder.glob("parts/*.parquet")))
    strange = [name.removesuffix(".parquet") for name in there if not is_temporary(name)]
    strange = [key for key in strange if key not in keys]
    if strange:
        raise UserError(
            f"{folder} has {len(strange)} cohorts that are named otherwise than in this version (first: {strange[0]}): "
            "version 0.1 left optimizer, momentum, schedule and augmentation out of the names; finish the run with "
            "that version, or choose another out="
        )


def _setting(config: dict[str, Any], other: dict[str, Any], key: str) -> Any:
    """Return a setting of a config; of one that it lacks the default, in the form that the other config has."""
    from mdtree_jax.recipe.schema import ADDED_LATER  # reading collections must not load OmegaConf

    if key in config or key not in KNOBS:
        return config.get(key, ADDED_LATER.get(key))
    default = KNOBS[key].default
    return [default] if isinstance(other[key], list) else default
