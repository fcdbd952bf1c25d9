"""Run folders: lock, manifest, parts, tables, moving cohorts between machines, full disks."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import files
from mdtree_jax.checks import UserError
from mdtree_jax.collection.load import read_csv
from mdtree_jax.provenance import describe_session
from mdtree_jax.runs.rows import member_rows
from mdtree_jax.store.exchange import export_parts, import_parts
from mdtree_jax.store.lock import FolderLock
from mdtree_jax.store.manifest import data_hash
from mdtree_jax.store.tables import collect, read_part
from tests.fake_training import COHORTS, CONFIG, run_folder, train


def rows_of(cohort, diverged=()):
    none = {"executor": None, "progress": lambda *a: None, "checkpoint": None, "resume": None}
    return member_rows(cohort, train(None, cohort, None, **none, diverged=diverged))


def finish(folder, cohorts):
    for cohort in cohorts:
        folder.finish(cohort.key, rows_of(cohort), {"executor": {}})


def test_collection_means_and_standard_errors_against_a_loop():
    diverged = {(0, 1), (1, 0), (1, 1), (1, 2), (4, 0), (4, 2)}
    members = pd.concat([rows_of(c, diverged) for c in COHORTS]).sample(frac=1, random_state=0)
    collection = collect(members)
    assert len(collection) == 16
    for index, row in collection.iterrows():
        mine = members[members["configuration"] == index]
        good = mine[mine["status"] == "ok"]
        assert row["num_finite"] == len(good) == 3 - sum(d[0] == index for d in diverged)
        assert row["width"] == mine["width"].iloc[0]
        assert row["train_flops"] == mine["train_flops"].mean()
        for column in ("train_error", "test_error", "train_loss", "test_loss"):
            values = good[column].to_numpy()
            mean = np.mean(values) if len(values) else np.nan
            error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            np.testing.assert_allclose([row[column], row[f"{column}_se"]], [mean, error], rtol=1e-12)
    assert list(collection.columns) == [
        *("width", "batch_size", "data_fraction", "num_samples", "num_parameters"),
        *("train_error", "train_error_se", "test_error", "test_error_se"),
        *("train_loss", "train_loss_se", "test_loss", "test_loss_se"),
        *("num_finite", "learning_rate", "weight_decay", "train_epochs", "train_seconds", "train_flops"),
    ]


def test_a_part_holds_the_numbers_bit_for_bit(tmp_path):
    with run_folder(tmp_path / "run") as folder:
        finish(folder, COHORTS[:2])
        fresh = folder.members
        folder.write_tables(csv=True)
    with run_folder(tmp_path / "run") as folder:
        assert folder.trained == tuple(c.key for c in COHORTS[:2])
        pd.testing.assert_frame_equal(folder.members, fresh, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "run" / "members.parquet"), fresh, check_exact=True)
    read = read_csv(tmp_path / "run" / "collection.csv")
    pd.testing.assert_frame_equal(read, collect(fresh), check_exact=True)
    assert not list((tmp_path / "run").rglob("*.partial*"))


def test_another_config_is_refused_with_the_keys_named(tmp_path):
    with run_folder(tmp_path) as folder:
        finish(folder, COHORTS[:1])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "run.lock"}
    other = CONFIG | {"width": [2, 4, 8], "optimizer": "adamw", "momentum": 0.8, "dtype": "float64"}
    with pytest.raises(UserError) as caught, run_folder(tmp_path, other):
        pass
    message = str(caught.value)
    assert "width is [2, 4] there, [2, 4, 8] here" in message
    assert "optimizer is sgd there, adamw here" in message
    assert "momentum is 0.9 there, 0.8 here" in message  # a knob that is not recorded had its default
    assert "dtype is None there, float64 here" in message
    assert "learning_rate" not in message
    assert {path: path.read_bytes() for path in before} == before
    with run_folder(tmp_path, json.loads(json.dumps(CONFIG))):  # tuples become lists on the way: the same config
        pass


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file is a file; expected a folder"), run_folder(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="is not a run folder"), run_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "run").mkdir()
    for content, message in (("{", "is not a manifest"), ('{"format": 9, "config": {}}', "has format 9")):
        (tmp_path / "run" / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=message), run_folder(tmp_path / "run"):
            pass


def test_manifest_says_what_ran_where(tmp_path):
    with run_folder(tmp_path) as folder:
        folder.begin_session(describe_session(["cpu:0"]))
        folder.record_executor("w2-b16-e3", "w2-b16-e3", {"chunk": 4})
        path = tmp_path / "parts" / "w2-b16-e3.parquet"
        path.parent.mkdir()
        path.write_text("mine")
        with pytest.raises(UserError, match=r"w2-b16-e3.parquet has the name of a file of this run, but no record"):
            finish(folder, COHORTS[:1])
        path.unlink()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["config"] == CONFIG
    session = manifest["sessions"][0]
    assert session["packages"]["numpy"] == np.__version__
    assert session["hardware"]["num_cpus"] >= 1
    assert session["hardware"]["devices"] == ["cpu:0"]
    with run_folder(tmp_path) as folder:
        finish(folder, COHORTS[:1])
    assert read_part(tmp_path / "parts" / "w2-b16-e3.parquet")[1]["made_by"] == [session]
    record = json.loads((tmp_path / "cohorts" / "w2-b16-e3.json").read_text())
    assert record["executors"] == {"w2-b16-e3": {"chunk": 4}}
    assert record["sessions"] == [session]
    written = (tmp_path / "parts" / "w2-b16-e3.parquet").read_bytes()
    assert record["files"] == {"parts/w2-b16-e3.parquet": hashlib.sha256(written).hexdigest()}


HOLD = """
import sys, time
from mdtree_jax.store.exchange import export_parts, import_parts
from mdtree_jax.store.lock import FolderLock
with FolderLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_process_is_refused_and_a_killed_one_holds_nothing(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"in use by process {holder.pid} on .*choose another out="):
            FolderLock(tmp_path).__enter__()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with FolderLock(tmp_path), pytest.raises(UserError, match=rf"in use by process {os.getpid()} on"):
            FolderLock(tmp_path).__enter__()
        with FolderLock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()


