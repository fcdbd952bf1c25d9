"""The loop over cohorts with measuring: stages, resume, kept networks, parts that move; nothing is measured."""

import io
import shutil

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mdtree_jax.checks import StaleState, UserError
from mdtree_jax.runs.monitor import Monitor
from mdtree_jax.runs.run import run_sweep
from mdtree_jax.store.exchange import export_parts, import_parts
from tests.fake_training import COHORTS, RECIPE, measure, measurer, run_folder, train, trainer


def sweep(path, trainer=None, measurer=None, keep="all"):
    with run_folder(path) as folder:
        folder.begin_session({"started": path.name})
        monitor = Monitor(Console(file=io.StringIO(), width=200), {c.key: 1.0 for c in COHORTS}, 0)
        with monitor:
            return run_sweep(RECIPE, COHORTS, None, folder, trainer, monitor, measurer=measurer, keep=keep)


def tables(path):
    names = ("members", "pairs", "layers", "collection")
    return [pd.read_parquet(path / f"{name}.parquet").drop(columns="train_seconds", errors="ignore") for name in names]


def assert_same_tables(left, right):
    for one, other in zip(tables(left), tables(right), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_stages_together_and_one_after_the_other_give_the_same_tables(tmp_path):
    summary = sweep(tmp_path / "together", trainer(), measurer())
    assert (summary.num_trained_cohorts, summary.num_measured_cohorts) == (4, 4)
    sweep(tmp_path / "apart", trainer())
    assert "hessian_trace" not in pd.read_parquet(tmp_path / "apart/members.parquet")
    summary = sweep(tmp_path / "apart", None, measurer())
    assert (summary.num_trained_cohorts, summary.num_measured_cohorts) == (0, 4)
    assert_same_tables(tmp_path / "together", tmp_path / "apart")
    summary = sweep(tmp_path / "together", trainer(), measurer())
    assert (summary.num_trained_cohorts, summary.num_measured_cohorts) == (0, 0)


def test_the_collection_holds_means_logarithms_and_standard_errors(tmp_path):
    sweep(tmp_path, trainer(), measurer())
    collection, members = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("collection", "members"))
    first = members[members["configuration"] == 0]["hessian_trace"]
    assert collection["hessian_trace"][0] == pytest.approx(first.mean(), rel=1e-12)
    assert collection["log_hessian_trace"][0] == pytest.approx(np.log(first.mean()), rel=1e-12)
    error = first.std(ddof=1) / np.sqrt(3) / first.mean()
    assert collection["log_hessian_trace_se"][0] == pytest.approx(error, rel=1e-12)
    # All pairs of three networks: leaving one out leaves the pair of the two others.
    left = np.exp([-3.0, -2.0, -1.0])
    assert collection["cka"][0] == pytest.approx(left.mean(), rel=1e-12)
    jackknife = np.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum())
    np.testing.assert_allclose(collection["cka_se"], jackknife, rtol=1e-12)
    assert (collection["a_seconds"] == 1.0).all()
    assert "a_seconds_se" not in collection


def test_killed_while_measuring_nothing_is_trained_or_measured_twice(tmp_path):
    sweep(tmp_path / "whole", trainer(), measurer())
    done = []

    def dying(recipe, cohort, *arguments, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(cohort.key)
        return measure(recipe, cohort, *arguments, **options)

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "killed", trainer(), measurer(dying), keep="metrics_only")
    # The networks of the cohort that was being measured are still there, the others' are gone.
    assert [path.name for path in (tmp_path / "killed/checkpoints").iterdir()] == [COHORTS[2].key]
    # As if killed between the tables of a cohort and the end of its networks.
    shutil.copytree(tmp_path / "killed/checkpoints" / COHORTS[2].key, tmp_path / "killed/checkpoints" / COHORTS[1].key)
    done.append("so that it works now")

    def training(recipe, cohort, *arguments, **options):
        assert cohort.key == COHORTS[3].key
        return train(recipe, cohort, *arguments, **options)

    sweep(tmp_path / "killed", trainer(training), measurer(dying), keep="metrics_only")
    assert done == [COHORTS[0].key, COHORTS[1].key, "so that it works now", COHORTS[2].key, COHORTS[3].key]
    assert not any((tmp_path / "killed/checkpoints").iterdir())
    assert_same_tables(tmp_path / "killed", tmp_path / "whole")


def test_networks_that_were_kept_stay(tmp_path):
    sweep(tmp_path, trainer(), measurer())
    sweep(tmp_path, trainer(), measurer(), keep="metrics_only")
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(COHORTS)


def test_what_was_begun_is_resumed_and_forgotten_with_other_settings(tmp_path):
    seen = []

    def saving(recipe, cohort, *arguments, checkpoint, resume, **options):
        seen.append(None if resume is None else {name: array.tolist() for name, array in resume.items()})
        checkpoint({"hessian/num_done": np.asarray(7)})
        raise KeyboardInterrupt

    sweep(tmp_path, trainer())
    for config in ({"seed": 0}, {"seed": 0}, {"seed": 1}):
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path, None, measurer(saving, config))
    assert seen == [None, {"hessian/num_done": 7}, None]


