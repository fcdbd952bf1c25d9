"""The command line: every mistake is one sentence and exit code 2, before anything is written."""

import contextlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import load_collection, sweep
from mdtree_jax.cli import compose, run
from mdtree_jax.cli import conf_dir as conf
from tests.commands import environment
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("quickly_compiled")

GRIDS = ", ".join(sorted(path.stem for path in (ROOT / "conf" / "grid").glob("*.yaml")))


def call(capsys, *overrides):
    code = run("sweep", sweep.__doc__, sweep.main, list(overrides))
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], f"no grid is given; add +grid=NAME, one of: {GRIDS}"),
        (["grid.width=[2]"], f"no grid is given; add +grid=NAME, one of: {GRIDS}"),
        (["+grid=digits", "grid=null"], f"no grid is given; add +grid=NAME, one of: {GRIDS}"),
        (["+grid=digits", "grid.name="], "grid.name='' is not a valid name"),
        (["+grid=digits", "grid.name=../a"], "grid.name='../a' is not a valid name"),
        (["grid=digits"], "'grid' is chosen with a plus sign: +grid=NAME"),
        (["+grid=digit"], f"there is no configuration 'grid/digit'; available: {GRIDS}"),
        (["+grid=digits", "grid.widht=[2]"], "unknown setting 'widht' (did you mean 'width'?)"),
        (["+grid=digits", "+grid.depth=2"], "unknown setting 'depth'"),
        (["+grid=digits", "grid.width=[a]"], "grid.width=[a] has the wrong type: grid.width must be list[int]"),
        (
            ["+grid=digits", "grid.dataset=cifar"],
            "unknown data set 'cifar' (did you mean 'cifar10'?); available: digits,",
        ),
        (["+grid=digits", "grid.model=resnet9"], "unknown model 'resnet9'"),
        (
            ["+grid=digits", "grid.optimizer=adamm"],
            "unknown optimizer 'adamm' (did you mean 'adam'?); available: sgd, adam, adamw, lion, muon",
        ),
        (["+grid=digits", "grid.schedule=exp"], "unknown schedule 'exp'; available: constant, step, linear, cosine"),
        (["+grid=digits", "grid.batch_size=[512]"], "batch_size=512 is larger than the subset of data_fraction=0.1"),
        (["+grid=digits", "grid.data_fraction=[0,1]"], "data_fraction=0 is out of range; it must be in (0, 1]"),
        (
            ["+grid=digits", "grid.label_noise_fraction=2"],
            "label_noise_fraction=2 is out of range; it must be in [0, 1]",
        ),
        (["+grid=digits", "memory_gb=inf"], "memory_gb=inf is out of range; it must be above 0, finite"),
        (
            ["+grid=digits", "grid.label_noise_seed=-1"],
            "grid.label_noise_seed=-1 is out of range; it must be 0 to 2^32 - 1",
        ),
        (["+grid=digits", "keep=some"], "unknown keep 'some'; available: all, metrics_only"),
        (["+grid=digits", "engine=locl"], "unknown engine 'locl' (did you mean 'local'?); available: local"),
        (["+grid=digits", "shard=17/16"], "shard=17/16 is not one of 1/16 to 16/16"),
        (["+grid=digits", "shard=1/2", "cohorts=[a]"], "shard= and cohorts= cannot be combined; give only one"),
        (["+grid=digits", "shard=1/2", "verify=3"], "verify= and shard= cannot be combined; give only one"),
        (["+grid=digits", "cohorts=[w6-b16-e3]"], "unknown cohort 'w6-b16-e3' (did you mean 'w6-b16-e30'?)"),
        (["+grid=digits", "merge=[]"], "merge=[] joins nothing; write merge=[folder,folder]"),
        (["+grid=digits", "checkpoint_minutes=0"], "checkpoint_minutes=0 is out of range; it must be above 0"),
        (["+grid=digits", "out=/dev/null/run"], "cannot write to /dev/null/run: a part of the path is a file"),
        (
            ["+grid=digits", "out=/proc/run"],
            "cannot write to /proc/run: the folder does not exist and cannot be created",
        ),
        (["+grid=cifar", "data_dir=nowhere"], "data_dir='nowhere' is not a folder"),
        (["+grid=digits", "data_file=mine.npz"], "data_file='mine.npz' is for grid.dataset=npz, but the data set is"),
        (["+grid=digits", "data_dir=here"], "data_dir='here' is given, but the data set 'digits' takes no folder"),
        (["+grid=digits", "grid.dataset=npz"], "dataset 'npz' needs data_file=PATH"),
    ],
)
def test_mistakes(capsys, tmp_path, overrides, message):
    code, out, err = call(capsys, *overrides)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted((conf() / "grid").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_composes_and_opens_as_a_lab_note(path):
    config = compose("sweep", [f"+grid={path.stem}"])
    assert config.grid.name == path.stem
    assert config.out == f"runs/{path.stem}"
    text = path.read_text()
    assert text.startswith(f"# python -m mdtree_jax.sweep +grid={path.stem}\n")
    if not path.stem.endswith("_noisy"):
        return
    clean = compose("sweep", [f"+grid={path.stem.removesuffix('_noisy')}"]).grid
    differing = {key for key, value in vars(config.grid).items() if value != getattr(clean, key)}
    assert differing == {"name", "label_noise_fraction"}


def test_help_names_every_grid_and_imports_nothing_slow(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "mdtree_jax.sweep", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    out = done.stdout
    assert done.returncode == 0, done.stderr
    assert "mdtree_jax.cli" in imported  # the list is there
    assert not {"jax", "pandas", "scipy", "sklearn", "matplotlib.pyplot"} & imported
    assert GRIDS in out
    assert not re.search(r"\bgrid: ", out)


SMALL = [
    *("+grid=digits_tiny", "grid.model=mlp", "grid.width=[4]", "grid.batch_size=[32,64]", "out=run", "stages=[train]"),
    *("grid.data_fraction=[0.1,0.3]", "grid.train_epochs=[2]", "grid.num_seeds=2"),
]


def process(folder, *overrides, **options):
    command = [sys.executable, "-m", "mdtree_jax.sweep", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(), **pipes, **options)


def finish(folder, *overrides):
    running = process(folder, *overrides)
    out, err = running.communicate(timeout=600)
    return running.returncode, out, err


def tables(path):
    return [
        pd.read_parquet(path / f"{name}.parquet").drop(columns="train_seconds") for name in ("members", "collection")
    ]


def assert_same_tables(a, b):
    for one, other in zip(tables(a), tables(b), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    code, out, err = finish(folder, *SMALL)
    assert code == 0, err
    return folder, out


def test_a_small_grid_from_end_to_end(small_run):
    folder, out = small_run
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["1/2", "w4-b32-e2:"], ["2/2", "w4-b64-e2:"]]
    assert lines[2].startswith("4 configurations, 8 networks; 2 cohorts trained and 0 measured in")
    members, collection = tables(folder / "run")
    assert members["status"].tolist() == ["ok"] * 8
    assert collection["num_finite"].tolist() == [2] * 4
    assert collection["num_samples"].tolist() == [320, 960] * 2
    assert not collection.isna().any(axis=None)


def test_a_network_loaded_alone_has_the_errors_of_its_row(small_run):
    from mdtree_jax.data import load_dataset
    from mdtree_jax.models import build_model
    from mdtree_jax.store.checkpoint import load_network

    network, row = load_network(small_run[0] / "run", seed=1, batch_size=32, data_fraction=0.3)
    data = load_dataset("digits")
    logits, _, _ = build_model("mlp", 4, 10, (10, 10, 1)).apply(network, data.x_test, False)
    logits = np.asarray(logits, np.float64)
    assert 100 * np.mean(logits.argmax(1) != data.y_test) == pytest.approx(row["test_error"], abs=0.03)
    log_probability = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = -log_probability[np.arange(len(data.y_test)), data.y_test].mean()
    assert loss == pytest.approx(row["test_loss"], rel=1e-5)


def test_the_same_command_goes_on_and_another_config_is_refused(small_run, capsys, monkeypatch):
    folder, _ = small_run
    monkeypatch.chdir(folder)
    code, out, _ = call(capsys, *SMALL, "csv=true")
    assert code == 0
    assert "0 cohorts trained" in out
    assert (folder / "run" / "collection.csv").exists()
    (folder / "file").write_text("")
    code, _, err = call(capsys, *SMALL, "grid.num_seeds=3", "grid.schedule=cosine")
    assert code == 2
    assert "num_seeds is 2 there, 3 here; schedule is constant there, cosine here" in err
    code, _, err = call(capsys, *SMALL, "grid.num_seeds=1", "dry_run=true")
    assert (code, "has networks of seed=1, which this grid omits" in err) == (2, True)
    code, out, _ = call(capsys, *SMALL, "grid.num_seeds=3", "grid.width=[4,8]", "dry_run=true")
    assert code == 0
    assert "run would be extended (width [4] -> [4, 8]; num_seeds 2 -> 3)" in out
    assert "4 cohorts, 0 finished" in out
    code, _, err = call(capsys, *SMALL, "out=file", "dry_run=true")
    assert (code, "out=file is a file; expected a folder" in err) == (2, True)
    code, out, _ = call(capsys, *SMALL, "dry_run=true")
    assert code == 0
    assert "2 cohorts, 2 finished" in out


def test_networks_under_names_of_an_earlier_version_are_not_lost(capsys, tmp_path):
    cosine = [*SMALL, "grid.batch_size=[64]", "grid.schedule=cosine"]
    assert call(capsys, *cosine)[0] == 0
    run = tmp_path / "run"
    for path in (run / "parts" / "w4-b64-e2-scosine.parquet", run / "checkpoints" / "w4-b64-e2-scosine"):
        path.rename(path.with_name(path.name.replace("-scosine", "")))
    code, _, err = call(capsys, *cosine)
    assert code == 2
    assert "run has 1 cohorts that are named otherwise than in this version (first: w4-b64-e2)" in err
    assert (run / "checkpoints" / "w4-b64-e2").is_dir()


def test_parts_move_to_another_folder(small_run, capsys, monkeypatch):
    folder, _ = small_run
    monkeypatch.chdir(folder)
    code, out, _ = call(capsys, *SMALL, "export_to=parts")
    assert code == 0
    assert "exported 2 of 2 cohorts to parts" in out
    for wanted in ("imported 2 cohorts", "imported 0 cohorts"):
        code, out, _ = call(capsys, *SMALL, "out=other", "import_from=parts")
        assert code == 0
        assert wanted in out
    assert_same_tables(folder / "run", folder / "other")
    code, _, err = call(capsys, *SMALL, "out=empty", "export_to=nothing")
    assert code == 2
    assert "empty has no finished cohort to export" in err
    assert not (folder / "nothing").exists()


def test_shards_are_merged_and_what_is_missing_is_trained(small_run, capsys, monkeypatch):
    folder, _ = small_run
    monkeypatch.chdir(folder)
    assert "1 cohorts, 0 finished" in call(capsys, *SMALL, "shard=1/2", "out=half", "dry_run=true")[1]
    code, out, _ = call(capsys, *SMALL, "shard=1/2", "out=half")
    assert code == 0
    assert "1 cohorts trained" in out
    code, out, err = call(capsys, *SMALL, "merge=[half]", "out=both")
    assert code == 0, err
    assert "merged 1 cohorts into" in out
    assert "1 cohorts are not trained yet, which the command without merge= does" in out
    code, out, _ = call(capsys, *SMALL, "out=both", "check_files=true")
    assert code == 0
    assert "1 cohorts trained" in out
    assert_same_tables(folder / "run", folder / "both")


def test_diverged_networks_are_rows_and_the_exit_code_says_so(capsys, tmp_path):
    code, out, err = call(capsys, *SMALL, "grid.learning_rate=[0.05,1e25]", "grid.batch_size=[64]")
    assert code == 3, err
    assert "4 diverged" in out
    members, collection = tables(tmp_path / "run")
    assert (members["status"] == "diverged").tolist() == (members["learning_rate"] > 1).tolist()
    assert collection["num_finite"].tolist() == [2, 0, 2, 0]
    assert collection["test_error"].isna().tolist() == [False, True, False, True]


def has_state_since(run, moment):
    with contextlib.suppress(FileNotFoundError):
        return any(path.stat().st_mtime > moment for path in run.glob("unfinished/*"))
    return False


@pytest.mark.slow
def test_two_processes_on_one_folder_and_kill_minus_nine(tmp_path):
    long = [*SMALL, "grid.model=resnet8", "grid.width=[1,2]", "grid.train_epochs=[60]", "checkpoint_minutes=1e-6"]
    assert finish(tmp_path, *long, "out=whole")[0] == 0
    num_killed = 0
    for pause in (0.0, 0.3, 0.6, 1.2, 2.4):
        running, moment = process(tmp_path, *long), time.time()
        while running.poll() is None and not has_state_since(tmp_path / "run", moment):
            time.sleep(0.01)
        time.sleep(pause)
        if running.poll() is None:
            running.send_signal(signal.SIGSTOP)  # so that it is still there when the second comes
            try:
                code, _, err = finish(tmp_path, *long)
            finally:
                running.kill()
            assert code == 2
            assert f"is in use by process {running.pid}" in err
            num_killed += 1
        running.communicate()
    assert num_killed >= 3
    assert finish(tmp_path, *long)[0] == 0
    assert_same_tables(tmp_path / "run", tmp_path / "whole")
    assert not list((tmp_path / "run" / "unfinished").glob("*"))


def test_interrupted_inside_a_cohort_it_goes_on_from_the_state_on_disk(tmp_path, monkeypatch):
    from mdtree_jax.runs.monitor import Monitor
    from mdtree_jax.store import checkpoint

    some = [*SMALL, "grid.batch_size=[32]", "grid.data_fraction=[0.1]", "grid.train_epochs=[3]"]
    often = [*some, "checkpoint_minutes=1e-9"]
    config = compose("sweep", often)
    progress, load_state, fractions, loaded = Monitor.progress, checkpoint.load_state, [], []

    def interrupted(self, fraction, message=""):
        progress(self, fraction, message)
        fractions.append(fraction)
        if len(fractions) in (3, 6):
            raise KeyboardInterrupt

    def load(path):
        loaded.append(load_state(path))
        return loaded[-1]

    monkeypatch.setattr("mdtree_jax.population.train.BLOCK_SECONDS", 1e-9)  # blocks of one step
    monkeypatch.setattr(Monitor, "progress", interrupted)
    monkeypatch.setattr(checkpoint, "load_state", load)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sweep.main(config)
    assert 0 < fractions[2] < fractions[5] < 1
    assert sweep.main(config) == 0
    assert len(loaded) == 2
    assert all("pass_index" in state for state in loaded)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert sweep.main(compose("sweep", [*some, "out=whole"])) == 0
    assert_same_tables(tmp_path / "run", tmp_path / "whole")


def test_trained_and_measured_the_table_serves_transfer(capsys, tmp_path):
    fast = ["stages=[train,measure]", "grid.measure.effort=fast", "grid.measure.curve_steps=20", "grid.batch_size=[32]"]
    code, out, err = finish(tmp_path, *SMALL, *fast)
    assert code == 0, err
    assert "1 cohorts trained and 1 measured" in out
    collection = pd.read_parquet(tmp_path / "run/collection.parquet")
    for metric in (
        "log_hessian_trace",
        "log_hessian_max_eigenvalue",
        "cka",
        "mode_connectivity_peak",
        "ball_sharpness",
    ):
        assert np.isfinite(collection[metric]).all()
    assert (collection["mode_connectivity_peak"] <= 0).all()
    assert set(pd.read_parquet(tmp_path / "run/layers.parquet")["layer"]) >= {"head/kernel", "head/bias"}
    again = call(capsys, *SMALL, *fast)
    assert "0 cohorts trained and 0 measured" in again[1]
    code, _, err = call(capsys, *SMALL, *fast, "grid.measure.seed=1")
    assert code == 2
    assert "seed is 0 there, 1 here" in err
    assert load_collection(tmp_path / "run")["label_size"].notna().all()


def test_one_seed_and_metrics_of_pairs_are_refused_before_training(capsys, tmp_path):
    code, _, err = call(capsys, *SMALL, "stages=[train,measure]", "grid.num_seeds=1")
    assert code == 2
    assert "grid.num_seeds=1 trains one network a configuration" in err
    assert not (tmp_path / "run").exists()
    code, _, err = call(capsys, *SMALL, "grid.measure.metrics=[cka]", "stages=[measure]")
    assert code == 2
    assert "unknown metric 'cka'; available: hessian, sharpness, similarity, barrier, connectivity" in err
