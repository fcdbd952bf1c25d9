"""Runs a fake sweep in forked children, killing the n-th one (SIGKILL) at its n-th moment, until one gets through.

Moments: each block of training, and before and after each change of a name on disk: the folders that are made, the
renames that make a written file or checkpoint count, what is removed. With `keep=all` every child writes networks and,
after each block, the state inside the cohort, with Orbax. Prints the number of children and the last exit code. Run as
`python -m tests.kill_and_continue FOLDER KEEP`.
"""

import functools
import os
import signal
import sys

import numpy as np
from rich.console import Console

from mdtree_jax.runs.monitor import Monitor
from mdtree_jax.runs.run import run_sweep
from tests.fake_training import COHORTS, RECIPE, run_folder, train, trainer

CHANGES = ("replace", "rename", "mkdir", "rmdir", "unlink")


def with_checkpoints(recipe, cohort, data, *, checkpoint, resume, **options):
    first = 0 if resume is None else int(resume["epoch"])
    assert resume is None or (resume["w"] == first).all()  # whole states only
    for epoch in range(first + 1, 4):
        checkpoint({"epoch": np.array(epoch), "w": np.full((50, 3), epoch)})
    return train(recipe, cohort, data, checkpoint=checkpoint, resume=resume, **options)


def sweep(path, keep, die_at):
    moments = 0

    def moment(*_, **__):
        nonlocal moments
        if moments == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        moments += 1

    def fatal(change):
        @functools.wraps(change)
        def wrapper(*args, **options):
            moment()
            result = change(*args, **options)
            moment()
            return result

        return wrapper

    class FatalMonitor(Monitor):
        progress = moment

    for name in CHANGES:
        setattr(os, name, fatal(getattr(os, name)))
    monitor = FatalMonitor(Console(quiet=True), {c.key: 1.0 for c in COHORTS})
    fake = trainer(with_checkpoints if keep == "all" else train)
    with run_folder(path) as folder:
        return run_sweep(RECIPE, COHORTS[:2] if keep == "all" else COHORTS, None, folder, fake, monitor, keep=keep)


if __name__ == "__main__":
    path, keep = sys.argv[1:]
    if keep == "all":
        import mdtree_jax.store.checkpoint  # noqa: F401 - once, not in every child
    for die_at in range(1000):
        child = os.fork()
        if child == 0:
            sweep(path, keep, die_at)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            break
    print(die_at, os.waitstatus_to_exitcode(status))
