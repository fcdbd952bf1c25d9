"""What a cohort is measured with: settings, their limits, pairs of networks, batches within a memory budget."""

import dataclasses

import jax
import numpy as np
import pytest

from mdtree_jax import lowering
from mdtree_jax.checks import UserError
from mdtree_jax.landscape.paths.curves import INITS, SCHEDULES
from mdtree_jax.measuring import programs as measure_programs
from mdtree_jax.measuring.kernels import Data, NetworkItem, make_hessian
from mdtree_jax.measuring.programs import choose
from mdtree_jax.models import build_model
from mdtree_jax.recipe.cohort import Cohort, Member
from mdtree_jax.recipe.measure_settings import (
    ADDED_LATER,
    CURVE_INITS,
    CURVE_SCHEDULES,
    METRICS,
    MeasureConfig,
    chosen_pairs,
    resolve,
)


def test_settings_are_resolved_and_checked():
    assert CURVE_INITS == INITS
    assert list(CURVE_SCHEDULES) == list(SCHEDULES)
    assert not set(ADDED_LATER) & set(resolve(MeasureConfig(effort="fast")).recorded())
    assert set(ADDED_LATER) & set(resolve(MeasureConfig()).recorded()) == {"eigenvalue_start"}
    assert resolve(MeasureConfig(curve_schedule="cosine")).recorded()["curve_schedule"] == "cosine"
    assert resolve(MeasureConfig(effort="exact")).trace_products > resolve(MeasureConfig()).trace_products
    assert resolve(MeasureConfig(effort="fast", trace_products=77)).trace_products == 77
    assert resolve(MeasureConfig(metrics=["connectivity", "hessian"])).metrics == ("hessian", "connectivity")
    for change, message in (
        ({"effort": "quick"}, "unknown effort 'quick'; available: fast, standard, exact"),
        ({"metrics": ["cka"]}, f"unknown metric 'cka'; available: {', '.join(METRICS)}"),
        ({"metrics": []}, "grid.measure.metrics is empty"),
        ({"pairs": "most"}, "unknown choice of pairs 'most'"),
        ({"eigenvalue_steps": 0}, "eigenvalue_steps=0 is out of range; it must be above 0"),
        ({"curve_momentum": 1.0}, "curve_momentum=1 is out of range"),
        ({"curve_points": 6}, "curve_points=6 misses the quarters"),
        ({"curve_points": 1}, "curve_points=1 is out of range; it must be at least 5"),
        ({"barrier_points": 2}, "barrier_points=2 is out of range; it must be at least 3"),
        ({"trace_products": 3}, "trace_products=3 is out of range; it must be at least 4"),
        ({"similarity_images": 1}, "similarity_images=1 is out of range; it must be at least 2"),
        ({"mixup_alpha": 0.5}, "mixup_alpha=0.5 is out of range; it must be above 0.5"),
        ({"ball_radius": float("nan")}, "ball_radius=nan is out of range; it must be above 0"),
        ({"trace_relative_error": float("inf")}, "trace_relative_error=inf is out of range"),
        ({"curve_steps": 0}, "curve_steps=0 is out of range; it must be at least 1"),
        ({"curve_schedule": "x"}, "unknown curve_schedule 'x'; available: published, constant, cosine"),
        (
            {"similarity_images": 3, "similarity_debiased": True},
            "it must be at least 4 where similarity_debiased is true",
        ),
        ({"trace_method": "x"}, "unknown trace_method 'x'; available: xtrace, hutchinson"),
        ({"eigenvalue_method": "x"}, "unknown eigenvalue_method 'x'; available: lanczos, power"),
        ({"curve_init": "x"}, "unknown curve_init 'x'; available: linear, published"),
    ):
        with pytest.raises(UserError, match=message):
            resolve(MeasureConfig(**change))


def test_pairs_of_finite_networks():
    assert chosen_pairs([True] * 5, "ring") == [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)]
    assert chosen_pairs([True, True, False, True, True], "ring") == [(0, 1), (1, 3), (3, 4), (0, 4)]
    assert chosen_pairs([True] * 3, "ring") == chosen_pairs([True] * 3, "all") == [(0, 1), (0, 2), (1, 2)]
    assert len(chosen_pairs([True] * 5, "all")) == 10
    assert chosen_pairs([True], "ring") == []


