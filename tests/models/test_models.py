import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mdtree_jax.checks import UserError
from mdtree_jax.models import Model, build_model, count_activations, count_flops, count_parameters, layers
from mdtree_jax.models.layers import BatchNorm, convolve3x3
from mdtree_jax.models.matrix_product import contract_first

PUBLISHED_PARAMETERS = {
    2: 11420,
    3: 25297,
    4: 44622,
    6: 99616,
    8: 176402,
    11: 332441,
    16: 701466,
    23: 1446917,
    32: 2797610,
    45: 5527675,
    64: 11173962,
    91: 22580841,
    128: 44662922,
}


def test_resnet18_has_the_published_parameter_counts():
    counts = {w: count_parameters(build_model("resnet18", w, 10, (32, 32, 3))) for w in PUBLISHED_PARAMETERS}
    assert counts == PUBLISHED_PARAMETERS


def test_resnet8_fine_refines_the_widths_of_resnet8():
    fine = [count_parameters(build_model("resnet8_fine", w, 10, (10, 10, 1))) for w in range(4, 29)]
    assert fine == sorted(set(fine))
    assert fine[::4] == [count_parameters(build_model("resnet8", w, 10, (10, 10, 1))) for w in range(1, 8)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(10, 10), (5, 5), (3, 4), (1, 1)])
@pytest.mark.parametrize("whole_bytes", [2**24, 0])
def test_convolution_and_its_gradient_equal_the_compilers(size, stride, whole_bytes, monkeypatch):
    if not whole_bytes:  # cut into parts of one image
        monkeypatch.setattr(layers, "WHOLE_BYTES", 0)
        monkeypatch.setattr(layers, "PART_BYTES", 1)
    keys = jax.random.split(jax.random.key(0), 2)
    with jax.enable_x64(True):
        x = jax.random.normal(keys[0], (3, *size, 2), jnp.float64)
        kernel = jax.random.normal(keys[1], (3, 3, 3, 5), jnp.float64)

        def reference(x, kernel):
            dims = ("CHWN", "HWIO", "CHWN")
            return lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=dims)

        expected = reference(x, kernel)
        np.testing.assert_allclose(convolve3x3(x, kernel, stride), expected, rtol=1e-12, atol=1e-12)
        weight = jnp.cos(jnp.arange(expected.size, dtype=jnp.float64)).reshape(expected.shape)
        got = jax.grad(lambda x, k: (convolve3x3(x, k, stride) * weight).sum(), (0, 1))(x, kernel)
        want = jax.grad(lambda x, k: (reference(x, k) * weight).sum(), (0, 1))(x, kernel)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_batchnorm_equals_flax():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 8)) * 2 + 1
    ours, theirs = BatchNorm(), nn.BatchNorm(momentum=0.9, epsilon=1e-5, axis=0)
    variables = ours.init(jax.random.key(1), x, True)
    for _ in range(2):
        y, updated = ours.apply(variables, x, True, mutable=["batch_stats"])
        expected, wanted = theirs.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updated, wanted)
        variables = {**variables, **updated}
    expected = theirs.apply(variables, x, use_running_average=True)
    np.testing.assert_allclose(ours.apply(variables, x, False), expected, rtol=1e-5, atol=1e-5)


#: The residual networks differ in sizes only. The small networks of the families are tested in test_small_networks.py.
NAMES = ["mlp", "resnet8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "resnet8_fine"))]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("quickly_compiled")
def test_apply_gives_logits_named_intermediates_and_statistics(name):
    model = build_model(name, 3, 7, (8, 8, 2))
    variables = jax.jit(model.init)(jax.random.key(0))  # one operation at a time takes longer to compile
    x = jax.random.normal(jax.random.key(1), (5, 8, 8, 2))
    logits, intermediates, stats = jax.jit(lambda v, x: model.apply(v, x, True))(variables, x)
    assert logits.shape == (5, 7)
    assert intermediates["features"].shape[0] == 5
    assert all(value.shape[0] == 5 for value in intermediates.values())
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, variables["batch_stats"])
    assert all(jax.tree.leaves(moved))

    # In eval mode an image's logits do not depend on its batch, and nothing moves.
    @jax.jit
    def evaluated(variables, x):
        outputs, _, unchanged = model.apply(variables, x, False)
        assert unchanged is variables["batch_stats"]
        return outputs

    np.testing.assert_allclose(evaluated(variables, x[:1])[0], evaluated(variables, x)[0], rtol=1e-4, atol=1e-5)


