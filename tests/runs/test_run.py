"""The loop over cohorts, with a trainer that trains nothing: resume, executors, progress, diverged members."""

import io
import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mdtree_jax.checks import UserError
from mdtree_jax.runs.monitor import Monitor, ScalarLog
from mdtree_jax.runs.run import run_sweep
from tests.conftest import ROOT
from tests.fake_training import CHOICE, COHORTS, RECIPE, run_folder, train, trainer

FAKE = trainer()


def sweep(path, trainer=FAKE, keep="metrics_only", console=None, **options):
    console = console or Console(file=io.StringIO(), width=200)
    with run_folder(path) as folder:
        estimates = {c.key: 1.0 for c in COHORTS if c.key not in folder.trained}
        with Monitor(console, estimates, len(folder.trained)) as monitor:
            return run_sweep(RECIPE, COHORTS, None, folder, trainer, monitor, keep=keep, **options)


def recorded_executors(path):
    records = [json.loads(one.read_text()) for one in path.glob("cohorts/*.json")]
    return {name: choice for record in records for name, choice in record["executors"].items()}


def tables(path):
    return [
        pd.read_parquet(path / f"{name}.parquet").drop(columns="train_seconds") for name in ("members", "collection")
    ]


@pytest.mark.parametrize("keep", ["metrics_only", pytest.param("all", marks=pytest.mark.slow)])
def test_killed_at_every_moment_the_table_is_the_same(tmp_path, keep):
    sweep(tmp_path / "whole")
    command = [sys.executable, "-m", "tests.kill_and_continue", str(tmp_path / "killed"), keep]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    num_killed, exit_code = map(int, done.stdout.split())
    assert exit_code == 0, done.stderr
    assert num_killed >= (40 if keep == "all" else 15)
    assert not list(tmp_path.glob("killed/**/*partial*")) + list(tmp_path.glob("killed/unfinished/*"))
    whole = tables(tmp_path / "whole")
    if keep == "all":  # the first two cohorts
        whole = [table[table["width"] == 2] for table in whole]
    for found, wanted in zip(tables(tmp_path / "killed"), whole, strict=True):
        pd.testing.assert_frame_equal(found, wanted, check_exact=True)
    if keep == "all":
        from mdtree_jax.store.checkpoint import load_network

        network, row = load_network(
            tmp_path / "killed", seed=2, width=2, batch_size=32, data_fraction=1, learning_rate=0.1
        )
        assert network["params"]["w"][0] == pytest.approx(row["train_error"] / 100, rel=1e-6)


def test_finished_cohorts_are_not_trained_again_and_failures_lose_nothing(tmp_path):
    trained = []

    def failing(recipe, cohort, data, **options):
        if len(trained) == 2:
            raise MemoryError("out of memory")
        trained.append(cohort.key)
        return train(recipe, cohort, data, **options)

    with pytest.raises(MemoryError):
        sweep(tmp_path, trainer(failing))
    assert len(pd.read_parquet(tmp_path / "members.parquet")) == 24
    trained.append("so that it works now")
    summary = sweep(tmp_path, trainer(failing))
    assert trained[:2] + trained[3:] == [c.key for c in COHORTS]
    assert (summary.num_trained_cohorts, summary.num_configurations, summary.num_members) == (2, 16, 48)
    assert sweep(tmp_path, trainer(failing)).num_trained_cohorts == 0


def test_the_executor_is_on_disk_before_the_first_step_and_used_again(tmp_path):
    seen = []

    def choose(recipe, cohort):
        assert not seen, "a continued run must not choose again"
        return {"chunk": 99}

    def dying(recipe, cohort, data, *, executor, **options):
        seen.append((recorded_executors(tmp_path)[cohort.key], executor))
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path, trainer(dying, choose))
    assert seen == [({"chunk": 99}, {"chunk": 99})] * 2


def test_an_executor_of_another_machine_is_chosen_anew(tmp_path):
    resumed = []

    def dies_once(*args, checkpoint, resume, **options):
        resumed.append(resume)
        if len(resumed) == 1:
            checkpoint({"w": np.ones(2)})
            raise KeyboardInterrupt
        return train(*args, checkpoint=checkpoint, resume=resume, **options)

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, trainer(dies_once))
    elsewhere = trainer(dies_once, choose=lambda recipe, cohort: {"chunk": 1})._replace(decode=lambda values: None)
    sweep(tmp_path, elsewhere)
    assert resumed == [None] * 5  # the state of the other executor is not used
    assert recorded_executors(tmp_path) == {c.key: {"chunk": 1} for c in COHORTS}


