"""Fixtures of the kernels' tests; see also the `strict` fixture's use as a mark of a whole file."""

import jax
import pytest


@pytest.fixture
def strict():
    """float64, and no silent change of type or rank."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
