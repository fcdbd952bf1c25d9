"""Axes to configurations to cohorts; schemas; what a sweep will cost."""

import dataclasses
import re

import pandas as pd
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.recipe.axes import AXES, Grid, configurations, make_cohorts
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.recipe.schema import SweepConfig, grid_schema, make_grid, make_recipe
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.runs.plan import COHORT_SECONDS, Left, Machine, ModelCost, cohort_flops, cpu_machine, make_plan
from tests.conftest import ROOT


def test_every_combination_is_trained_once_with_each_seed():
    grid = Grid((2, 3), (8, 16), (0.1, 0.3, 1.0), (0.05, 0.1), (0.0, 5e-4), (5, 9), num_seeds=2, seed=7)
    points = configurations(grid, 1000)
    assert [p.index for p in points] == list(range(2 * 2 * 3 * 2 * 2 * 2)) == list(range(grid.num_configurations))
    seen = set()
    cohorts = make_cohorts(grid, 1000)
    for cohort in cohorts:
        for member in cohort.members:
            point = points[member.index]
            for axis in AXES:  # a member's configuration is what its index says, wherever the value is kept
                kept_by = member if hasattr(member, axis) else cohort
                assert getattr(kept_by, axis) == point.values[axis]
            assert member.num_samples == round(1000 * member.data_fraction)
            seen.add((*(point.values[axis] for axis in AXES), member.seed))
    assert len(seen) == 96 * 2 == sum(len(c.members) for c in cohorts)
    assert {m.seed for c in cohorts for m in c.members} == {7, 8}
    assert len({c.key for c in cohorts}) == len(cohorts) == 2 * 2 * 2


def test_further_knobs_are_axes_and_leave_no_trace_where_they_are_not_used():
    plain = Grid((2, 3), (8,), num_seeds=2)
    off = Grid((2, 3), (8,), num_seeds=2, label_smoothing=(0.0,), optimizer=("sgd",), augment=(False,), momentum=(0.9,))
    assert make_cohorts(off, 100) == make_cohorts(plain, 100)
    assert all(cohort.knobs == () == member.knobs for cohort in make_cohorts(off, 100) for member in cohort.members)
    grid = Grid((2, 3), (8,), label_smoothing=(0.0, 0.1), optimizer=("sgd", "adamw"), momentum=(0.99,), num_seeds=2)
    points, cohorts = configurations(grid, 100), make_cohorts(grid, 100)
    keys = ["w2-b8-e50-m0.99", "w2-b8-e50-oadamw-m0.99", "w3-b8-e50-m0.99", "w3-b8-e50-oadamw-m0.99"]
    assert [c.key for c in cohorts] == keys
    seen = set()
    for cohort in cohorts:
        assert cohort.batched == ("label_smoothing",)
        for member in cohort.members:
            values = points[member.index].values
            for name in KNOBS:
                kept_by = cohort if KNOBS[name].is_static else member
                assert kept_by.value(name) == values.get(name, KNOBS[name].default)
            seen.add((member.index, member.seed))
    assert seen == {(index, seed) for index in range(2 * 2 * 2) for seed in range(2)}


@pytest.mark.parametrize("values", [(16, 17), (1e6, 1e6 + 0.5), (0.1, 0.1 + 1e-9), (True, False), (10**6, 10**6 + 1)])
def test_different_values_have_different_names(values):
    first, second = (Cohort(8, 64, 50, (), (("momentum", value),)).key for value in values)
    assert first != second
    assert Cohort(8, 10**6, 50, ()).key == "w8-b1000000-e50"


def test_the_papers_grid():
    widths = (2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128)
    batches = (16, 24, 32, 44, 64, 92, 128, 180, 256, 364, 512, 724, 1024)
    cohorts = make_cohorts(Grid(widths, batches, tuple(i / 10 for i in range(1, 11)), num_seeds=5), 50_000)
    assert len(cohorts) == 169
    assert sum(len(c.members) for c in cohorts) == 8450
    assert sorted({m.num_samples for c in cohorts for m in c.members}) == [5000 * i for i in range(1, 11)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_fraction": (0.5, 0.0)}, r"data_fraction=0 is out of range; it must be in \(0, 1\]"),
        ({"data_fraction": (1.5,)}, r"data_fraction=1.5 is out of range"),
        ({"data_fraction": (float("nan"),)}, r"data_fraction=nan is out of range"),
        ({"width": ()}, "the axis width of the grid is empty"),
        ({"width": (2, 0)}, "width=0 is out of range; it must be at least 1"),
        ({"batch_size": (8, 8)}, r"the axis batch_size=\[8, 8\] contains a duplicate value"),
        ({"learning_rate": (-0.1,)}, "learning_rate=-0.1 is out of range; it must be above 0"),
        ({"weight_decay": (float("inf"),)}, "weight_decay=inf is out of range"),
        ({"train_epochs": (0,)}, "train_epochs=0 is out of range"),
        ({"label_smoothing": (0.0, 1.0)}, r"label_smoothing=1 is out of range; it must be in \[0, 1\)"),
        ({"optimizer": ("sgd", "adamm")}, "unknown optimizer 'adamm'"),
        ({"smoothing": (0.1,)}, r"unknown knob 'smoothing' \(did you mean 'label_smoothing'"),
        ({"num_seeds": 0}, "num_seeds=0 is too few"),
        ({"seed": -1}, "seed=-1 is out of range"),
    ],
)
def test_axes_out_of_range(change, message):
    with pytest.raises(UserError, match=message):
        Grid(**({"width": (2,), "batch_size": (8,)} | change))


