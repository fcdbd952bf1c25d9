"""Mutated files of every kind that a user has end in a result or one sentence: no traceback, signal or long wait."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from tests.commands import environment
from tests.conftest import ROOT
from tests.robustness.kinds import KINDS

_PART = 2000


def failures(folder, first, last, names):
    """Return (kind, number, what) of the mutations that failed; a process that a signal ends is started again."""
    found, left = [], list(names)
    while left:
        (folder / "progress").unlink(missing_ok=True)
        call = [sys.executable, "-m", "tests.robustness.worker", str(folder), str(first), str(last), *left]
        done = subprocess.run(call, cwd=ROOT, env=environment(), capture_output=True, text=True)
        lines = [json.loads(line) for line in (folder / "progress").read_text().splitlines()]
        found += [(kind, number, what) for kind, number, what in lines if what]
        if done.returncode == 0:
            break
        kind, number, _ = lines[-1] if lines else (left[0], first, None)
        found.append((kind, number, f"exit code {done.returncode}: {done.stderr[-2000:]}"))
        left = [] if not lines else left[left.index(kind) + 1 :]
    return found


def said(found):
    return (
        "\n".join(f"{kind} {number}: {what}" for kind, number, what in found[:6]) + f"\n{Counter(f[0] for f in found)}"
    )


@pytest.mark.parametrize("lacks", [kind.name for kind in KINDS if not kind.is_here])
def test_kinds_whose_package_is_not_here(lacks):
    pytest.skip(f"files of {lacks} need a package that is not installed")


def test_two_hundred_of_each_kind(tmp_path):
    found = failures(tmp_path, 0, 200, [kind.name for kind in KINDS if kind.is_here])
    assert not found, said(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind.name for kind in KINDS if kind.is_here])
def test_twenty_thousand_of_a_kind(tmp_path, kind):
    found = []
    for first in range(0, 20_000, _PART):
        found += failures(tmp_path, first, first + _PART, [kind])
    assert not found, said(found)
