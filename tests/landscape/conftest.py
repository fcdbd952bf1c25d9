import jax
import pytest


@pytest.fixture(autouse=True)
def _strict64():
    # Ground truth in float64; the compiler's optimizations take longer than these small programs run.
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
    jax.config.update("jax_disable_most_optimizations", before)
