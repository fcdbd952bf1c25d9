"""Axes to configurations to cohorts; schemas; what a sweep will cost."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.population.cohort import Cohort, Member, Recipe
from mdtree_jax.population.grid import AXES, Grid, configurations, make_cohorts
from mdtree_jax.population.plan import COMPILE_SECONDS, ModelCost, cohort_flops, make_plan, measure_peak_flops
from mdtree_jax.population.schema import GridConfig, SweepConfig, make_grid, make_recipe


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
                assert getattr(kept_by, axis) == getattr(point, axis)
            assert member.num_samples == round(1000 * member.data_fraction)
            seen.add((*(getattr(point, axis) for axis in AXES), member.seed))
    assert len(seen) == 96 * 2 == sum(len(c.members) for c in cohorts)
    assert {m.seed for c in cohorts for m in c.members} == {7, 8}
    assert len({c.key for c in cohorts}) == len(cohorts) == 2 * 2 * 2


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
        ({"data_fraction": (0.5, 0.0)}, r"data_fraction=0 is out of range; wanted in \(0, 1\]"),
        ({"data_fraction": (1.5,)}, r"data_fraction=1.5 is out of range"),
        ({"data_fraction": (float("nan"),)}, r"data_fraction=nan is out of range"),
        ({"width": ()}, "the axis width of the grid is empty"),
        ({"width": (2, 0)}, "width=0 is out of range; wanted at least 1"),
        ({"batch_size": (8, 8)}, r"the axis batch_size=\[8, 8\] holds a value twice"),
        ({"learning_rate": (-0.1,)}, "learning_rate=-0.1 is out of range; wanted above 0"),
        ({"weight_decay": (float("inf"),)}, "weight_decay=inf is out of range"),
        ({"train_epochs": (0,)}, "train_epochs=0 is out of range"),
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
    config = GridConfig(name="mine", width=[2], batch_size=[16], momentum=0.5, num_seeds=4, seed=2)
    assert make_grid(config) == Grid((2,), (16,), num_seeds=4, seed=2)
    recipe = make_recipe(config, 10, (10, 10, 1))
    assert recipe == Recipe("digits", "resnet8", 10, (10, 10, 1), momentum=0.5)
    configured = {f.name for f in dataclasses.fields(GridConfig)}
    assert {f.name for f in dataclasses.fields(Recipe)} - configured == {"num_classes", "image_shape"}
    assert {f.name for f in dataclasses.fields(Grid)} <= configured
    defaults = {f.name: f.default for f in dataclasses.fields(Recipe) if f.default is not dataclasses.MISSING}
    assert {name: getattr(GridConfig(), name) for name in defaults} == defaults
    assert SweepConfig().out == "runs/${grid.name}"


def test_plan_counts_by_hand():
    members = (Member(0, 0, 100, 0.5, 0.05, 0.0), Member(1, 0, 200, 1.0, 0.05, 0.0))
    cohorts = [Cohort(2, 32, 10, members), Cohort(8, 64, 10, members)]
    # 3 whole batches of 32 in 100 images, 6 in 200; a step is three passes; then the subset and 50 test images
    by_hand = 7.0 * (3 * 96 * 10 + 100 + 50 + 3 * 192 * 10 + 200 + 50)
    assert cohort_flops(cohorts[0], 7.0, num_test=50) == by_hand
    cost = {2: ModelCost(100, 480, 7.0), 8: ModelCost(1600, 6800, 112.0)}.__getitem__
    plan = make_plan(cohorts, cost, num_test=50, keep_checkpoints=True, peak_flops=1e3)
    assert plan["train_flops"][0] == by_hand
    assert plan["checkpoint_bytes"].tolist() == [960, 13600]
    assert plan["num_parameters"].tolist() == [100, 1600]
    assert not plan["finished"].any()
    assert (plan["estimated_seconds"] > plan["train_flops"] / 1e3).all()
    finished = pd.DataFrame(
        {"cohort": "w2-b32-e10", "width": 2, "batch_size": 32, "train_flops": [6.0, 6.0], "train_seconds": [2.0, 1.0]}
    )
    plan = make_plan(cohorts, cost, num_test=50, keep_checkpoints=False, peak_flops=1e3, finished=finished)
    assert plan["finished"].tolist() == [True, False]
    np.testing.assert_allclose(plan["estimated_seconds"], COMPILE_SECONDS + plan["train_flops"] / 4.0)
    assert plan["checkpoint_bytes"].sum() == 0


def test_the_measured_peak_is_a_plausible_rate():
    assert 1e9 < measure_peak_flops(256, 2) < 1e13