def test_finished_cohorts_move_between_folders(tmp_path):
    with run_folder(tmp_path / "a") as a:
        finish(a, COHORTS[:2])
        assert export_parts(a, tmp_path / "parts") == 2
    with run_folder(tmp_path / "b") as b:
        finish(b, COHORTS[2:])
        assert import_parts(b, [tmp_path / "parts"]) == (2, 0)
        assert import_parts(b, [tmp_path / "a"]) == (0, 2)  # a whole run folder will do too
        assert b.trained == tuple(c.key for c in COHORTS)
        assert b.members["configuration"].tolist() == sorted(b.members["configuration"])
    assert sum(path.stat().st_size for path in (tmp_path / "parts").rglob("*")) < 80_000
    with run_folder(tmp_path / "c", CONFIG | {"optimizer": "adamw"}) as c:
        with pytest.raises(UserError, match=r"optimizer is sgd there, adamw here"):
            import_parts(c, [tmp_path / "parts"])
        with pytest.raises(UserError, match="holds no parts"):
            import_parts(c, [tmp_path / "nothing"])
        assert c.trained == ()
    (tmp_path / "parts" / "parts" / "w2-b32-e3.parquet").write_bytes(b"PAR1 cut short")
    with run_folder(tmp_path / "d") as d:
        with pytest.raises(UserError, match="damaged or not a part"):
            import_parts(d, [tmp_path / "parts"])
        assert d.trained == ()  # all are checked before the first is taken


def test_cohorts_that_could_never_be_measured_are_not_imported(tmp_path):
    with run_folder(tmp_path / "a") as a:
        a.use_measurement({"seed": 0})
        finish(a, COHORTS[:2])
        rows = a.trained_rows(COHORTS[0].key)[["configuration", "seed"]]
        tables = {kind: rows.assign(seed_a=0, seed_b=1, layer="w") for kind in ("layers", "pairs", "members")}
        a.finish_measurement(COHORTS[0].key, tables, {})
        export_parts(a, tmp_path / "parts")
    with run_folder(tmp_path / "b") as b:
        assert import_parts(b, [tmp_path / "parts"]) == (1, 0)
        assert b.trained == b.measured == (COHORTS[0].key,)


