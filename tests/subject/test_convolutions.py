"""Convolutions as slices and a product: the same outputs and gradients as XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mdtree_jax.subject.convolutions import without_convolutions
from tests.numerics import quick_float64


def names_of(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments))


@pytest.mark.parametrize(
    ("layout", "shape", "kernel", "options"),
    [
        (("NHWC", "HWIO", "NHWC"), (2, 7, 6, 3), (3, 3, 3, 4), {}),
        (("NHWC", "HWIO", "NHWC"), (2, 7, 6, 3), (3, 2, 3, 4), {"window_strides": (2, 1), "padding": "VALID"}),
        (("NCHW", "OIHW", "NCHW"), (2, 3, 7, 6), (4, 3, 3, 3), {"padding": ((2, 1), (0, 3)), "rhs_dilation": (2, 1)}),
        (("NCH", "OIH", "NHC"), (2, 3, 9), (4, 3, 5), {"padding": ((-1, 2),), "window_strides": (3,)}),
        (("NDHWC", "DHWIO", "NDHWC"), (2, 4, 5, 3, 2), (2, 3, 1, 2, 3), {}),
    ],
)
def test_any_layout_stride_padding_and_dilation(layout, shape, kernel, options):
    options = {"window_strides": (1,) * (len(shape) - 2), "padding": "SAME", **options}

    def convolve(x, w):
        return jnp.tanh(lax.conv_general_dilated(x, w, dimension_numbers=layout, **options))

    with quick_float64():
        rng = np.random.default_rng(0)
        x, w = rng.standard_normal(shape), rng.standard_normal(kernel)
        other = without_convolutions(convolve)
        assert "conv_general_dilated" not in names_of(other, x, w)
        np.testing.assert_allclose(other(x, w), convolve(x, w), rtol=1e-12)
        gradients = (jax.grad(lambda w, f=f: jnp.sin(f(x, w)).sum())(w) for f in (other, convolve))
        np.testing.assert_allclose(*gradients, rtol=1e-10)


def test_a_network_keeps_its_functions_with_derivatives_of_their_own():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.jit(nn.Conv)(4, (3, 3))(x)
            x = nn.avg_pool(nn.relu(x), (2, 2), (2, 2))
            return nn.Conv(4, (3, 3), feature_group_count=2)(x).mean((1, 2))

    with quick_float64():
        x = np.random.default_rng(0).standard_normal((3, 6, 6, 1))
        x[0] = 0  # where ReLU has the derivative that it says
        variables = Net().init(jax.random.key(0), x)
        plain, other = Net().apply, without_convolutions(Net().apply)
        assert names_of(other, variables, x).count("conv_general_dilated") == 1  # the grouped one stays
        gradients = [jax.grad(lambda v, f=f: jnp.sin(f(v, x)).sum())(variables) for f in (plain, other)]
        for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)