def test_a_batch_larger_than_a_subset():
    grid = Grid((2,), (16, 33), (0.1, 1.0))
    with pytest.raises(
        UserError, match=r"batch_size=33 is larger than the subset of data_fraction=0.1, which has 32 of"
    ):
        make_cohorts(grid, 320)
    assert make_cohorts(Grid((2,), (16, 32), (0.1, 1.0)), 320)


def test_schemas_match_the_value_objects():
    made = grid_schema()
    config = made(name="mine", width=[2], batch_size=16, momentum=0.5, early_stop=False, num_seeds=4, seed=2)
    assert make_grid(config) == Grid((2,), (16,), momentum=(0.5,), num_seeds=4, seed=2)
    recipe = make_recipe(config, 10, (10, 10, 1))
    assert recipe == Recipe("digits", "resnet8", 10, (10, 10, 1), early_stop=False)
    configured = {f.name for f in dataclasses.fields(made)}
    assert {f.name for f in dataclasses.fields(Recipe)} - configured == {
        *("num_classes", "image_shape", "input_kind", "target_shape", "target_kind")  # what the data are
    }
    assert set(KNOBS) <= configured
    defaults = {f.name: f.default for f in dataclasses.fields(Recipe) if f.default is not dataclasses.MISSING}
    defaults = {name: value for name, value in defaults.items() if name in configured}
    assert {name: getattr(made(), name) for name in defaults} == defaults
    assert SweepConfig().out == "runs/${grid.name}"


def test_plan_counts_by_hand():
    members = (Member(0, 0, 100, 0.5, 0.05, 0.0), Member(1, 0, 200, 1.0, 0.05, 0.0))
    cohorts = [Cohort(2, 32, 10, members), Cohort(8, 64, 10, members)]
    # 3 whole batches of 32 in 100 images, 6 in 200; a step is three passes; then the subset and 50 test images
    by_hand = 7.0 * (3 * 96 * 10 + 100 + 50 + 3 * 192 * 10 + 200 + 50)
    assert cohort_flops(cohorts[0], 7.0, num_test=50) == by_hand
    costs = {2: ModelCost(100, 480, 7.0, 5.0), 8: ModelCost(1600, 6800, 112.0, 20.0)}

    def cost(cohort):
        return costs[cohort.width]

    options = {"num_test": 50, "machine": Machine(2, 1e3, 0.5, 1e2, 1e1, 140.0)}
    plan = make_plan(cohorts, cost, keep_checkpoints=True, **options)
    assert plan["train_flops"][0] == by_hand
    assert plan["checkpoint_bytes"].tolist() == [960, 13600]
    assert plan["num_parameters"].tolist() == [100, 1600]
    assert not plan["finished"].any()
    # 32 images hold 160 bytes, 20 of them far; an evaluation is one step of 512 images: 2560 bytes, 2420 far
    step = 0.5 + 160 / 1e2 + 20 / 1e1 + 3 * 32 * 7.0 / 1e3
    evaluation = 4 * (0.5 + 2560 / 1e2 + 2420 / 1e1 + 3 * 512 * 7.0 / 1e3) / 3
    assert plan["estimated_seconds"][0] == pytest.approx(COHORT_SECONDS + (90 * step + evaluation) / 2)
    before = plan
    finished = pd.DataFrame({"cohort": "w2-b32-e10", "train_seconds": [60 * step, 30 * step]})  # twice the estimate
    done = {"finished": finished, "left": {"w2-b32-e10": Left(0.0)}}
    plan = make_plan(cohorts, cost, keep_checkpoints=False, **done, **options)
    assert plan["finished"].tolist() == [True, False]
    assert plan["estimated_seconds"][0] == 0.0  # nothing is left to do
    # The other cohort too is expected to take twice as long to train: 40 steps of 64 images, 1280 bytes, 1140 far.
    other = 0.5 + 1280 / 1e2 + 1140 / 1e1 + 3 * 64 * 112.0 / 1e3
    assert plan["estimated_seconds"][1] == pytest.approx(before["estimated_seconds"][1] + 40 * other / 2)
    assert plan["checkpoint_bytes"].sum() == 0
    # The same time for half of the members: four times the estimate, and half of it is left.
    done["left"]["w2-b32-e10"] = Left(0.5)
    plan = make_plan(cohorts, cost, keep_checkpoints=False, **done, **options)
    assert not plan["finished"].any()
    assert plan["estimated_seconds"][0] == pytest.approx(COHORT_SECONDS + (4 * 90 * step + evaluation) / 2 / 2)


