"""Shared fixtures: the published collections, from the folder beside the checkout if it is there, else downloaded."""

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

os.environ.setdefault("MPLBACKEND", "agg")
# The processes of a run share the cores: threads of small matrix products would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")  # whatever is imported first, and however many cores there are
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # One for all processes of a run, which inherit it, and none of the user's.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mdtree_jax_tests_")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # many tests trace the same again
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# Property tests draw the same examples on every run and on every machine, however slow it is.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
if (SHARED / "published").is_dir():
    os.environ.setdefault("MDTREE_JAX_DATA", str(SHARED / "published"))


@pytest.fixture(scope="session")
def collections():
    """F and F_noise. Where they cannot be had the tests that need them are skipped; where `CI` is set these fail."""
    from mdtree_jax import UserError, load_collection

    try:
        return load_collection("published/F"), load_collection("published/F_noise")
    except UserError as error:
        if "could not be downloaded" not in str(error):
            raise
        if os.environ.get("CI"):
            pytest.fail(f"CI runs every test, but the published collections are not here: {error}")
        pytest.skip(f"the published collections are not here: {error}")


@pytest.fixture(scope="session")
def F(collections):
    return collections[0]


@pytest.fixture(scope="session")
def F_noise(collections):
    return collections[1]


@pytest.fixture(scope="module")
def quickly_compiled():
    """Have the small programs of a module compiled without optimizations."""
    from tests.numerics import unoptimized

    with unoptimized():
        yield


@pytest.fixture
def small_grid():
    """Return a complete grid of 3 x 3 x 2 configurations with every metric, from a seed."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(7)
    axes = pd.MultiIndex.from_product([[4, 32, 64], [16, 32, 64], [0.5, 1.0]])
    frame = axes.to_frame(index=False, name=["width", "batch_size", "data_fraction"])
    n = len(frame)
    frame["num_samples"] = (1000 * frame["data_fraction"]).astype(int)
    frame["num_parameters"] = 100 * frame["width"] ** 2
    frame["test_error"] = rng.permutation(np.linspace(5, 60, n))
    frame["train_error"] = np.where(rng.random(n) < 0.5, rng.random(n), 20 * rng.random(n))
    frame["train_loss"], frame["test_loss"] = rng.random(n), 1 + rng.random(n)
    frame["mode_connectivity_peak"] = -20 * rng.random(n)
    frame["log_hessian_trace"] = 4 + 5 * rng.random(n)
    frame["cka"] = rng.random(n)
    return frame


def pytest_collection_modifyitems(items):
    """Refuse ids with an address: processes that differ in it would not run the same tests."""
    for item in items:
        if re.search(r"0x[0-9a-f]{6}", item.nodeid):
            raise pytest.UsageError(f"the id of {item.nodeid} holds an address; give ids= to its parameters")