def test_memory_decides_batches_and_estimator(monkeypatch):
    model = build_model("mlp", 200, 10, (20, 20, 1), "float32")
    images, labels = jax.ShapeDtypeStruct((3200, 20, 20, 1), np.float32), jax.ShapeDtypeStruct((3200,), np.int32)
    data = Data(images, labels, images, labels)
    settings = resolve(MeasureConfig(metrics=["hessian"], hessian_images=2000))
    published = resolve(MeasureConfig(metrics=["hessian"], hessian_images=2000, trace_method="hutchinson"))
    assert choose(model, data, published, 2**36, "cpu") == (2000, False, False, 1, 2000, 768)
    large, less, small = (choose(model, data, settings, budget, "cpu") for budget in (2**36, 165 * 2**20, 2**25))
    assert large == (2000, True, False, 1, 2000, 768)
    assert 500 <= less.hessian_batch_size < 2000
    assert less.use_xtrace
    assert not small.use_xtrace
    # 48 vectors of 122 thousand numbers are 23 MB, more than there is.
    with pytest.raises(
        UserError, match=r"at least 0.0\d+ GB of memory on each device, and 0.0105 GB may be used: allow"
    ):
        choose(model, data, settings, 10 * 2**20, "cpu")
    few = dataclasses.replace(settings, eigenvalue_steps=8)
    assert choose(model, data, few, 10 * 2**20, "cpu").hessian_batch_size < 2000

    many = resolve(MeasureConfig(metrics=["sharpness", "similarity"], hessian_images=8000, similarity_images=8192))
    tight = choose(model, data, many, 25 * 2**20, "gpu")
    assert tight.sharpness_batch_size < 8000
    assert tight.use_xtrace  # which nothing was asked about
    assert tight.similarity_batch_size < 8192
    assert 1 <= tight.lanes < 20
    accelerator = choose(model, data, settings, 2**36, "gpu")
    assert accelerator.lanes > 1
    assert accelerator.batched
    # A CPU's caches: fewer images at a time, but not so few that nothing is shared.
    for limit, images in ((2**30, 2000), (measure_programs._activation_bytes(model, data, 250), 250), (1, 25)):
        monkeypatch.setitem(lowering.TABLE, "cpu", lowering.TABLE["cpu"]._replace(held_bytes=limit))
        assert choose(model, data, settings, 2**36, "cpu")[:2] == (images, True)
    assert choose(model, data, many, 2**36, "cpu").sharpness_batch_size == 8000
    assert choose(model, data, settings, 2**36, "gpu").hessian_batch_size == 2000


@pytest.mark.parametrize(
    ("name", "width", "shape", "plan"),
    [
        ("mlp", 200, (20, 20, 1), (1, False)),
        ("mlp", 200, (20, 20, 1), (200, True)),
        ("resnet8_fine", 8, (8, 8, 1), (200, True)),
    ],
)
def test_memory_is_estimated_from_above_and_not_wildly(name, width, shape, plan):
    model = build_model(name, width, 10, shape, "float32")
    images, labels = jax.ShapeDtypeStruct((400, *shape), np.float32), jax.ShapeDtypeStruct((400,), np.int32)
    data = Data(images, labels, images, labels)
    measurement = make_hessian(model, resolve(MeasureConfig(metrics=["hessian"])), *plan, False)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    item = NetworkItem(variables, jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((2,), np.uint32))
    taken = jax.jit(measurement).lower(item, data).compile().memory_analysis().temp_size_in_bytes
    estimated = measure_programs._traced_bytes(model, data, measurement, plan[0], item)
    assert taken < estimated < measure_programs.OVERESTIMATE * taken


def test_budget_of_curves():
    """Curves train for as long as the networks of the cohort, as long as the paper's, or as long as is said."""
    members = tuple(Member(place, 0, number, 1.0, 0.1, 0.0) for place, number in enumerate((100, 400)))
    cohort = Cohort(8, 32, 20, members)
    own = resolve(MeasureConfig(curve_budget="training", curve_steps=7)).of_cohort(cohort)
    assert (own.curve_steps, own.curve_batch_size) == (20 * (400 // 32), 32)
    published = resolve(MeasureConfig(curve_budget="published", effort="fast", curve_steps=7)).of_cohort(cohort)
    assert (published.curve_steps, published.curve_batch_size, published.curve_learning_rate) == (19_000, 128, 0.01)
    given = resolve(MeasureConfig(curve_steps=7))
    assert given.of_cohort(cohort) is given
    assert "curve_budget" not in given.recorded()
    with pytest.raises(UserError, match="curve_budget"):
        resolve(MeasureConfig(curve_budget="long"))