def test_flops_are_those_of_the_layers():
    # Stem, two, two and two 3x3 convolutions, two 1x1 and the head, counted by hand for 10x10 -> 5x5 -> 3x3 pixels.
    w = 4
    stages = 100 * 9 * w + 100 * 9 * 2 * w * w + 25 * (9 * (2 + 4) + 2) * w * w + 9 * (9 * (8 + 16) + 8) * w * w
    assert count_flops(build_model("resnet8", w, 10, (10, 10, 1)), (10, 10, 1)) == 2 * (stages + 40 * w)
    model = build_model("resnet8", w, 10, (10, 10, 1))
    small, large = (count_activations(model, (10, 10, 1), batch) for batch in (16, 32))
    assert 1.8 * small < large < 2 * small


def test_flops_of_the_compilers_convolutions_count():
    class Convolutional(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Conv(6, (3, 3), strides=2)(x)  # 8x8x2 -> 4x4x6
            return nn.Conv(6, (3, 3), feature_group_count=3)(x).mean((1, 2)), {}

    module = Convolutional()
    model = Model(
        lambda key: {"params": module.init(key, jnp.zeros((1, 8, 8, 2)), False)["params"], "batch_stats": {}},
        lambda variables, x, train: (*module.apply({"params": variables["params"]}, x, train), {}),
    )
    assert count_flops(model, (8, 8, 2)) == 2 * 16 * 6 * 9 * 2 + 2 * 16 * 6 * 9 * 2


def test_bad_names_and_widths_are_one_sentence():
    with pytest.raises(UserError, match=r"unknown model 'resnet19' .*available: mlp, resnet18, resnet8, resnet8_fine"):
        build_model("resnet19", 4, 10, (32, 32, 3))
    with pytest.raises(UserError, match="width 0 of model 'mlp' must be at least 1"):
        build_model("mlp", 0, 10, (32, 32, 3))


@pytest.mark.parametrize("axes", [(None, None), (0, None), (None, 0), (0, 0)])
def test_matrix_product_has_the_derivatives_of_every_order(axes):
    rng = np.random.default_rng(0)
    shapes = [(5, 3), (5, 4)]
    with jax.enable_x64(True):
        a, b, da, db = (
            jnp.asarray(rng.standard_normal(shape if axis is None else (2, *shape)))
            for shape, axis in zip(shapes * 2, axes * 2, strict=True)
        )

        def value(product):
            def third_derivative(a, b, da, db):
                def loss(a, b):
                    return (jnp.sin(product(a, b)) * product(jnp.cos(a), b)).sum()

                def along(order):  # of the loss, in the direction (da, db)
                    if order == 0:
                        return loss
                    return lambda a, b: jax.jvp(along(order - 1), (a, b), (da, db))[1]

                return jax.grad(along(2), (0, 1))(a, b), jax.grad(loss, (0, 1))(a, b)

            mapped = jax.vmap(third_derivative, axes * 2) if any(axis == 0 for axis in axes) else third_derivative
            return jax.jit(mapped)(a, b, da, db)

        found, wanted = value(contract_first), value(lambda a, b: jnp.einsum("di,dj->ij", a, b))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12), found, wanted)


def test_no_derivative_of_a_matrix_product_copies_a_transpose():
    def gradient_along(weights, x, direction):
        def loss(weights):
            return (contract_first(weights, jnp.tanh(contract_first(weights, x))) ** 2).sum()

        return jax.jvp(jax.grad(loss), (weights,), (direction,))[1]

    weights, x = jnp.ones((6, 6)), jnp.ones((6, 40))
    text = str(jax.make_jaxpr(gradient_along)(weights, x, weights))
    assert "matrix_product" in text
    assert "transpose" not in text


def test_factors_of_a_matrix_product_must_fit():
    with pytest.raises(TypeError, match=r"float32\[3,2\].*float32\[4,2\]"):
        jax.eval_shape(contract_first, jnp.ones((3, 2)), jnp.ones((4, 2)))
