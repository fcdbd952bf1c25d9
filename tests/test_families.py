"""The families: their grids are what the table says, and what drives and describes them works on small ones."""

import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.cli import compose
from mdtree_jax.recipe.axes import configurations, make_cohorts
from mdtree_jax.recipe.schema import make_grid
from mdtree_jax.registry.datasets import DATASETS
from sweeps import families, family_note, paired
from sweeps.families import FAMILIES, REPORT

PROBED = ("digits_probed", "digits_noisy_probed")


def grid_of(name):
    return compose("sweep", [f"+grid={name}"]).grid


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_grid_agrees_with_the_table_and_is_a_factorial(family):
    grid = grid_of(family.name)
    assert (grid.name, grid.model, grid.dataset) == (family.name, family.model, family.dataset)
    axes = make_grid(grid).axes
    wanted = {"optimizer": family.optimizer, "schedule": family.schedule, "objective": "cross_entropy"}
    for name, value in (wanted | family.extras).items():
        assert (axes[name] if name in axes else (getattr(grid, name),)) == (value,), name
    for name, default in (("label_noise_fraction", 0.0), ("label_smoothing", 0.0), ("augment", False)):
        if name not in family.extras:
            assert (axes[name] if name in axes else (getattr(grid, name),)) == (default,), name
    ratios = {name: set(np.round(np.divide(v[1:], v[:-1]), 1)) for name, v in axes.items() if name in family_note.AXES}
    assert ratios["width"] == ratios["batch_size"] == ratios["data_fraction"] == {2.0}
    assert ratios["train_epochs"] == {4.0}
    assert ratios["learning_rate"] <= {3.0, 3.3}
    assert (grid.num_seeds, grid.early_stop, grid.validation_fraction) == (2, False, 0.5)
    assert 120 <= len(configurations(make_grid(grid), DATASETS[family.dataset].shape.num_train)) <= 160


def test_the_families_cover_what_they_are_to():
    assert len(FAMILIES) >= 12
    assert len(REPORT) == 4
    others = [family for family in FAMILIES if not family.is_report]
    report = [family for family in FAMILIES if family.is_report]
    assert len({family.dataset for family in others}) >= 6
    for chosen in (others, FAMILIES):
        models = " ".join(family.model for family in chosen)
        assert all(part in models for part in ("mlp", "cnn ", "cnn_gn", "resnet", "vit", "char_transformer"))
        assert {"sgd", "adam", "adamw", "lion", "muon"} <= {family.optimizer for family in chosen}
        assert {"constant", "cosine", "warmup_cosine", "step"} <= {family.schedule for family in chosen}
        extras = set().union(*(family.extras for family in chosen))
        assert {"label_noise_fraction", "label_smoothing", "augment", "objective", "weight_decay"} <= extras
    kinds = " ".join(family.model for family in report)
    assert "cnn_bn" in kinds
    assert "vit" in kinds
    assert any(family.extras.get("objective") == "regression" for family in report)
    assert {family.dataset for family in report} - {family.dataset for family in others}
    with pytest.raises(UserError, match="unknown family 'digits_vitt'"):
        families.named(["digits_vitt"])


@pytest.mark.parametrize("name", PROBED)
def test_the_digits_grids_are_parts_of_those_that_are_recorded(name):
    whole, part = make_grid(grid_of(name.removesuffix("_probed"))), make_grid(grid_of(name))
    assert all(set(part.axes[axis]) <= set(whole.axes[axis]) for axis in part.axes)
    assert part.num_configurations == 7 * 7 * 5
    assert (part.seeds, part.used) == (whole.seeds, whole.used)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_move_changes_one_knob_and_keeps_the_numbers_of_the_grid(family):
    plain = make_grid(grid_of(family.name))
    number = DATASETS[family.dataset].shape.num_train
    members = {(m.index, m.seed, m.num_samples) for c in make_cohorts(plain, number) for m in c.members}
    found = paired.moves(grid_of(family.name))
    assert {"decay_up", "decay_down", "schedule"} <= set(found)
    assert any(name.startswith("augment") for name in found) == (len(DATASETS[family.dataset].shape.image_shape) == 3)
    assert any(name.startswith("smoothing") for name in found) == (family.extras.get("objective") != "regression")
    for name, settings in found.items():
        moved = make_grid(compose("sweep", [f"+grid={family.name}", *settings]).grid)
        changed = [axis for axis in plain.axes if plain.axes[axis] != moved.axes[axis]]
        assert len(changed) == 1, name
        cohorts = make_cohorts(moved, number)
        assert {(m.index, m.seed, m.num_samples) for c in cohorts for m in c.members} == members


