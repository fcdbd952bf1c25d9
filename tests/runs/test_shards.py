"""Parts of one grid on several machines, and their merge: the tables are those of a single run, bit for bit."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdtree_jax.checks import UserError
from mdtree_jax.recipe.axes import Grid, make_cohorts
from mdtree_jax.runs.shards import chosen_cohorts
from mdtree_jax.store.checkpoint import load_network
from mdtree_jax.store.exchange import export_parts, import_parts
from mdtree_jax.store.folder import RunFolder
from tests.conftest import ROOT
from tests.runs.growing import QUICK, Lab, assert_same_tables, numbers, plan
from tests.runs.many import NUM_SHARDS, WANTED

GRID = plan(width=(2, 4, 8), learning_rate=(0.05, 0.1, 0.2))


def folder_of(path, wanted=GRID):
    return RunFolder(path, wanted.config, {c.key: [(m.index, m.seed) for m in c.members] for c in wanted.cohorts})


def merged(path, sources, wanted=GRID, **options):
    """Return how many cohorts were new and known; the tables are written."""
    with folder_of(path, wanted) as folder:
        counts = import_parts(folder, sources, option="merge", **options)
        folder.write_tables()
        return counts


def test_a_shard_is_a_share_of_the_work_and_all_together_are_the_grid():
    cohorts = make_cohorts(Grid(tuple(range(1, 14)), (16, 32, 64), data_fraction=(0.5, 1.0)), 400)
    for count in (1, 2, 3, 13, 16, 39):
        shards = [chosen_cohorts(cohorts, f"{number}/{count}") for number in range(1, count + 1)]
        keys = [cohort.key for shard in shards for cohort in shard]
        assert sorted(keys) == sorted(cohort.key for cohort in cohorts)
        work = [sum(c.width * len(c.members) for c in shard) for shard in shards]
        assert min(work) > 0
        assert count > 16 or max(work) <= 1.35 * sum(work) / count
    assert chosen_cohorts(cohorts) == cohorts
    assert chosen_cohorts(cohorts, None, ["w2-b16-e50", "w1-b16-e50"]) == (cohorts[0], cohorts[3])


@pytest.mark.parametrize(
    ("shard", "names", "message"),
    [
        ("17/16", None, "shard=17/16 is not one of 1/16 to 16/16"),
        ("0/16", None, "shard=0/16 is not one of 1/16 to 16/16"),
        ("3", None, "shard=3 is not one of 1/16 to 16/16"),
        ("1e3/x", None, "shard=1e3/x is not one of"),
        ("-1/4", None, "shard=-1/4 is not one of"),
        ("4/4", None, "shard=4/4 has no cohort: this grid has 3; use that many shards at most"),
        (None, ["w2-b16-e4"], r"unknown cohort 'w2-b16-e4' \(did you mean 'w2-b16-e3'\?\); this grid has 3: w2"),
        (None, [], r"cohorts=\[\] does nothing"),
    ],
)
def test_shards_and_names_that_mean_nothing(shard, names, message):
    with pytest.raises(UserError, match=message):
        chosen_cohorts(GRID.cohorts, shard, names)


def test_shards_merged_are_a_single_run_and_one_folder_can_hold_several(pickled, tmp_path):
    Lab().run(tmp_path / "single", GRID)
    shards = [chosen_cohorts(GRID.cohorts, f"{number}/3") for number in (1, 2, 3)]
    for number, shard in enumerate(shards):
        lab = Lab()
        lab.run(tmp_path / f"part{number}", GRID, only=shard)
        assert {name[0] for name in lab.trained} == {cohort.key for cohort in shard}
        Lab().run(tmp_path / "one after the other", GRID, only=shard)
    assert_same_tables(tmp_path / "one after the other", tmp_path / "single")
    assert merged(tmp_path / "merged", [tmp_path / f"part{number}" for number in (2, 0)], keep=True) == (2, 0)
    assert merged(tmp_path / "merged", [tmp_path / f"part{number}" for number in (0, 1)], keep=True) == (1, 1)
    assert_same_tables(tmp_path / "merged", tmp_path / "single")
    lab = Lab()
    lab.run(tmp_path / "merged", GRID)  # nothing is done twice
    assert lab.trained == lab.measured == []
    for cohort in GRID.cohorts:  # the networks came along
        chosen = {"seed": 1, "width": cohort.width, "learning_rate": 0.2}
        network, row = load_network(tmp_path / "merged", **chosen)
        member = next(m for m in cohort.members if (m.index, m.seed) == (row["configuration"], row["seed"]))
        assert network["params"]["w"][0] == numbers(cohort, member)[0]


AXES = {"width": (2, 4, 8), "learning_rate": (0.05, 0.1, 0.2), "optimizer": ("sgd", "adamw")}


@st.composite
def splits(draw):
    """Draw a grid and two to four smaller ones, parts of it by values of its axes, not by seeds."""
    diverging, pairs = draw(st.sampled_from((0, 30))), draw(st.sampled_from(("first", "ring", "all")))
    axes = {name: draw(st.permutations(values)) for name, values in AXES.items()}
    whole = plan(3, **{name: tuple(values) for name, values in axes.items()}, pairs=pairs, diverging=diverging)
    parts = []
    for _ in range(draw(st.integers(2, 4))):
        part = {name: tuple(draw(st.lists(st.sampled_from(v), min_size=1, unique=True))) for name, v in axes.items()}
        parts.append(plan(3, **part, pairs=pairs, diverging=diverging))
    return whole, parts


@QUICK
@given(split=splits())
def test_parts_with_any_values_of_the_axes_merge_and_the_rest_is_done_after(pickled, tmp_path_factory, split):
    whole, parts = split
    path = tmp_path_factory.mktemp("split")
    for number, part in enumerate(parts):
        Lab(part.diverging).run(path / str(number), part)
    merged(path / "merged", [path / str(number) for number in range(len(parts))], whole, keep=True)
    lab = Lab(whole.diverging)
    lab.run(path / "merged", whole)
    in_parts = {name for part in parts for name in networks(part)}
    assert {name[:2] for name in lab.trained} == networks(whole) - in_parts
    Lab(whole.diverging).run(path / "single", whole)
    assert_same_tables(path / "merged", path / "single")
    shutil.rmtree(path)


def networks(wanted):
    return {(cohort.key, member.learning_rate) for cohort in wanted.cohorts for member in cohort.members}


def test_merged_parts_without_their_networks_have_the_tables_and_grow_by_new_configurations(pickled, tmp_path):
    left, right = plan(learning_rate=(0.05,)), plan(learning_rate=(0.1,))
    Lab().run(tmp_path / "a", left)
    Lab().run(tmp_path / "b", right)
    merged(tmp_path / "run", [tmp_path / "a", tmp_path / "b"], plan())
    assert not (tmp_path / "run/checkpoints").exists()
    Lab().run(tmp_path / "single", plan())
    assert_same_tables(tmp_path / "run", tmp_path / "single")
    larger = plan(learning_rate=(0.2, 0.05, 0.1), width=(2, 4, 8))
    Lab().run(tmp_path / "run", larger)
    Lab().run(tmp_path / "larger", larger)
    assert_same_tables(tmp_path / "run", tmp_path / "larger")
    with folder_of(tmp_path / "run", larger) as folder:  # and moves on in one piece
        export_parts(folder, tmp_path / "parts")
    merged(tmp_path / "again", [tmp_path / "parts"], larger)
    assert_same_tables(tmp_path / "again", tmp_path / "larger")


def test_what_cannot_be_merged_is_refused_and_nothing_changes(pickled, tmp_path):
    Lab().run(tmp_path / "a", plan(2))
    Lab().run(tmp_path / "other seeds", plan(2, seed=2))
    Lab().run(tmp_path / "otherwise", plan(2, width=(8, 2), pairs="all"))
    Lab().run(tmp_path / "wider", plan(2, width=(2, 16), learning_rate=(0.1, 0.5)))
    Lab().run(tmp_path / "adamw", plan(2, optimizer=("adamw",)))
    (tmp_path / "nothing").mkdir()
    wanted = plan(4, width=(2, 4, 8))
    for source, message in {
        "other seeds": r"other seeds has other seeds of a configuration of cohort w2-b16-e3 .* split a grid by",
        "otherwise": r"otherwise was created with another config \(pairs is all there, ring here\)",
        "wider": r"wider has networks of width=16 and learning_rate=0.5, which this grid omits",
        "adamw": r"adamw was created with another config \(.*optimizer is \[?'?adamw'?\]? there, sgd here",
        "nothing": r"merge='.*nothing' holds no parts",
        "no such": r"merge='.*no such' holds no parts",
    }.items():
        with folder_of(tmp_path / "run", wanted) as folder:
            with pytest.raises(UserError, match=message):
                import_parts(folder, [tmp_path / "a", tmp_path / source], option="merge")
            assert folder.trained == ()
    assert not list((tmp_path / "run").rglob("*.parquet"))
    with pytest.raises(UserError, match="is the run folder itself"):
        merged(tmp_path / "a", [tmp_path / "a"], plan(2))


def test_a_full_disk_in_a_merge_leaves_nothing_of_it(pickled, tmp_path, monkeypatch):
    Lab().run(tmp_path / "a", GRID)
    calls = []

    def fills(path):
        calls.append(path)
        if len(calls) == 12:
            raise OSError(28, "No space left on device")

    with folder_of(tmp_path / "run") as folder:
        monkeypatch.setattr("mdtree_jax.store.ledger.sync", fills)
        with pytest.raises(UserError, match="no space left on the disk"):
            import_parts(folder, [tmp_path / "a"])
        monkeypatch.undo()
    with folder_of(tmp_path / "run") as folder:
        assert folder.trained == ()
    assert not list((tmp_path / "run").rglob("*.parquet"))


def test_64_cohorts_in_two_processes_that_are_killed_at_random(tmp_path):
    """20 times SIGKILL; then the merge is the table of a single run, and no finished cohort was done twice."""
    rng, num_killed = np.random.default_rng(0), 0
    command = [sys.executable, "-m", "tests.runs.many", str(tmp_path)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    running = dict.fromkeys(range(1, NUM_SHARDS + 1))
    finished = set()
    while len(finished) < NUM_SHARDS:
        for number in set(running) - finished:
            process = running[number]
            if process is None:
                running[number] = subprocess.Popen([*command, str(number)], cwd=ROOT, env=environment)
            elif process.poll() is not None:
                assert process.returncode in (0, -signal.SIGKILL)
                if process.returncode == 0:
                    finished.add(number)
                running[number] = None
        time.sleep(float(rng.exponential(0.15)))
        victims = [one for one in running.values() if one is not None and one.poll() is None]
        begun = len(list(tmp_path.glob("*/cohorts/*.json")))
        if num_killed < 20 and victims and begun > 2 * num_killed:
            rng.choice(victims).kill()
            num_killed += 1
    assert num_killed == 20
    Lab().run(tmp_path / "single", WANTED)
    merged(tmp_path / "merged", [tmp_path / f"part{n}" for n in range(1, NUM_SHARDS + 1)], WANTED)
    assert_same_tables(tmp_path / "merged", tmp_path / "single")
    done = (tmp_path / "trained.txt").read_text().split()
    assert len(set(done)) == 64
    assert len(done) <= 64 + 20  # what was done twice was under way when it was killed
