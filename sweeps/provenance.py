"""The provenance line of every recorded table: command, commit, date, machine, time."""

from __future__ import annotations

import datetime
import platform
import sys
import time
from pathlib import Path

from mdtree_jax.parallel import available_cores
from mdtree_jax.provenance import code_version, cpu_name


def provenance(start: float) -> str:
    """Return one sentence on the recipe that runs since `start` (of `time.perf_counter`)."""
    command = " ".join(["python -m", f"sweeps.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    return (
        f"Made by `{command}`, commit {code_version()}, {datetime.date.today()}, {available_cores()} cores of "
        f"{cpu_name()}, Python {platform.python_version()}, {time.perf_counter() - start:.0f} s."
    )
