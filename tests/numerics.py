"""How the small programs of tests are compiled and computed."""

import contextlib

import jax


@contextlib.contextmanager
def unoptimized():
    """Compile without the compiler's optimizations, which take longer than small programs run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@contextlib.contextmanager
def quick_float64():
    """Compute in float64, unoptimized."""
    with unoptimized(), jax.enable_x64(True):
        yield
