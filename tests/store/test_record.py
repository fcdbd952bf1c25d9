"""Records of sweeps: compact without loss, checked by training again; the labels' stability."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import UserError, files, load_collection, sweep
from mdtree_jax.cli import run
from mdtree_jax.collection.grid import compute_labels, make_grid
from mdtree_jax.collection.label_stability import label_agreement, label_stability
from mdtree_jax.files import record_names, records_folder
from mdtree_jax.provenance import describe_session
from mdtree_jax.runs import verify
from mdtree_jax.runs.monitor import Monitor
from mdtree_jax.runs.run import run_sweep
from mdtree_jax.store.record import read_record, record_path, write_record
from mdtree_jax.store.tables import collect
from tests import fake_training as fake

CONFIG = fake.CONFIG | {"batch_size": [16, 32], "data_fraction": [0.3, 1.0], "weight_decay": [5e-4]}
CONFIG |= {"train_epochs": [3]}
SESSION = describe_session(["cpu"])


def finished_run(path, cohorts=fake.COHORTS):
    from rich.console import Console

    with fake.run_folder(path, CONFIG) as folder:
        folder.begin_session(SESSION)
        monitor = Monitor(Console(quiet=True), {cohort.key: 1.0 for cohort in cohorts})
        with monitor:
            run_sweep(fake.RECIPE, cohorts, None, folder, fake.trainer(), monitor, measurer=fake.measurer())
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    return write_record(finished_run(folder / "run"), folder, "fake"), folder


def test_a_record_holds_what_the_run_measured(recorded):
    record, folder = recorded
    for table, name in {"networks": "members", "pairs": "pairs"}.items():
        there = pd.read_parquet(folder / "run" / f"{name}.parquet")
        exact = [c for c in there if not c.endswith(("_seconds", "_flops", "_se"))]
        pd.testing.assert_frame_equal(getattr(record, table)[exact], there[exact])
    pd.testing.assert_frame_equal(record.collection, collect(record.networks, record.pairs), rtol=1e-6)
    assert record.about["config"] == CONFIG
    assert record.about["sessions"][0]["hardware"] == SESSION["hardware"]
    assert {record.executor(c.key)["name"] for c in fake.COHORTS} == {"map"}
    assert record.executor("w9-b9-e9") is None
    labelled = load_collection(record.collection[record.collection["learning_rate"] == 0.05])
    assert len(labelled) == 8


def test_an_unfinished_run_is_no_record(tmp_path, recorded):
    run_path = finished_run(tmp_path / "run", fake.COHORTS[:1])
    with pytest.raises(UserError, match="holds 12 of the 48 networks of its grid; finish the sweep first"):
        write_record(run_path, tmp_path, "fake")
    with pytest.raises(UserError, match="is not a run folder"):
        write_record(tmp_path, tmp_path, "fake")
    assert not list(tmp_path.glob("*.parquet"))
    (run_path / "pairs.parquet").unlink()
    with pytest.raises(UserError, match="finish the sweep first"):
        write_record(run_path, tmp_path, "fake")
    record_path("fake", "pairs", tmp_path).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        read_record("fake", tmp_path)


def rerun(record, number=6, seed=1):
    """Return what training a sample again gives, bit for bit."""
    chosen = verify.sample_cohorts(fake.COHORTS, number, seed)
    wanted = {member.index for cohort in chosen for member in cohort.members}
    assert len(wanted) == number
    return tuple(t[t["configuration"].isin(wanted)].reset_index(drop=True) for t in (record.networks, record.pairs))


def another_kind():
    return SESSION | {"hardware": SESSION["hardware"] | {"cpu": "another"}}


def test_identical_numbers_reproduce_a_record(recorded):
    record, _ = recorded
    found = verify.compare(record, *rerun(record), SESSION)
    assert found.passed
    assert found.same_kind
    assert found.share_identical == found.share_within == 1.0
    assert {"test_error", "hessian_trace", "cka"} <= set(found.metrics["metric"])
    assert "reproduced: 100.00 % of the values are identical" in verify.verdict(found)


def test_processors_of_one_name_with_other_instructions_are_of_another_kind(recorded):
    record, _ = recorded
    assert SESSION["hardware"]["instructions"] in ("avx512f", "avx2", "avx", "sve", "asimd", None)
    assert "generation" in SESSION["hardware"]
    for name in ("instructions", "generation"):
        other = SESSION | {"hardware": SESSION["hardware"] | {name: "avx9"}}
        found = verify.compare(record, *rerun(record), other)
        assert not found.same_kind
        assert f"{name} " in found.differs
    old = {name: value for name, value in SESSION["hardware"].items() if name != "instructions"}
    unknown = record._replace(
        about=record.about | {"sessions": [s | {"hardware": old} for s in record.about["sessions"]]}
    )
    assert "instructions not recorded there" in verify.compare(unknown, *rerun(record), SESSION).differs


def test_the_last_bit_counts_on_the_same_kind_of_machine_only(recorded):
    record, _ = recorded
    networks, pairs = rerun(record)
    networks.loc[3, "train_loss"] = np.nextafter(networks.loc[3, "train_loss"], 9)
    same, other = (verify.compare(record, networks, pairs, s) for s in (SESSION, another_kind()))
    assert not same.passed
    assert same.share_within == 1.0
    assert other.passed
    assert not other.same_kind
    assert "cpu" in other.differs


def test_elsewhere_most_means_must_be_near(recorded):
    record, _ = recorded
    networks, pairs = rerun(record)
    error = networks.groupby("configuration")["train_loss"].transform("sem")
    near, far = (
        networks.assign(train_loss=networks["train_loss"] + 4 * error),
        networks.assign(train_loss=networks["train_loss"] + 5 * error),
    )
    # Both means have the same standard error, so the joint one is √2 times it: 4 are within three of these, 5 not.
    assert verify.compare(record, near, pairs, another_kind()).share_within == 1.0
    found = verify.compare(record, far, pairs, another_kind())
    assert not found.passed
    assert found.metrics.set_index("metric").loc["train_loss", "within"] == 0
    assert "NOT reproduced" in verify.verdict(found)
    # A metric that is gone is not near.
    assert verify.compare(record, networks.assign(train_loss=np.nan), pairs, another_kind()).share_within < 0.95


def test_the_last_bit_counts_where_this_kind_of_machine_made_the_cohort(recorded):
    record, _ = recorded
    networks, pairs = rerun(record, 16)
    one, *others = [cohort.key for cohort in fake.COHORTS]
    sessions = [SESSION | {"cohorts": [one]}, another_kind() | {"cohorts": others}]
    mixed = record._replace(about=record.about | {"sessions": sessions})
    for cohort, passes in ((one, False), (others[0], True)):
        row = int(np.flatnonzero(networks["cohort"] == cohort)[0])
        changed = networks.copy()
        changed.loc[row, "train_loss"] = np.nextafter(changed.loc[row, "train_loss"], 9)
        found = verify.compare(mixed, changed, pairs, SESSION)
        assert found.passed == passes
        assert not found.same_kind


def test_values_that_are_no_numbers_compare_too():
    curve = np.array([1.0, np.nan])
    pairs = [(None, None), (np.nan, None), (curve, curve.copy()), ("ok", "ok"), (2.0, 2.0), (np.nan, np.nan)]
    assert all(verify._is_same(a, b) for a, b in pairs)
    assert not any(verify._is_same(a, b) for a, b in ((None, curve), ("ok", "diverged"), (1.0, np.nan), (1.0, 2.0)))


@pytest.mark.parametrize(("number", "allowed"), [(0, False), (16, True), (17, False)])
def test_the_sample_is_as_large_as_asked(number, allowed):
    if not allowed:
        with pytest.raises(UserError, match=f"verify={number} is out of range; it must be 1 to 16 configurations"):
            verify.sample_cohorts(fake.COHORTS, number, 0)
        return
    assert verify.sample_cohorts(fake.COHORTS, number, 0) == fake.COHORTS


SMALL = ["+grid=digits_tiny", "grid.name=small", "grid.model=mlp", "grid.width=[4]", "grid.batch_size=[32]"]
SMALL += ["grid.data_fraction=[0.1,0.3]", "grid.train_epochs=[2]", "grid.measure.metrics=[hessian,similarity]"]
SMALL += ["grid.measure.effort=fast", "grid.measure.hessian_images=64"]


@pytest.mark.usefixtures("quickly_compiled")
def test_the_command_trains_again_and_says_by_its_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("sweep", "", sweep.main, [*SMALL, "out=run"]) == 0
    record = write_record("run", tmp_path, "small")
    for module in ("mdtree_jax.store.record", "mdtree_jax.files"):
        monkeypatch.setattr(f"{module}.records_folder", lambda: tmp_path)
    assert run("sweep", "", sweep.main, [*SMALL, "verify=2"]) == 0
    assert "reproduced: 100.00 % of the values are identical" in capsys.readouterr().out
    # Another record, and the sample that was trained already is compared with it.
    changed = record.networks.assign(train_loss=record.networks["train_loss"] + 1e-3)
    changed.to_parquet(record_path("small", "networks", tmp_path))
    assert run("sweep", "", sweep.main, [*SMALL, "verify=2"]) == sweep.EXIT_NOT_REPRODUCED == 4
    assert run("sweep", "", sweep.main, [*SMALL, "verify=2", "grid.momentum=0.5"]) == 2
    assert "momentum is 0.9 there, 0.5 here" in capsys.readouterr().err
    assert run("sweep", "", sweep.main, [*SMALL, "verify=2", "stages=[train]"]) == 2
    assert run("sweep", "", sweep.main, ["+grid=cifar", "verify=2", "grid.name=other"]) == 2
    assert "unknown record 'other'; available: small" in capsys.readouterr().err


@pytest.mark.parametrize("name", record_names())
def test_what_ships_is_whole(name):
    record = read_record(name)
    is_family = record.history is not None
    assert len(record.collection) == (144 if is_family else 1690)
    assert (record.collection["num_finite"] >= 1).all()
    again = collect(record.networks, record.pairs)
    for younger in () if is_family else ("num_not_measurable", "num_not_converged"):  # than the records
        assert (again.pop(younger) == 0).all()
    pd.testing.assert_frame_equal(record.collection, again, rtol=1e-4 if is_family else 1e-5, atol=1e-6)
    config = sweep_config(name)
    assert record.about["config"] | {"data_hash": None} == config | {"data_hash": None}
    assert (records_folder() / f"{name}.md").is_file()
    if is_family:  # networks that diverged have no metrics
        keys = record.networks[["configuration", "seed"]]
        assert set(map(tuple, record.history[["configuration", "seed"]].to_numpy())) == set(map(tuple, keys.to_numpy()))
        return
    loaded = load_collection(name)
    numbers = loaded[["log_hessian_trace", "cka", "mode_connectivity_peak", "train_error"]]
    assert np.isfinite(numbers.to_numpy()).all()
    assert loaded.attrs["notes"] == []


def sweep_config(name):
    from mdtree_jax.cli import compose
    from mdtree_jax.recipe.schema import resolved_config

    return resolved_config(compose("sweep", [f"+grid={name}"]).grid)


def test_all_records_together_are_small():
    assert sum(path.stat().st_size for path in files.records_folder().glob("*.parquet")) < 20e6


def networks_of(errors):
    """Return networks of a 1 x 2 x 1 grid of width, batch size and data with these test errors."""
    rows = [
        {"width": 2, "batch_size": batch, "data_fraction": 1.0, "test_error": error}
        for batch, values in errors.items()
        for error in values
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("inflate", [False, True])
def test_agreement_against_every_draw_there_is(inflate):
    errors = {16: [10.0, 16.0], 32: [16.3, 16.5]}
    found = label_agreement(networks_of(errors), draws=400, inflate=inflate)
    means = {batch: np.mean(values) for batch, values in errors.items()}
    label = compute_labels(make_grid(found.assign(test_error=list(means.values()))))["label_optimizer"]
    agree = np.zeros(2)
    draws = list(itertools.product(itertools.product(errors[16], repeat=2), itertools.product(errors[32], repeat=2)))
    for draw in draws:
        stretched = [
            means[batch] + (np.sqrt(2) if inflate else 1) * (np.mean(values) - means[batch])
            for batch, values in zip(errors, draw, strict=True)
        ]
        agree += compute_labels(make_grid(found.assign(test_error=stretched)))["label_optimizer"] == label
    assert np.asarray(agree) / len(draws) == pytest.approx(0.75 if inflate else 1.0)
    assert found["agreement_label_optimizer"].to_numpy() == pytest.approx(np.asarray(agree) / len(draws), abs=0.08)


def test_stability_counts_who_takes_part():
    clear = label_agreement(networks_of({16: [10.0, 10.1, 9.9], 32: [30.0, 30.2, np.nan]}))
    table = label_stability(clear).set_index("task")
    assert clear["label_optimizer"].tolist() == ["optimal", "temperature_too_low"]
    assert table.loc["optimizer"].tolist() == [1, 1.0, 1.0]
    assert table.loc["size", "models"] == 1
    with pytest.raises(UserError, match="needs two or more"):
        label_agreement(networks_of({16: [10.0], 32: [10.5]}))
    # One network left is as uncertain as the others, not free of noise.
    alone = label_agreement(networks_of({16: [10.0, np.nan], 32: [9.0, 12.0]}))
    assert alone["agreement_label_optimizer"].max() < 0.9
    with pytest.raises(UserError, match="configurations with only diverged networks"):
        label_agreement(networks_of({16: [10.0], 32: [np.nan]}))