@pytest.mark.slow
def test_networks_of_a_move_are_those_of_the_grid_where_nothing_is_moved(tmp_path, monkeypatch):
    """A move that is none gives the networks of the sweep; the drawn configurations are the same for every move."""
    small = ["grid.width=[3]", "grid.batch_size=[32]", "grid.data_fraction=[0.1]", "grid.train_epochs=[2]"]
    monkeypatch.setattr(paired, "NUMBER", 2)
    drawn = [paired.run_move("teacher_tanh", move, [*small, *settings], tmp_path) for move, settings in MOVES.items()]
    again = paired.run_move("teacher_tanh", "none", small, tmp_path)  # finished, so only read
    command = [sys.executable, "-m", "mdtree_jax.sweep", "+grid=teacher_tanh", *small, "stages=[train]"]
    subprocess.run([*command, f"out={tmp_path / 'grid'}"], check=True, capture_output=True)
    whole = pd.read_parquet(tmp_path / "grid" / "members.parquet").set_index(["configuration", "seed"])
    none, decayed = (frame.set_index(["configuration", "seed"]) for frame in drawn)
    assert len(none) == 4
    assert (again.set_index(["configuration", "seed"])["train_seconds"] == none["train_seconds"]).all()
    assert list(decayed.index) == list(none.index)
    np.testing.assert_allclose(none["test_loss"], whole.loc[none.index, "test_loss"], rtol=1e-4)
    assert (decayed["test_loss"] != none["test_loss"]).all()


MOVES = {"none": [], "decay_up": ["grid.weight_decay=[0.1]"]}


def test_gains_are_differences_of_neighbours():
    values = {"width": [4, 8], "batch_size": [16], "data_fraction": [0.5, 1.0], "learning_rate": [0.1, 0.3, 0.9]}
    rows = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    frame = pd.DataFrame(rows).assign(train_epochs=10)
    # Best at the middle rate; 3 points for twice the width, 1 for twice the data.
    frame["test_error"] = 20 - 3 * (frame.width == 8) - (frame.data_fraction == 1) + 5 * (frame.learning_rate != 0.3)
    errors = family_note.errors_by_axes(frame.sample(frac=1, random_state=0))
    gains = family_note.gains(errors)
    assert np.unique(gains["wider"][np.isfinite(gains["wider"])]).tolist() == [3]
    assert np.isfinite(gains["wider"]).sum() == 6
    assert np.unique(gains["more data"][np.isfinite(gains["more data"])]).tolist() == [1]
    assert gains["higher rate"][0, 0, 0, :2, 0].tolist() == [5, -5]
    assert gains["lower rate"][0, 0, 0, 1:, 0].tolist() == [-5, 5]
    assert np.isnan(gains["longer"]).all()
    assert family_note.share_inside(errors) == 1
    with pytest.raises(ValueError, match="no complete grid"):
        family_note.errors_by_axes(frame.iloc[1:])


def test_the_driver_stops_when_its_time_is_over_and_goes_on(tmp_path, monkeypatch):
    calls, done = [], set()
    monkeypatch.setattr(families, "record_names", lambda: sorted(done))
    monkeypatch.setattr(families, "planned_seconds", lambda name, out: 60.0)
    monkeypatch.setattr(families, "record", lambda name, out: done.add(name))
    monkeypatch.setattr(families, "run_grid", lambda name, out, stop: calls.append(name) is None and len(calls) != 2)
    three = FAMILIES[:3]
    assert not families.run_grids(three, tmp_path, 1.0)
    assert calls == [three[0].name, three[1].name]
    assert families.run_grids(three, tmp_path, None)
    assert calls[2:] == [three[1].name, three[2].name]


def test_a_grid_that_runs_out_of_time_is_ended_and_one_that_fails_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="the sweep of 'digits_vit' ended with exit code 1"):
        families.run_grid("digits_vit", tmp_path, None)
    script = tmp_path / "sleeps"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert not families.run_grid("digits_vit", tmp_path, 0.0)
