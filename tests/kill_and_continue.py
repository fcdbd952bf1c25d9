"""Runs a fake sweep in forked children, killing the n-th one (SIGKILL) at its n-th moment, until one gets through.

Moments: each block of training, and before and after each rename that makes a written file count. Prints the number
of children. Run as `python -m tests.kill_and_continue FOLDER`.
"""

import os
import signal
import sys

from rich.console import Console

from mdtree_jax import files
from mdtree_jax.population.progress import Monitor
from mdtree_jax.population.run import run_sweep
from tests.fake_training import COHORTS, RECIPE, run_folder, train, trainer


def sweep(path, die_at):
    moments = 0

    def moment():
        nonlocal moments
        if moments == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        moments += 1

    class FatalOs:
        def __getattr__(self, name):
            return getattr(os, name)

        def replace(self, source, target):
            moment()
            os.replace(source, target)
            moment()

    class FatalMonitor(Monitor):
        def progress(self, fraction, message=""):
            moment()

    files.os = FatalOs()
    monitor = FatalMonitor(Console(quiet=True), {c.key: 1.0 for c in COHORTS})
    with run_folder(path) as folder:
        return run_sweep(RECIPE, COHORTS, None, folder, trainer(train), monitor, keep="metrics_only")


if __name__ == "__main__":
    for die_at in range(1000):
        child = os.fork()
        if child == 0:
            sweep(sys.argv[1], die_at)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            break
    print(die_at, os.waitstatus_to_exitcode(status))
