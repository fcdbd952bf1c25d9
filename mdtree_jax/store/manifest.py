"""The manifest of a run folder: what was asked for, by which code, on which machine, with which executors."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.files import write_atomically
from mdtree_jax.parallel import available_cores

FORMAT = 1
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "scikit-learn",
)


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
    """Return the manifest of a new run with the resolved `config`; sessions and executors are added as they come."""
    return {"format": FORMAT, "config": config, "config_hash": config_hash(config), "sessions": [], "executors": {}}


def describe_session(devices: list[str]) -> dict[str, Any]:
    """Return what a session ran on: code version, git commit, package versions, machine, `devices`, start (UTC)."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": _version("mdtree-jax"),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES if _version(name) is not None},
        "hardware": {
            "machine": platform.machine(),
            "cpu": cpu_name(),
            "instructions": cpu_instructions(),
            "generation": cpu_generation(),
            "num_cpus": available_cores(),
            "devices": devices,
        },
    }


def code_hash() -> str:
    """Return a hash of the package's source, which tells two states of a checkout, or two wheels, apart."""
    package, found = Path(__file__).resolve().parent.parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest at `path`, None if there is none; raises `UserError` if it cannot be understood."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT and isinstance(manifest["config"], dict)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a manifest of a run ({error}); restore it, or take another folder") from error
    if not known:
        raise UserError(f"{path} has format {manifest['format']}, this program writes {FORMAT}; take another folder")
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest` as indented JSON, whole or not at all."""
    text = json.dumps(manifest, indent=1, sort_keys=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_same_config(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise `UserError` naming every key in which the two configs differ, with both values."""
    # Through JSON, so that tuples and lists, and floats written in another way, compare equal.
    there, here = json.loads(json.dumps(there)), json.loads(json.dumps(here))
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if keys:
        listed = "; ".join(f"{key} is {there.get(key)} there, {here.get(key)} here" for key in keys)
        raise UserError(f"{folder} was made with another config ({listed}); choose another out= or the same values")


def _version(package: str) -> str | None:
    """Return the installed version of `package`, None if it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit this code is at, with `-dirty` if changed, None if it is not in a git work tree."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here.parent), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # inside somebody else's repository this fails
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """Return the processor's marketing name where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cpu_generation() -> str | None:
    """Return family and model number of an x86 processor, None where the system does not tell.

    LAPACK chooses its kernels by them, so that two processors with the same instructions can differ in the last bits.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    numbers = [said.get(name) for name in ("cpu family", "model")]
    return None if None in numbers else "family {} model {}".format(*numbers)


def cpu_instructions() -> str | None:
    """Return the widest vector instructions of the processor, None where the system does not tell.

    Compilers choose by them, so that two processors of one name can differ in the last bits.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return next((name for name in ("avx512f", "avx2", "avx", "sve", "asimd") if name in flags), None)
