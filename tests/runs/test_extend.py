"""Runs that grow: more seeds, more values, more metrics."""

import dataclasses
import json

import pandas as pd
import pytest
from hypothesis import given

from mdtree_jax.checks import UserError
from mdtree_jax.runs import verify
from mdtree_jax.store.exchange import export_parts, import_parts
from mdtree_jax.store.folder import RunFolder
from mdtree_jax.store.record import write_record
from tests.runs.earlier import make_earlier
from tests.runs.growing import METRICS, QUICK, SESSION, Lab, assert_same_tables, growing_plans, numbers, plan


@QUICK
@given(plans=growing_plans())
def test_a_run_in_steps_ends_with_the_tables_of_a_fresh_one(pickled, tmp_path_factory, plans):
    path = tmp_path_factory.mktemp("extend")
    lab, fresh = Lab(plans[0].diverging), Lab(plans[0].diverging)
    for wanted in plans:
        lab.run(path / "steps", wanted)
        assert lab.run(path / "steps", wanted) == []  # nothing is left to do
    fresh.run(path / "fresh", plans[-1])
    assert len(set(lab.trained)) == len(lab.trained)
    assert sorted(lab.trained) == sorted(fresh.trained)
    assert len(set(lab.measured)) == len(lab.measured)
    assert set(lab.measured) >= set(fresh.measured)  # and pairs that the larger ring has no more
    assert_same_tables(path / "steps", path / "fresh")


def test_what_is_kept_and_added_is_said_and_the_config_before_stays_in_the_manifest(pickled, tmp_path):
    Lab().run(tmp_path, plan(metrics=METRICS[:1]))
    line, *_ = Lab().run(tmp_path, plan(3, width=(2, 4, 8)))
    assert line == (
        f"{tmp_path} is extended (width [2, 4] -> [2, 4, 8]; num_seeds 2 -> 3; "
        "metrics + sharpness, similarity, connectivity): 8 trained networks are kept and 10 are added"
    )
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["config"] == plan(3, width=(2, 4, 8)).config
    (before,) = manifest["extended_from"]
    assert (before["config"], before["measure"]["metrics"]) == (plan().config, ["hessian"])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            plan(1),
            r"has networks of seed=1, which this grid omits; a run can be extended, not cut; keep the values",
        ),
        (plan(width=(2, 8), num_seeds=3), r"has networks of width=4, which this grid omits.*another out="),
        (plan(seed=1), r"has networks of seed=0, which this grid omits"),
        (plan(width=(8, 16)), r"was created with another config \(width is \[2, 4\] there, \[8, 16\] here\)"),
        (plan(metrics=METRICS[1:]), r"has measured hessian, which grid.measure.metrics leaves out here.*another out="),
        (plan(3, pairs="all"), r"was created with another config \(pairs is ring there, all here\)"),
    ],
)
def test_what_is_no_extension_is_refused_and_changes_nothing(pickled, tmp_path, other, message):
    Lab().run(tmp_path, plan())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    config = json.loads((tmp_path / "manifest.json").read_text())["config"]
    with pytest.raises(UserError, match=message):
        Lab().run(tmp_path, other)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before
    assert json.loads((tmp_path / "manifest.json").read_text())["config"] == config
    assert Lab().run(tmp_path, plan()) == []


def test_another_recipe_is_named_with_all_that_differs(tmp_path):
    wanted = plan()
    members = {c.key: [(m.index, m.seed) for m in c.members] for c in wanted.cohorts}
    with RunFolder(tmp_path, wanted.config, members):
        pass
    message = r"width is \[2, 4\] there, \[2\] here; optimizer is sgd there, adamw here"
    other = wanted.config | {"optimizer": "adamw", "width": [2]}
    with pytest.raises(UserError, match=message), RunFolder(tmp_path, other, members):
        pass


