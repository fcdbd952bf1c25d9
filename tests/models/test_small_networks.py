"""The small architectures of the families: a step of training each, and what each must not see or must ignore."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mdtree_jax.models import build_model, count_parameters
from mdtree_jax.models.cnn import convolve_1d
from mdtree_jax.models.normalization import GroupNorm, LayerNorm
from mdtree_jax.models.transformer import cut_patches
from mdtree_jax.training import cross_entropy

IMAGE, ROW, TOKENS = (8, 8, 2), (12,), (6,)
#: Architecture -> shape of an input, shape of the outputs for it.
SHAPES = {
    "mlp_relu": (ROW, (5,)),
    "mlp_tanh": (ROW, (5,)),
    "mlp_gelu": (IMAGE, (5,)),
    "mlp_layernorm": (ROW, (5,)),
    "cnn": (IMAGE, (5,)),
    "cnn_bn": (IMAGE, (5,)),
    "cnn_gn": (IMAGE, (5,)),
    "cnn1d": (ROW, (5,)),
    "vit": (IMAGE, (5,)),
    "char_transformer": (TOKENS, (6, 5)),
}


def built(name, width=4, dtype="float32"):
    inputs, outputs = SHAPES[name]
    kind = "int" if name == "char_transformer" else "float"
    model = build_model(name, width, 5, inputs, dtype, input_kind=kind, output_shape=outputs)
    key = jax.random.key(1)
    if kind == "int":
        return model, jax.random.randint(key, (7, *inputs), 0, 5, jnp.int32)
    return model, jax.random.normal(key, (7, *inputs), dtype)


@pytest.mark.parametrize("name", SHAPES)
def test_a_step_of_training_lowers_the_loss_and_examples_are_evaluated_one_by_one(name):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        model, x = built(name, dtype="float64")
        variables = jax.jit(model.init)(jax.random.key(0))
        labels = jax.random.randint(jax.random.key(2), (7, *SHAPES[name][1][:-1]), 0, 5, jnp.int32)

        def loss(params):
            outputs, intermediates, stats = model.apply({**variables, "params": params}, x, True)
            losses = cross_entropy(outputs.reshape(-1, 5), labels.reshape(-1))
            return losses.mean(), (outputs, intermediates, stats)

        slope = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (before, (outputs, intermediates, stats)), gradient = slope(variables["params"])
        assert outputs.shape == (7, *SHAPES[name][1])
        assert "features" in intermediates
        assert all(value.shape[0] == 7 for value in intermediates.values())
        assert bool(stats) == (name == "cnn_bn")
        assert {leaf.dtype for leaf in jax.tree.leaves((variables, outputs, gradient))} == {np.dtype("float64")}
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            assert bool(jnp.isfinite(leaf).all()), path
            assert float(jnp.abs(leaf).max()) > 0, path  # no layer is cut off
        params = jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], gradient)
        assert float(slope(params)[0][0]) < float(before)
        apply = jax.jit(lambda x: model.apply(variables, x, False)[0])
        np.testing.assert_allclose(apply(x[::-1]), apply(x)[::-1], rtol=1e-10)
        among_others = apply(x.at[1:].set(x[:1]))
        np.testing.assert_allclose(among_others[0], apply(x)[0], rtol=1e-10)


def test_a_language_model_sees_no_later_token():
    model, x = built("char_transformer")
    variables = jax.jit(model.init)(jax.random.key(0))
    apply = jax.jit(lambda x: model.apply(variables, x, False)[0])
    before, place = apply(x), 3
    after = apply(x.at[:, place].set((x[:, place] + 1) % 5))
    np.testing.assert_array_equal(before[:, :place], after[:, :place])
    assert (np.abs(before[:, place:] - after[:, place:]).max((0, 2)) > 1e-6).all()  # all from there on see it


def test_a_vision_transformer_without_positions_ignores_the_order_of_patches():
    model, x = built("vit")
    variables = jax.jit(model.init)(jax.random.key(0))
    patches = np.asarray(x).reshape(7, 4, 2, 4, 2, 2)  # 8 x 8 pixels are 16 patches of 2 x 2
    order = np.random.default_rng(0).permutation(16)
    shuffled = patches.transpose(0, 1, 3, 2, 4, 5).reshape(7, 16, 2, 2, 2)[:, order].reshape(7, 4, 4, 2, 2, 2)
    shuffled = shuffled.transpose(0, 1, 3, 2, 4, 5).reshape(7, 8, 8, 2)
    np.testing.assert_array_equal(cut_patches(jnp.asarray(shuffled), 2), cut_patches(x, 2)[:, order])
    apply = jax.jit(lambda variables, x: model.apply(variables, x, False)[0])
    bare = {**variables, "params": {**variables["params"], "positions": jnp.zeros((4, 16, 1))}}
    np.testing.assert_allclose(apply(bare, shuffled), apply(bare, x), rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(apply(variables, shuffled) - apply(variables, x)).max()) > 1e-3


@pytest.mark.parametrize(("length", "stride"), [(9, 1), (9, 2), (8, 2), (3, 2)])
def test_a_convolution_of_sequences_equals_the_compilers(length, stride):
    keys = jax.random.split(jax.random.key(0), 2)
    with jax.enable_x64(True):
        x = jax.random.normal(keys[0], (3, length, 2), jnp.float64)
        kernel = jax.random.normal(keys[1], (5, 3, 4), jnp.float64)
        expected = lax.conv_general_dilated(x, kernel, (stride,), ((2, 2),), dimension_numbers=("CWN", "WIO", "CWN"))
        np.testing.assert_allclose(convolve_1d(x, kernel, stride), expected, rtol=1e-12, atol=1e-12)


def test_normalizations_have_mean_zero_and_variance_one_where_they_say():
    x = 3 * jax.random.normal(jax.random.key(0), (8, 4, 4, 5)) + 2
    for layer, shape, axes in ((LayerNorm(), (8, 4, 4, 5), (0,)), (GroupNorm(4), (4, 2, 4, 4, 5), (1, 2, 3))):
        y = layer.apply(layer.init(jax.random.key(1), x), x).reshape(shape)
        np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
        np.testing.assert_allclose(y.var(axes), 1, rtol=1e-3)
    # Channels that do not divide into groups are normalized one by one.
    y = GroupNorm(4).apply(GroupNorm(4).init(jax.random.key(1), x[:3]), x[:3])
    np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-5)


def test_sizes():
    # By hand: 24 inputs, two layers of 16, 5 outputs; patches of 4 pixels, 25 positions, two blocks of 8 d² + 9 d …
    assert count_parameters(build_model("mlp_gelu", 16, 5, (24,))) == 24 * 16 + 16 + 16 * 16 + 16 + 16 * 5 + 5
    d = 8
    block = 2 * 2 * d + (3 * d * d + 3 * d) + (d * d + d) + (2 * d * d + 2 * d) + (2 * d * d + d)
    vit = 4 * d + d + 25 * d + 2 * block + 2 * d + 10 * d + 10
    assert count_parameters(build_model("vit", d, 10, (10, 10, 1))) == vit