def test_a_part_with_missing_members_is_refused(tmp_path):
    with run_folder(tmp_path) as folder:
        folder.finish(COHORTS[0].key, rows_of(COHORTS[0]).iloc[:-1], {})
    with pytest.raises(UserError, match="does not hold the members of cohort w2-b16-e3"), run_folder(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_leaves_earlier_results_intact(tmp_path, monkeypatch, code):
    with run_folder(tmp_path) as folder:
        finish(folder, COHORTS[:1])
        folder.write_tables()
        before = folder.members

        def full(descriptor):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(UserError, match=r"cannot write to .*; finished work is intact, and the same"):
            finish(folder, COHORTS[1:2])
        with pytest.raises(UserError, match="cannot write to"):
            export_parts(folder, tmp_path / "exported")
        monkeypatch.undo()
    assert read_part(tmp_path / "parts" / f"{COHORTS[0].key}.parquet")[1]["cohort"] == COHORTS[0].key
    with run_folder(tmp_path) as folder:
        pd.testing.assert_frame_equal(folder.members, before, check_exact=True)
        assert folder.trained == (COHORTS[0].key,)
    assert not list(tmp_path.rglob("*.partial*"))


def test_other_errors_are_not_taken_for_a_full_disk():
    with pytest.raises(ZeroDivisionError), files.one_sentence_on_write_failure("."):
        1 / 0  # noqa: B018


def test_leftovers_of_a_killed_process_are_cleared_and_nothing_else_is(tmp_path):
    done, undone = COHORTS[0].key, COHORTS[1].key
    with run_folder(tmp_path) as folder:
        folder.finish(done, rows_of(COHORTS[0]), {}, networks=lambda path: path.mkdir(parents=True))
        for key in (done, undone):
            folder.claim_state(key, key)
        (tmp_path / "checkpoints" / undone).mkdir()
        folder.ledger[undone].files[f"checkpoints/{undone}"] = "that of a process that was killed before the part"
        folder.ledger.save(undone)
    (tmp_path / "parts" / f"{undone}.77.partial.parquet").write_bytes(b"half")
    (tmp_path / "checkpoints" / f"{undone}.77.partial.orbax-checkpoint-tmp-1").mkdir()
    for name in (done, undone):
        (tmp_path / "unfinished" / name).mkdir(parents=True)
    foreign = [tmp_path / "checkpoints" / "mine", tmp_path / "parts" / "notes", tmp_path / "unfinished" / "a.partial"]
    for path in foreign:
        path.mkdir(parents=True)
        (path / "file").write_text("mine")
    with run_folder(tmp_path):
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["mine", done]
        assert not (tmp_path / "unfinished" / done).exists()
        assert (tmp_path / "unfinished" / undone).exists()  # the cohort goes on from there
        assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["notes", f"{done}.parquet"]
        assert all((path / "file").read_text() == "mine" for path in foreign)


def test_data_hash_sees_every_bit():
    x = np.zeros((3, 4), np.float32)
    same, changed = x.copy(), x.copy()
    changed[2, 3] = 1e-30
    assert data_hash(x) == data_hash(same)
    assert len({data_hash(a) for a in (x, changed, x.T, x.astype(np.float64))}) == 4


def test_members_of_an_empty_folder(tmp_path):
    with run_folder(tmp_path) as folder:
        folder.write_tables()
    assert len(pd.read_parquet(tmp_path / "collection.parquet")) == 0


def test_what_cannot_be_measured_is_counted_and_harms_no_mean():
    """A network whose Hessian is not finite, a curve that diverged, one not asked for, and a trace below zero."""
    members = pd.concat([rows_of(c) for c in COHORTS[:2]], ignore_index=True)
    members = members[members["configuration"] < 2].reset_index(drop=True)
    traces = np.array([np.nan, 4.0, 8.0, -3.0, -1.0, -2.0])
    members = members.assign(hessian_trace=traces, hessian_max_eigenvalue=1.0, hessian_seconds=1.0)
    ends = [(0, 1), (1, 2), (0, 2)]
    pairs = pd.DataFrame([{"configuration": c, "seed_a": a, "seed_b": b} for c in (0, 1) for a, b in ends])
    peaks, seconds = [-3.0, np.nan, np.nan, -1.0, -2.0, -3.0], [1.0, 1.0, np.nan, 1.0, 1.0, 1.0]
    cka = [0.5] * 5 + [np.nan]
    pairs = pairs.assign(mode_connectivity_peak=peaks, connectivity_seconds=seconds, cka=cka)
    collection = collect(members, pairs)
    assert collection["num_not_measurable"].tolist() == [2, 1]  # the third pair of the first was not asked for
    assert collection["hessian_trace"].tolist() == [6.0, -2.0]
    assert collection["mode_connectivity_peak"].tolist() == [-3.0, -2.0]
    # Below its standard error a mean says "small": the logarithm is that of the standard error.
    error = np.std([-3, -1, -2], ddof=1) / 3**0.5
    np.testing.assert_allclose(collection["log_hessian_trace"], [np.log(6.0), np.log(error)])
    np.testing.assert_allclose(collection["log_hessian_trace_se"], [2.0 / 6.0, 1.0])
    assert "num_not_measurable" not in collect(members[members.columns[:-3]])
    # What is measured without a time of its own counts alone too, and an infinite number is not averaged.
    alone = collect(members[members.columns[:-3]], pairs[["configuration", "seed_a", "seed_b", "cka"]])
    assert alone["num_not_measurable"].tolist() == [0, 1]
    infinite = collect(members.assign(hessian_trace=np.where(np.isnan(traces), np.inf, traces)), pairs)
    pd.testing.assert_frame_equal(infinite, collection)
    infinite = pairs.assign(mode_connectivity_peak=[-np.inf if np.isnan(peak) else peak for peak in peaks])
    pd.testing.assert_frame_equal(collect(members, infinite), collection)


def test_a_negative_dominant_eigenvalue_is_not_small():
    members = pd.concat([rows_of(c) for c in COHORTS[:2]], ignore_index=True)
    members = members[members["configuration"] < 2].reset_index(drop=True)
    values, reached = [-5.0, -5.2, -5.1, 3.0, 3.1, np.nan], [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    members = members.assign(hessian_max_eigenvalue=values, hessian_max_eigenvalue_converged=reached)
    found = collect(members)
    np.testing.assert_allclose(found["hessian_max_eigenvalue"], [-5.1, 3.05])
    np.testing.assert_allclose(found["log_hessian_max_eigenvalue"], np.log([5.1, 3.05]))
    assert found["num_not_converged"].tolist() == [1, 0]
    one = collect(members.iloc[:1])
    np.testing.assert_allclose(one["log_hessian_max_eigenvalue"], np.log([5.0]))