def test_a_run_of_before_there_were_histories_goes_on_with_those_of_what_is_added(pickled, tmp_path):
    class Earlier(Lab):
        def train(self, *arguments, **options):
            trained = super().train(*arguments, **options)
            trained.history = None
            return trained

    small, large = plan(2, width=(2,)), plan(3, width=(2, 4))
    Earlier().run(tmp_path, small)
    assert not (tmp_path / "history.parquet").exists()
    Lab().run(tmp_path, large)
    Lab().run(tmp_path / "fresh", large)
    added, every = (pd.read_parquet(path / "history.parquet") for path in (tmp_path, tmp_path / "fresh"))
    members = pd.read_parquet(tmp_path / "members.parquet")
    is_old = (members["width"] == 2) & (members["seed"] < 2)
    old = pd.MultiIndex.from_frame(members.loc[is_old, ["configuration", "seed"]])
    is_added = ~pd.MultiIndex.from_frame(every[["configuration", "seed"]]).isin(old)
    pd.testing.assert_frame_equal(added, every[is_added].reset_index(drop=True), check_exact=True)
    record = write_record(tmp_path / "fresh", tmp_path / "record", "fake")
    pd.testing.assert_frame_equal(record.history, every)
    (tmp_path / "parts" / "history" / f"{large.cohorts[0].key}.parquet").write_bytes(b"nonsense")
    lines = Lab().run(tmp_path, large)  # all of the cohort is trained again
    assert "w2-b16-e3.parquet is damaged and was set aside as w2-b16-e3.parquet.damaged; cohort" in lines[0]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "history.parquet"), every, check_exact=True)


def test_networks_that_are_gone_stop_what_needs_them_and_nothing_else(pickled, tmp_path):
    Lab().run(tmp_path / "pairs", plan(), keep="metrics_only")
    with pytest.raises(UserError, match=r"8 networks of .* to compare added networks with them \(similarity, conn"):
        Lab().run(tmp_path / "pairs", plan(3))
    wider = plan(width=(2, 4, 8), learning_rate=(0.1, 0.2, 0.05))  # new configurations need no old networks
    lab = Lab()
    lab.run(tmp_path / "pairs", wider, keep="metrics_only")
    assert len(lab.trained) == 18 - 8
    Lab().run(tmp_path / "fresh", wider)
    assert_same_tables(tmp_path / "pairs", tmp_path / "fresh")
    assert not list((tmp_path / "pairs/checkpoints").iterdir())

    alone = plan(metrics=METRICS[:1])
    Lab().run(tmp_path / "alone", alone, keep="metrics_only")
    with pytest.raises(
        UserError, match=r"8 networks of .* needed to measure sharpness, and are not kept \(first: of c"
    ):
        Lab().run(tmp_path / "alone", dataclasses.replace(alone, metrics=METRICS[:2]))
    lab = Lab()
    lab.run(tmp_path / "alone", dataclasses.replace(alone, num_seeds=3))
    assert len(lab.trained) == len(lab.measured) == 4
    # What the extension kept is there, what the run before did not keep is not.
    assert sorted(path.name for path in (tmp_path / "alone/checkpoints").iterdir()) == ["w2-b16-e3+1", "w4-b16-e3+1"]

    first = plan(metrics=("connectivity",), pairs="first")
    Lab().run(tmp_path / "first", first, keep="metrics_only")
    lab = Lab()
    lab.run(tmp_path / "first", dataclasses.replace(first, num_seeds=4))  # the first pair stays the first
    assert (len(lab.trained), lab.measured) == (8, [])


def test_networks_of_a_kept_run_stay_when_the_extension_keeps_none(pickled, tmp_path):
    Lab().run(tmp_path, plan())
    Lab().run(tmp_path, plan(3), keep="metrics_only")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["w2-b16-e3", "w4-b16-e3"]


def test_networks_load_from_an_extended_run_and_from_one_that_is_being_extended(tmp_path, monkeypatch):
    from mdtree_jax.store.checkpoint import load_network, load_population, save_population

    small, large = plan(learning_rate=(0.1, 0.2)), plan(3, learning_rate=(0.05, 0.2, 0.1))
    Lab().run(tmp_path, small)
    for path in (
        tmp_path / "checkpoints"
    ).iterdir():  # as before grids could be extended: they don't say of which they are
        save_population(path, *load_population(path))
    make_earlier(tmp_path)

    def check(wanted):
        for cohort in wanted.cohorts:
            for member in cohort.members:
                chosen = {"seed": member.seed, "width": cohort.width, "learning_rate": member.learning_rate}
                network, row = load_network(tmp_path, **chosen)
                assert network["params"]["w"][0] == numbers(cohort, member)[0] == row["train_error"]

    check(small)
    lab = Lab()
    lab.train = lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt)
    before = (tmp_path / "members.parquet").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        lab.run(tmp_path, large)
    check(small)
    (tmp_path / "members.parquet").write_bytes(before)  # as if killed before the tables were written anew
    check(small)
    Lab().run(tmp_path, large)
    check(large)


