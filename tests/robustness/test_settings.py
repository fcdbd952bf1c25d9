"""Hostile values of every setting of every command end in the result, or one sentence and exit code 2."""

import os
import subprocess
import sys

import pytest

from mdtree_jax.config import SCHEMAS
from tests.commands import environment
from tests.conftest import ROOT
from tests.robustness.settings import HOSTILE


def failures(command, *which):
    """Return what failed in a process of its own, which takes all of them one after the other."""
    call = [sys.executable, "-m", "tests.robustness.settings", command, *map(str, which)]
    done = subprocess.run(call, cwd=ROOT, env=environment() | {"MPLBACKEND": "agg"}, capture_output=True, text=True)
    tried, failed = done.stdout.splitlines()[-1].removeprefix("tried ").split(", failed ") if done.stdout else (0, "?")
    assert int(tried) > 0, done.stderr[-2000:]
    return "" if failed == "0" else done.stdout[-3000:]


def test_there_are_forty_values():
    assert len(set(HOSTILE)) >= 40
    assert os.sep not in "".join(HOSTILE)  # none names a file elsewhere


def test_some_values_of_a_sweep():
    assert failures("sweep", 101, 3) == ""


@pytest.mark.slow
@pytest.mark.parametrize("command", SCHEMAS)
def test_all_values_of_every_setting(command):
    assert failures(command) == ""
