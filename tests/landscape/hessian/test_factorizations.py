"""Factorizations of a batch: as of each alone, and on a CPU never handed to LAPACK together."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.landscape.hessian.factorizations import orthogonal_triangular, symmetric_eigen, triangular_inverse

RNG = np.random.default_rng(0)
SQUARE = RNG.standard_normal((2, 3, 4, 4))
CASES = [
    (symmetric_eigen, SQUARE + SQUARE.swapaxes(-1, -2), np.linalg.eigh, "syevd"),
    (orthogonal_triangular, RNG.standard_normal((2, 3, 6, 4)), np.linalg.qr, "geqrf"),
    (triangular_inverse, np.triu(SQUARE) + 3 * np.eye(4), np.linalg.inv, "trsm"),
]


@pytest.mark.parametrize(("function", "arrays", "expected", "routine"), CASES, ids=[case[3] for case in CASES])
def test_a_batch_is_each_alone(function, arrays, expected, routine):
    mapped = jax.jit(jax.vmap(jax.vmap(function)))
    for found, wanted in zip(jax.tree.leaves(mapped(arrays)), jax.tree.leaves(expected(arrays)), strict=True):
        np.testing.assert_allclose(np.abs(found), np.abs(wanted), rtol=1e-9, atol=1e-12)  # signs of vectors are free
    calls = re.findall(rf"custom_call @lapack_.{routine}.*", mapped.lower(arrays).as_text())
    assert calls
    size = "x".join(map(str, arrays.shape[2:]))
    assert all(f"<{size}xf64>" in call and not re.search(rf"<\d+x{size}xf64>", call) for call in calls)


def test_what_is_not_mapped_stays_one():
    matrix = jnp.asarray(SQUARE[0, 0] + SQUARE[0, 0].T)
    np.testing.assert_array_equal(symmetric_eigen(matrix)[0], jnp.linalg.eigh(matrix)[0])
    scaled = jax.vmap(lambda factor: symmetric_eigen(matrix)[0] * factor)(jnp.arange(3.0))
    np.testing.assert_allclose(scaled[2], 2 * jnp.linalg.eigh(matrix)[0])
