"""A small cohort of untrained networks, its data, and how it is measured, for the tests of this folder."""

import jax
import numpy as np
import pandas as pd

from mdtree_jax.data import LoadedDataset
from mdtree_jax.measuring.measure import measure_cohort
from mdtree_jax.models import build_model
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve

SHAPE, CLASSES = (3, 3, 1), 3
RECIPE = Recipe("digits", "mlp", num_classes=CLASSES, image_shape=SHAPE)
CONFIG = MeasureConfig(
    hessian_images=20,
    trace_products=400,
    trace_relative_error=1e-6,
    eigenvalue_tolerance=1e-8,
    eigenvalue_steps=80,
    similarity_images=64,
    barrier_points=5,
    curve_steps=5,
    curve_batch_size=8,
    statistics_batch_size=8,
)
SETTINGS = resolve(CONFIG)
BUDGET = 2**30
WIDTH = 6


def make_cohort(seeds=(0, 1, 2), sizes=(16, 40)):
    """Return a cohort of two configurations and untrained networks, BatchNorm statistics at random."""
    members = [Member(i, seed, n, n / 40, 0.1, 0.0) for i, n in enumerate(sizes) for seed in seeds]
    model = build_model("mlp", WIDTH, CLASSES, SHAPE, "float64")
    networks = [model.init(jax.random.key(10 * m.index + m.seed)) for m in members]
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
    variables["params"] = jax.tree.map(lambda a: a + 0.3 * rng.standard_normal(a.shape), variables["params"])
    variables["batch_stats"] = jax.tree.map(lambda a: a + 0.5 * rng.random(a.shape), variables["batch_stats"])
    return Cohort(WIDTH, 8, 1, tuple(members)), variables


def measure(cohort, variables, data, is_finite=None, settings=SETTINGS, **options):
    is_finite = [True] * len(cohort.members) if is_finite is None else is_finite
    options = {"memory_budget_bytes": BUDGET, "dtype": "float64"} | options
    return measure_cohort(RECIPE, cohort, data, variables, is_finite, settings, **options)


def without_seconds(table):
    return table[[column for column in table if not column.endswith("_seconds")]]


def assert_same(left, right, **options):
    for name in ("members", "pairs", "layers"):
        one, other = (without_seconds(getattr(side, name)) for side in (left, right))
        for column in one:
            if column.startswith("curve_"):
                np.testing.assert_allclose(np.stack(one[column]), np.stack(other[column]), **options)
            elif one[column].dtype == float:
                np.testing.assert_allclose(one[column], other[column], **options)
            else:
                pd.testing.assert_series_equal(one[column], other[column])


def make_data():
    """Return 40 training and 60 test images at random."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((100, *SHAPE)), rng.integers(0, CLASSES, 100).astype(np.int32)
    return LoadedDataset(x[:40], y[:40], x[40:], y[40:], CLASSES, "random")