def test_what_was_decided_is_there_before_it_runs_and_is_taken_again(tmp_path):
    seen = []

    def dying(*arguments, recorded, record, **options):
        seen.append(recorded)
        record({"choices": {"lanes": 7}})
        raise KeyboardInterrupt

    sweep(tmp_path, trainer())
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path, None, measurer(dying))
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, None, measurer(dying, {"metrics": ["hessian"], "seed": 1}))
    assert seen == [None, {"choices": {"lanes": 7}}, None]


def test_a_state_of_another_version_is_begun_again(tmp_path):
    resumed = []

    def saving(*arguments, checkpoint, resume, **options):
        resumed.append(resume)
        if len(resumed) == 1:
            checkpoint({"a": np.asarray(1)})
            raise KeyboardInterrupt
        if resume is not None:
            raise StaleState("not of this version")
        return measure(*arguments, checkpoint=checkpoint, resume=resume, **options)

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, trainer(), measurer(saving))
    sweep(tmp_path, trainer(), measurer(saving))
    assert [r is None for r in resumed] == [True, False, True, True, True, True]


def test_measurements_go_with_the_networks_that_they_are_of(tmp_path):
    """A cohort that was trained here keeps its networks, and takes measurements of the same ones only."""

    def otherwise(*arguments, **options):
        found = train(*arguments, **options)
        found.train_loss = found.train_loss + 1
        return found

    for name, training in (("same", train), ("other", otherwise)):
        sweep(tmp_path / f"{name}-here", trainer(training))
        sweep(tmp_path / "there", trainer(), measurer(), keep="metrics_only")
        with run_folder(tmp_path / f"{name}-here") as folder:
            assert import_parts(folder, [tmp_path / "there"]) == ((4, 0) if name == "same" else (0, 4))
            assert len(folder.measured) == (4 if name == "same" else 0)
            assert len(list((folder.path / "checkpoints").iterdir())) == 4
        sweep(tmp_path / f"{name}-here", None, measurer())


def test_a_diverged_network_has_no_metrics_and_no_pairs(tmp_path):
    def diverging(*arguments, **options):
        return train(*arguments, **options, diverged={(0, 1), (1, 0), (1, 1), (1, 2)})

    sweep(tmp_path, trainer(diverging), measurer())
    members, pairs, layers, collection = tables(tmp_path)
    assert members["hessian_trace"].isna().sum() == 4
    assert pairs.groupby("configuration").size().reindex(range(3), fill_value=0).tolist() == [1, 0, 3]
    assert len(layers) == len(members) - 4
    assert collection["num_finite"].tolist()[:3] == [2, 0, 3]
    assert collection[["hessian_trace", "cka"]].isna().any(axis=1).tolist()[:3] == [False, True, False]
    assert collection["cka_se"].isna().tolist()[:3] == [True, True, False]


def test_parts_move_between_folders_with_their_measurements(tmp_path):
    sweep(tmp_path / "here", trainer(), measurer())
    sweep(tmp_path / "there")
    with run_folder(tmp_path / "here") as folder:
        assert export_parts(folder, tmp_path / "parts") == 4
    for source in (tmp_path / "parts", tmp_path / "here"):
        with run_folder(tmp_path / f"from-{source.name}") as folder:
            assert import_parts(folder, [source]) == (4, 0)
            assert import_parts(folder, [source]) == (0, 4)
            folder.write_tables()
        assert_same_tables(tmp_path / f"from-{source.name}", tmp_path / "here")
    with pytest.raises(UserError, match="seed is 0 there, 1 here"):
        sweep(tmp_path / "from-parts", None, measurer(config={"metrics": ["hessian"], "seed": 1}))
    (tmp_path / "parts/parts" / f"{COHORTS[1].key}.parquet").unlink()
    with (
        pytest.raises(UserError, match=f"{COHORTS[1].key}.parquet is missing; nothing was imported"),
        run_folder(tmp_path / "x") as folder,
    ):
        import_parts(folder, [tmp_path / "parts"])


def test_networks_that_are_gone_are_named_before_anything_runs(tmp_path):
    sweep(tmp_path, trainer(), keep="metrics_only")
    with pytest.raises(UserError, match=rf"4 trained cohorts .* networks are gone \(first: {COHORTS[0].key}\)"):
        sweep(tmp_path, trainer(), measurer())


def test_a_setting_that_came_later_is_said_with_the_value_of_the_run(tmp_path):
    sweep(tmp_path, trainer(), measurer())
    config, earlier = {"metrics": ["hessian"], "seed": 0}, {"start": "random"}
    later = measurer(config=config | {"start": "trace"})._replace(earlier=earlier)
    with pytest.raises(UserError, match="start is random there, trace here"):
        sweep(tmp_path, None, later)
    sweep(tmp_path, None, measurer(config=config | {"start": "random"})._replace(earlier=earlier))