@pytest.fixture(scope="module")
def digits():
    """The cohorts of the grid `digits` and the cost of a network by width, with the recorded machine's constants."""
    from mdtree_jax.cli import compose
    from mdtree_jax.data import dataset_shape
    from mdtree_jax.runs.jax_backend import model_cost

    # The grid of the recorded throughputs, from which the constants come: resnet8 of thirteen widths, 50 epochs.
    recorded = ["grid.model=resnet8", f"grid.width={list(range(1, 14))}".replace(" ", ""), "grid.train_epochs=[50]"]
    grid, shape = compose("sweep", ["+grid=digits", *recorded]).grid, dataset_shape("digits")
    recipe, cohorts = make_recipe(grid, 10, shape.image_shape), make_cohorts(make_grid(grid), shape.num_train)
    costs = {cohort.width: model_cost(recipe, cohort, grid.dtype) for cohort in cohorts if cohort.batch_size == 4}
    options = {"num_test": shape.num_test, "keep_checkpoints": True, "machine": cpu_machine(405e9 / 2, 2)}
    return cohorts, lambda cohort: costs[cohort.width], options


def recorded_throughput():
    """Return model x samples per second by width and batch size, as measured with `resnet8` on two cores."""
    text = (ROOT / "tests" / "benchmarks" / "results" / "training_throughput.md").read_text()
    rows = re.findall(r"^\| resnet8 w(\d+) \| (\d+) \| map 1 \| (\d+) \|", text, re.MULTILINE)
    return {(int(width), int(batch)): float(rate) for width, batch, rate in rows}


def test_estimated_time_of_the_digits_grid_is_the_measured_one(digits):
    cohorts, cost, options = digits
    rates = recorded_throughput()
    assert len(rates) == 20
    for (width, batch_size), rate in rates.items():
        ratio = options["machine"].step(cost(Cohort(width, batch_size, 1, ())), batch_size) / (2 * batch_size / rate)
        assert 0.75 < ratio < 1.6, (width, batch_size, ratio)
    plan = make_plan(cohorts, cost, **options)
    hours = (plan["estimated_seconds"].sum() - len(plan) * COHORT_SECONDS) / 3600
    assert 2.7 / 1.3 < hours < 2.7 * 1.3  # the whole grid without compilation, from the same table


def test_time_left_is_sane_from_the_first_cohort_on(digits):
    # The recorded sizes are the truth; a machine of half the speed works through them in the order of the grid.
    cohorts, cost, options = digits
    rates = recorded_throughput()
    cohorts = [cohort for cohort in cohorts if (cohort.width, cohort.batch_size) in rates]
    truth = {}
    for cohort in cohorts:
        images = sum(m.num_samples // cohort.batch_size for m in cohort.members) * cohort.batch_size * 50
        truth[cohort.key] = 2 * images / rates[cohort.width, cohort.batch_size]
    for number in range(1, len(cohorts) - 1):
        keys = [cohort.key for cohort in cohorts[:number]]
        finished = pd.DataFrame({"cohort": keys, "train_seconds": [truth[key] for key in keys]})
        done = {"finished": finished, "left": dict.fromkeys(keys, Left(0.0))}
        plan = make_plan(cohorts, cost, **done, **options).set_index("cohort")
        left = plan["estimated_seconds"].drop(keys)
        wanted = sum(truth.values()) - sum(truth[key] for key in keys)
        assert 1 / 1.35 < left.sum() / (wanted + COHORT_SECONDS * len(left)) < 1.35, number


def test_the_measured_rate_of_this_machine_is_plausible(monkeypatch):
    from mdtree_jax.runs import jax_backend as jax_side

    single = jax_side.this_machine("float32")
    assert 1e9 < single.flops_per_second < 1e13
    monkeypatch.setattr(jax_side, "_product_flops", lambda size: 1e11)
    assert jax_side.this_machine("float64").flops_per_second == jax_side.this_machine("float32").flops_per_second / 2


def test_free_memory_is_what_the_system_and_the_container_allow(tmp_path):
    from mdtree_jax.runs.jax_backend import available_host_bytes

    proc, control = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    (proc / "meminfo").write_text("MemTotal: 16000 kB\nMemFree: 100 kB\nMemAvailable: 8000 kB\n")
    assert available_host_bytes(proc, control) == 8000 * 1024
    control.mkdir()
    (control / "memory.current").write_text("3000000\n")
    (control / "memory.stat").write_text("anon 5\ninactive_file 1000000\n")
    for limit, expected in (("max", 8000 * 1024), ("4000000", 2_000_000), ("1000000", 0)):
        (control / "memory.max").write_text(f"{limit}\n")
        assert available_host_bytes(proc, control) == expected
    assert available_host_bytes(tmp_path / "none", tmp_path / "none") > 1e8