def test_an_addition_is_executed_as_its_cohort_was_unless_it_is_larger(pickled, tmp_path):
    def executors(wanted, choice):
        Lab().run(tmp_path / "run", wanted, choose=lambda _, cohort: {"for": len(cohort.members), "chosen": choice})
        return json.loads((tmp_path / "run/cohorts/w2-b16-e3.json").read_text())["executors"]

    first, last = {"for": 4, "chosen": 1}, {"for": 18, "chosen": 3}
    assert executors(plan(width=(2,)), 1) == {"w2-b16-e3": first}
    found = executors(plan(4, width=(2,)), 2)  # four of eight
    assert found == {"w2-b16-e3": first, "w2-b16-e3+1": first}
    found = executors(plan(9, width=(2,)), 3)  # ten of eighteen: as a fresh run of all would be
    assert found == {"w2-b16-e3": first, "w2-b16-e3+1": first, "w2-b16-e3+2": last}
    # The record knows both, and that this machine would not repeat the last bits with one.
    record = write_record(tmp_path / "run", tmp_path, "grown")
    assert record.executors("w2-b16-e3") == [first, last]
    assert record.about["compile_seconds"] == 3 * 0.5 + 3 * 0.5
    found = verify.compare(record, record.networks, record.pairs, SESSION)
    assert found.metrics["expected"].sum() == 0
    assert found.passed
    assert "executor of what was added to a cohort later" in verify.verdict(found)


def test_a_run_whose_extension_is_not_finished_is_no_record(pickled, tmp_path):
    Lab().run(tmp_path / "run", plan())
    Lab().run(tmp_path / "run", plan(3), stages=("train",))
    with pytest.raises(UserError, match="2 of 2 cohorts are not measured; finish the sweep first"):
        write_record(tmp_path / "run", tmp_path, "grown")


def test_extended_runs_move_between_folders_and_only_when_they_are_extended(pickled, tmp_path):
    small, large = plan(), plan(width=(8, 2, 4))
    Lab().run(tmp_path / "steps", small)

    def folder_of(wanted, path):
        return RunFolder(path, wanted.config, {c.key: [(m.index, m.seed) for m in c.members] for c in wanted.cohorts})

    with folder_of(large, tmp_path / "steps") as folder:
        for move in (export_parts, import_parts):
            with pytest.raises(UserError, match=r"is of a smaller grid \(width .*\), and .*port_"):
                move(folder, [tmp_path / "parts"] if move is import_parts else tmp_path / "parts")
    Lab().run(tmp_path / "steps", large)
    with folder_of(large, tmp_path / "steps") as folder:
        assert export_parts(folder, tmp_path / "parts") == 3
    with folder_of(large, tmp_path / "moved") as folder:
        assert import_parts(folder, [tmp_path / "parts"]) == (3, 0)
        folder.write_tables()
    assert_same_tables(tmp_path / "moved", tmp_path / "steps")


def test_trained_first_and_measured_later(pickled, tmp_path):
    Lab().run(tmp_path / "steps", plan())
    large, lab = plan(3, width=(2, 4, 8)), Lab()
    lab.run(tmp_path / "steps", large, stages=("train",))
    members = pd.read_parquet(tmp_path / "steps/members.parquet")
    assert len(members) == 18
    assert members["hessian_trace"].notna().sum() == 8
    lab.run(tmp_path / "steps", large, stages=("measure",))
    assert len(lab.trained) == 10
    Lab().run(tmp_path / "fresh", large)
    assert_same_tables(tmp_path / "steps", tmp_path / "fresh")
