"""SIGTERM, SIGUSR1 and SIGUSR2: a snapshot, exit code 75 and a sentence; the same command goes on from there."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mdtree_jax import cli, stopping
from mdtree_jax.stopping import Stopped, on_signals
from tests.conftest import ROOT
from tests.runs.growing import Lab, assert_same_tables, plan

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Signalled(Lab):
    """Gets a signal at moments with these numbers: a moment is an epoch of training, or a chunk of measuring.

    Saves its state as the trainer of JAX does: after the epoch in which it was asked to stop.
    """

    def __init__(self, number, moments=()):
        super().__init__()
        self.number, self.moments, self.epochs, self.resumed = number, set(moments), [], []
        self._count = 0

    def moment(self):
        if self._count in self.moments:
            os.kill(os.getpid(), self.number)
        self._count += 1

    def train(self, recipe, cohort, data, *, checkpoint, resume, **options):
        first = 0 if resume is None else int(resume["epoch"])
        self.resumed.append(resume is not None)
        for epoch in range(first, 3):
            self.epochs.append((cohort.key, epoch))
            self.moment()
            if stopping.is_asked():
                checkpoint({"epoch": np.array(epoch + 1)})
        return super().train(recipe, cohort, data, checkpoint=checkpoint, resume=resume, **options)

    def measure(self, *arguments, checkpoint, **options):
        self.moment()
        if stopping.is_asked():
            checkpoint({"chunk": np.ones(1)})
        return super().measure(*arguments, **options)

    def run(self, path, wanted, **options):
        with on_signals():
            return super().run(path, wanted, **options)


@pytest.mark.parametrize("number", SIGNALS)
def test_every_epoch_is_done_once_whenever_the_signal_comes(pickled, tmp_path, number):
    before = [signal.getsignal(one) for one in SIGNALS]
    Lab().run(tmp_path / "fresh", plan())
    for moment in range(8):  # three epochs and a chunk, of two cohorts
        path, lab = tmp_path / str(moment), Signalled(number, [moment])
        with pytest.raises(Stopped) as stopped:
            lab.run(path, plan())
        cohort = plan().cohorts[moment // 4].key
        inside = f"measured-{cohort}" if moment % 4 == 3 else cohort
        assert str(stopped.value) == (
            f"stopped by {number.name}; what is finished and the state inside {inside} are saved, and the same command "
            "goes on from there"
        )
        assert list((path / "unfinished").iterdir()) == [path / "unfinished" / inside]
        assert len(list(path.glob("*.parquet"))) >= 2  # the tables are those of what is finished
        lab.run(path, plan())
        assert lab.epochs == [(c.key, epoch) for c in plan().cohorts for epoch in range(3)]
        assert_same_tables(path, tmp_path / "fresh")
        assert not list((path / "unfinished").iterdir())
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_between_cohorts_and_before_the_first_nothing_needs_to_be_saved(pickled, tmp_path):
    class Late(Lab):
        def measure(self, *arguments, **options):
            os.kill(os.getpid(), signal.SIGTERM)  # in the last chunk: the trainer does not look again
            return super().measure(*arguments, **options)

    lab = Late()
    with on_signals(), pytest.raises(Stopped, match="stopped by SIGTERM; what is finished is saved, and the same comm"):
        lab.run(tmp_path, plan())
    assert {name[0] for name in lab.trained} == {"w2-b16-e3"}
    with on_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        lab = Lab()
        with pytest.raises(Stopped, match="stopped by SIGUSR1; what is finished is saved"):
            lab.run(tmp_path, plan())
    assert lab.trained == []
    Lab().run(tmp_path, plan())
    Lab().run(tmp_path / "fresh", plan())
    assert_same_tables(tmp_path, tmp_path / "fresh")


def test_a_command_that_was_stopped_has_exit_code_75_and_one_sentence(capsys, monkeypatch):
    def main(config):
        with on_signals():
            os.kill(os.getpid(), signal.SIGUSR2)
            stopping.stop_if_asked("what is finished is saved")

    monkeypatch.setattr(cli, "compose", lambda *_: None)
    assert cli.run("sweep", "", main, []) == 75
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "sweep: stopped by SIGUSR2; what is finished is saved, and the same command goes on from there\n",
    )
    assert not stopping.is_asked()


SWEEP = ["+grid=digits_tiny", "grid.model=resnet8", "grid.width=[2]", "grid.batch_size=[32]", "out=run"]
SWEEP += ["grid.data_fraction=[1.0]", "grid.train_epochs=[60]", "grid.num_seeds=1", "stages=[train]"]


@pytest.mark.slow
def test_a_real_sweep_is_stopped_within_ten_seconds_and_goes_on(tmp_path):
    """The one place with a clock: 10 s is what is promised, and blocks of training take 5 s."""
    command = [sys.executable, "-m", "mdtree_jax.sweep", *SWEEP]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    seconds = []
    for number in SIGNALS[:2]:
        running = subprocess.Popen([*command, "checkpoint_minutes=1e-3"], cwd=tmp_path, env=environment, **pipes)
        before = {path: path.stat().st_mtime for path in tmp_path.glob("run/unfinished/*")}
        while running.poll() is None and before == {p: p.stat().st_mtime for p in tmp_path.glob("run/unfinished/*")}:
            time.sleep(0.1)
        running.send_signal(number)
        start = time.monotonic()
        _, err = running.communicate(timeout=100)
        seconds.append(time.monotonic() - start)
        assert running.returncode == 75, err
        assert err.startswith(f"sweep: stopped by {number.name}; what is finished and the state inside w2-b32-e60")
        assert err.count("\n") == 1
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 0
    whole = subprocess.run([*command, "out=whole"], cwd=tmp_path, env=environment, check=False)
    assert whole.returncode == 0
    for name in ("members", "collection"):
        one, other = (table(tmp_path / path / f"{name}.parquet") for path in ("run", "whole"))
        assert one.equals(other)
    assert max(seconds) < 10


def table(path):
    import pandas as pd

    return pd.read_parquet(path).drop(columns="train_seconds")
