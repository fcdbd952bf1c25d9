"""Bits that flip in a run folder: what was damaged is said, set aside and made again, and no table is another one."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.checks import DamagedFile, UserError
from mdtree_jax.collection.load import load_collection
from mdtree_jax.store.checkpoint import load_network
from mdtree_jax.store.exchange import import_parts
from mdtree_jax.store.folder import RunFolder
from mdtree_jax.store.opening import read_parts
from mdtree_jax.store.tables import read_part
from tests.runs.earlier import make_earlier
from tests.runs.growing import Lab, assert_same_tables, plan, tables

PLAN = plan(learning_rate=(0.05, 0.1))
#: Kind of file -> where its files are, and whether each flip is told of.
KINDS = {
    "manifest": ("manifest.json", True),
    "lock": ("run.lock", False),
    "record": ("cohorts/*.json", True),
    "trained": ("parts/*.parquet", True),
    "history": ("parts/history/*.parquet", True),
    "layers": ("parts/layers/*.parquet", True),
    "pairs": ("parts/pairs/*.parquet", True),
    "members": ("parts/members/*.parquet", True),
    "table": ("*.parquet", False),
    "networks": ("checkpoints/*/*", False),
}


def flip(path, rng, bits=1):
    """Flip bits of a file at random places."""
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, 8 * len(content), bits):
        content[place // 8] ^= 1 << (place % 8)
    path.write_bytes(content)


def files(run, pattern):
    return sorted(path for path in run.glob(pattern) if path.is_file())


def folder_of(path, wanted=PLAN):
    return RunFolder(path, wanted.config, {c.key: [(m.index, m.seed) for m in c.members] for c in wanted.cohorts})


def outcome(run):
    """Return the lines that the command prints, and the sentence with which it refuses."""
    try:
        return Lab().run(run, PLAN), ""
    except UserError as error:
        return [], str(error)


@pytest.fixture
def finished(pickled, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    Lab().run(path, PLAN)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_the_same_command_mends_whatever_flipped(finished, tmp_path, kind, number):
    pattern, is_told = KINDS[kind]
    rng, run = np.random.default_rng(number + list(KINDS).index(kind)), tmp_path / "run"
    for _ in range(number):
        shutil.copytree(finished, run)
        path = rng.choice(files(run, pattern))
        flip(path, rng, rng.choice([1, 1, 8]))
        damaged = path.read_bytes()
        said, refused = outcome(run)
        if kind == "lock" and refused:  # a lock that holds other words is not ours
            assert "run.lock is not a lock file of this program" in refused
            shutil.rmtree(run)
            continue
        assert not refused
        assert_same_tables(run, finished)
        aside = [one for one in run.rglob("*.damaged") if one.is_file() and one.read_bytes() == damaged]
        if is_told and damaged != (finished / path.relative_to(run)).read_bytes():
            assert any(f"{path.name} is damaged and was set aside as {path.name}.damaged" in line for line in said)
            assert len(aside) == 1
            assert Lab().run(run, PLAN) == []  # it was mended
        shutil.rmtree(run)


@pytest.mark.parametrize("check_files", [False, True])
def test_damaged_networks_are_trained_again_when_they_are_needed_or_all_is_checked(tmp_path, check_files):
    lab, rng = Lab(), np.random.default_rng(0)
    stages = ("train", "measure") if check_files else ("train",)
    lab.run(tmp_path / "run", PLAN, stages=stages)
    lab.run(tmp_path / "fresh", PLAN)
    path = tmp_path / "run/checkpoints/w4-b16-e3"
    flip(rng.choice(files(path, "**/*")), rng)
    network = {"seed": 1, "width": 4, "learning_rate": 0.1}
    with pytest.raises(DamagedFile, match=r"w4-b16-e3 is damaged: .* check_files=true to train it again"):
        load_network(tmp_path / "run", **network)
    if not check_files:
        with pytest.raises(UserError, match=r"cohort w4-b16-e3 of .* is to be trained again before it can be measured"):
            Lab().run(tmp_path / "run", PLAN, stages=("measure",))
    again = Lab()
    again.run(tmp_path / "run", PLAN, check_files=check_files)
    assert {name[0] for name in again.trained} == {"w4-b16-e3"}
    assert (tmp_path / "run/checkpoints/w4-b16-e3.damaged").is_dir()
    assert_same_tables(tmp_path / "run", tmp_path / "fresh")
    load_network(tmp_path / "run", **network)


@pytest.mark.parametrize("kind", ["layers", "pairs", "members"])
def test_a_damaged_measurement_of_networks_that_are_gone_is_no_dead_end(pickled, tmp_path, kind):
    Lab().run(tmp_path / "run", PLAN, keep="metrics_only")
    Lab().run(tmp_path / "fresh", PLAN)
    flip(tmp_path / f"run/parts/{kind}/w2-b16-e3.parquet", np.random.default_rng(1))
    lab = Lab()
    assert "trained again" in lab.run(tmp_path / "run", PLAN, keep="metrics_only")[0]
    assert {name[0] for name in lab.trained} == {"w2-b16-e3"}
    assert_same_tables(tmp_path / "run", tmp_path / "fresh")


def test_a_state_inside_a_cohort_with_a_flipped_bit_is_not_used(tmp_path):
    resumed, rng = [], np.random.default_rng(2)

    class Interrupted(Lab):
        def train(self, recipe, cohort, data, *, checkpoint, resume, **options):
            resumed.append(resume is not None)
            if len(resumed) < 4:
                checkpoint({"members": np.arange(40.0)})
                raise KeyboardInterrupt
            return super().train(recipe, cohort, data, checkpoint=checkpoint, resume=resume, **options)

    for flips in (False, True, False):
        with pytest.raises(KeyboardInterrupt):
            Interrupted().run(tmp_path, PLAN)
        if flips:
            flip(rng.choice(files(tmp_path, "unfinished/*/**/*")), rng)
    Interrupted().run(tmp_path, PLAN)
    assert resumed[:4] == [False, True, False, True]


def test_what_reads_a_finished_run_sees_a_flipped_bit(finished, tmp_path):
    rng, run = np.random.default_rng(3), tmp_path / "run"
    shutil.copytree(finished, run)
    for name in ("members", "collection"):
        flip(run / f"{name}.parquet", rng)
    with pytest.raises(DamagedFile, match=r"members.parquet is damaged, or was changed .* repeat the sweep's command"):
        load_network(run, seed=0, width=2)
    with pytest.raises(DamagedFile, match=r"collection.parquet is damaged"):
        load_collection(run)
    Lab().run(run, PLAN)
    assert_same_tables(run, finished)


def test_an_import_with_a_flipped_bit_takes_nothing(finished, tmp_path):
    rng = np.random.default_rng(4)
    for pattern, _ in list(KINDS.values())[2:8]:
        shutil.copytree(finished, tmp_path / "source")
        flip(rng.choice(files(tmp_path / "source", pattern)), rng)
        with folder_of(tmp_path / "run") as folder:
            with pytest.raises(DamagedFile, match=r"damaged.* nothing was imported: repeat the sweep's command there"):
                import_parts(folder, [finished, tmp_path / "source"])
            assert folder.trained == ()
        assert not list((tmp_path / "run").rglob("*.parquet"))
        shutil.rmtree(tmp_path / "source")


def test_a_plan_takes_what_is_damaged_for_not_there_and_changes_nothing(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    flip(tmp_path / "run/parts/w2-b16-e3.parquet", np.random.default_rng(5))
    flip(tmp_path / "run/checkpoints/w4-b16-e3/orbax.checkpoint", np.random.default_rng(6))
    before = {path: path.read_bytes() for path in files(tmp_path / "run", "**/*")}
    members = {c.key: [(m.index, m.seed) for m in c.members] for c in PLAN.cohorts}
    parts = read_parts(tmp_path / "run", PLAN.config, members)
    assert list(parts.trained) == ["w4-b16-e3"]
    assert [one.path.name for one in parts.damaged] == ["w2-b16-e3.parquet"]
    assert [path.name for path in parts.damaged_networks()] == ["w4-b16-e3"]
    assert {path: path.read_bytes() for path in files(tmp_path / "run", "**/*")} == before


def test_a_damaged_manifest_of_another_grid_is_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/manifest.json").write_text("{")
    before = {path: path.read_bytes() for path in files(tmp_path / "run", "**/*")}
    with pytest.raises(DamagedFile, match=r"manifest.json is not a manifest of a run, or is damaged"):
        Lab().run(tmp_path / "run", plan(learning_rate=(0.05, 0.2)))
    assert {path: path.read_bytes() for path in files(tmp_path / "run", "**/*")} == before


def test_a_run_of_the_version_without_records_goes_on(pickled, tmp_path):
    larger = plan(3, learning_rate=(0.05, 0.1, 0.2))

    class Interrupted(Lab):
        def train(self, recipe, cohort, data, **options):
            if cohort.width == 4:
                raise KeyboardInterrupt
            return super().train(recipe, cohort, data, **options)

    with pytest.raises(KeyboardInterrupt):
        Interrupted().run(tmp_path / "run", PLAN, choose=lambda *_: {"name": "as then"})
    make_earlier(tmp_path / "run")
    (tmp_path / "run/checkpoints/w4-b16-e3").mkdir()  # its process was killed before the part
    members = {c.key: [(m.index, m.seed) for m in c.members] for c in PLAN.cohorts}
    assert list(read_parts(tmp_path / "run", PLAN.config, members).trained) == ["w2-b16-e3"]
    lab = Lab()
    lab.run(tmp_path / "run", PLAN)
    assert {name[0] for name in lab.trained} == {"w4-b16-e3"}
    record = json.loads((tmp_path / "run/cohorts/w4-b16-e3.json").read_text())
    assert record["executors"] == {"w4-b16-e3": {"name": "as then"}}
    Lab().run(tmp_path / "fresh", PLAN)
    assert_same_tables(tmp_path / "run", tmp_path / "fresh")
    make_earlier(tmp_path / "run")
    Lab().run(tmp_path / "run", larger)
    Lab().run(tmp_path / "larger", larger)
    assert_same_tables(tmp_path / "run", tmp_path / "larger")


def test_a_part_of_the_version_without_records_that_is_no_table_is_made_again(pickled, tmp_path):
    Lab().run(tmp_path / "run", PLAN)
    Lab().run(tmp_path / "fresh", PLAN)
    make_earlier(tmp_path / "run")
    (tmp_path / "run/parts/w2-b16-e3.parquet").write_bytes(b"nonsense")
    assert "is damaged and was set aside" in Lab().run(tmp_path / "run", PLAN)[0]
    assert_same_tables(tmp_path / "run", tmp_path / "fresh")
    assert read_part(tmp_path / "run/parts/w2-b16-e3.parquet")[1]["cohort"] == "w2-b16-e3"
    assert all(isinstance(table, pd.DataFrame) for table in tables(tmp_path / "run").values())
