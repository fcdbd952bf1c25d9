"""Commands of the package as a user runs them, each in a process of its own."""

import os
import subprocess
import sys

from tests.conftest import ROOT


def environment(*paths):
    """Return variables of a process that finds this checkout and `paths`, with the compiler's optimizations off.

    They take longer than the small programs of these tests run.
    """
    search = os.pathsep.join(map(str, [ROOT, *paths]))
    return os.environ | {"PYTHONPATH": search, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}


def command(folder, name, *arguments, paths=()):
    """Run a command in a folder, whose modules it finds; return its exit code and what it printed to either side."""
    call = [sys.executable, "-m", f"mdtree_jax.{name}", *map(str, arguments)]
    done = subprocess.run(call, cwd=folder, env=environment(*paths), capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, done.stderr


def succeed(folder, name, *arguments, paths=()):
    """Return what a command prints that must succeed."""
    code, out, err = command(folder, name, *arguments, paths=paths)
    assert code == 0, err
    return out
