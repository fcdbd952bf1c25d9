"""Provenance of a result: the version and commit of this code, the installed packages, and the machine."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from mdtree_jax.parallel import available_cores

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


def git_commit() -> str | None:
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


def code_version() -> str:
    """Return the short commit of this code's own checkout, or the version of the installed package.

    >>> code_version().startswith("version") or len(code_version()) >= 7
    True
    """
    commit = git_commit()
    return commit.removesuffix("-dirty")[:7] if commit else f"version {_version('mdtree-jax') or 'unknown'}"


def describe_session(devices: list[str]) -> dict[str, Any]:
    """Return what a session ran on: code version, git commit, package versions, machine, `devices`, start (UTC)."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": _version("mdtree-jax"),
        "git_commit": git_commit(),
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
    package, found = Path(__file__).resolve().parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


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


def _version(package: str) -> str | None:
    """Return the installed version of `package`, None if it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


#: The version of the installed package, which stands in its metadata only.
__version__ = _version("mdtree-jax") or "0+unknown"
