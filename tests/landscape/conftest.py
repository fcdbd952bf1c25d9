"""Every test of a kernel: float64, no silent change of type or rank, quick to compile."""

import jax
import pytest

from tests.numerics import quick_float64


@pytest.fixture(autouse=True)
def strict():
    """Ground truth in float64; the compiler's optimizations take longer than these small programs run."""
    with quick_float64(), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