def test_the_next_cohort_is_prepared_while_one_is_trained(tmp_path):
    prepared, trained = {}, []

    def prepare(recipe, cohort, data, *, executor):
        prepared[cohort.key] = len(trained), executor
        raise RuntimeError("what it cannot do is for the cohort's own turn to say")

    def notes(recipe, cohort, data, **options):
        trained.append(cohort.key)
        end = time.monotonic() + 30
        while len(trained) < len(COHORTS) and len(prepared) < len(trained):  # the other thread comes soon
            assert time.monotonic() < end
            time.sleep(0.001)
        return train(recipe, cohort, data, **options)

    sweep(tmp_path, trainer(notes)._replace(prepare=prepare))
    keys = [cohort.key for cohort in COHORTS]
    assert trained == keys
    assert list(prepared) == keys[1:]
    for place, key in enumerate(keys[1:], 1):
        assert prepared[key][0] in (place - 1, place)  # before its own turn
        assert prepared[key][1] == CHOICE


def test_diverged_members_are_rows_and_are_counted(tmp_path):
    def some_diverge(*args, **options):
        return train(*args, **options, diverged={(0, 1), (5, 2)})

    output = io.StringIO()
    summary = sweep(tmp_path, trainer(some_diverge), console=Console(file=output, width=200), csv=True)
    assert summary.num_diverged == 2
    members = pd.read_csv(tmp_path / "members.csv")
    assert members[members["status"] == "diverged"][["configuration", "seed"]].to_numpy().tolist() == [[0, 1], [5, 2]]
    lines = output.getvalue().splitlines()
    assert len(lines) == len(COHORTS)
    assert lines[0].startswith("1/4 w2-b16-e3: 12 networks, 1 diverged, test error ")
    assert lines[0].endswith("left")
    assert "left" not in lines[-1]


def test_networks_are_kept_and_load_alone(tmp_path):
    from mdtree_jax.store.checkpoint import load_network

    sweep(tmp_path, keep="all")
    network, row = load_network(tmp_path, seed=2, width=4, batch_size=32, data_fraction=0.3, learning_rate=0.1)
    assert network["params"]["w"].shape == (4,)
    assert network["params"]["w"][0] == pytest.approx(row["train_error"] / 100, rel=1e-6)
    with pytest.raises(UserError, match="unknown keep 'al'"):
        sweep(tmp_path, keep="al")


def test_a_bar_on_a_terminal_and_time_left(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("mdtree_jax.runs.monitor.time.perf_counter", lambda: clock[0])
    monitor = Monitor(Console(file=io.StringIO(), force_terminal=True), {"a": 10.0, "b": 30.0})
    assert monitor.seconds_left() is None
    monitor.start_cohort("a")
    clock[0] = 4.0
    monitor.progress(0.5, "epoch 5")
    # half of a, 5 of 40 estimated seconds, took 4: the other 35 take 28
    assert monitor.seconds_left() == pytest.approx(28.0)
    output = io.StringIO()
    sweep(tmp_path, console=Console(file=output, force_terminal=True, width=120))
    assert "w4-b32-e3" in output.getvalue()


def test_tensorboard_scalars_on_request(tmp_path):
    if not __import__("importlib").util.find_spec("tensorboard"):
        with pytest.raises(UserError, match="needs the package tensorboard"):
            ScalarLog(tmp_path)
        return
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    sweep(tmp_path / "run", scalars=ScalarLog(tmp_path / "log"))
    (path,) = (tmp_path / "log").glob("events.out.tfevents.*")
    events = [event for event in EventFileLoader(str(path)).Load() if event.summary.value]
    assert [event.step for event in events] == [1, 2, 3, 4]
    assert {value.tag for value in events[0].summary.value} >= {"test_error", "train_loss", "num_diverged"}


def test_choice_is_recorded_for_every_cohort(tmp_path):
    sweep(tmp_path)
    assert recorded_executors(tmp_path) == {c.key: CHOICE for c in COHORTS}


def test_a_long_cohort_goes_on_from_its_last_checkpoint(tmp_path):
    resumed = []

    def dies_in_the_middle(recipe, cohort, data, *, checkpoint, resume, **options):
        resumed.append(None if resume is None else int(resume["epoch"]))
        for epoch in range(0 if resume is None else int(resume["epoch"]), 20, 5):
            if epoch == 10 and len(resumed) == 1:
                raise KeyboardInterrupt
            checkpoint({"epoch": np.array(epoch + 5), "w": np.ones((2, 3))})
        return train(recipe, cohort, data, checkpoint=checkpoint, resume=resume, **options)

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, trainer(dies_in_the_middle))
    sweep(tmp_path, trainer(dies_in_the_middle))
    assert resumed == [None, 10, None, None, None]
    assert not list((tmp_path / "unfinished").iterdir())
