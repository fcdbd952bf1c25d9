import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import recompute_batch_stats
from tests.landscape.networks import images, random_network

pytestmark = pytest.mark.usefixtures("strict")


class NumpyResNet8:
    """The network in training mode, batches last, written out; collects each BatchNorm's mean and variance."""

    def __init__(self, params):
        self.params, self.found = params, {}

    def norm(self, x, *path):
        scale_and_shift = self.params
        for name in path:
            scale_and_shift = scale_and_shift[name]
        mean, var = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
        self.found[path] = mean.ravel(), var.ravel()
        scale, bias = (np.asarray(scale_and_shift[name]).reshape(-1, 1, 1, 1) for name in ("scale", "bias"))
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    @staticmethod
    def convolve(x, kernel, stride):
        height, width = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        out = sum(
            np.einsum("cf,chwb->fhwb", np.asarray(kernel)[i, j], padded[:, i : i + height, j : j + width])
            for i in range(3)
            for j in range(3)
        )
        return out[:, ::stride, ::stride]

    def __call__(self, x):
        p = self.params
        x = np.asarray(x).transpose(3, 1, 2, 0)
        x = np.maximum(self.norm(self.convolve(x, p["stem"]["kernel"], 1), "stem_norm"), 0)
        for stage in (1, 2, 3):
            name, stride = f"stage{stage}_block1", 1 if stage == 1 else 2
            y = self.norm(self.convolve(x, p[name]["Conv3x3_0"]["kernel"], stride), name, "BatchNorm_0")
            y = self.convolve(np.maximum(y, 0), p[name]["Conv3x3_1"]["kernel"], 1)
            y = self.norm(y, name, "BatchNorm_1")
            if stage > 1:
                x = np.einsum("cf,chwb->fhwb", np.asarray(p[name]["shortcut"]["kernel"]), x[:, ::2, ::2])
                x = self.norm(x, name, "shortcut_norm")
            x = np.maximum(x + y, 0)
        return self.found


def apply_of(model):
    def apply_train(variables, x):
        logits, _, stats = model.apply(variables, x, True)
        return logits, {"batch_stats": stats}

    return apply_train


def test_statistics_of_a_resnet_are_the_averages_over_batches():
    model, variables = random_network("resnet8", 3)
    x = images(3 * 7).reshape(3, 7, *images(1).shape[1:])
    found = [NumpyResNet8(variables["params"])(batch) for batch in x]

    def recompute(variables, num_batches):
        return recompute_batch_stats(apply_of(model), variables, lambda index: x[index], num_batches)

    traced = jax.jit(recompute)
    for num_batches in (1, 3):  # the same program
        stats = traced(variables, jnp.int32(num_batches))
        assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])
        for path in found[0]:
            leaf = stats
            for name in path:
                leaf = leaf[name]
            for i, moment in enumerate(("mean", "var")):
                expected = np.mean([batch[path][i] for batch in found[:num_batches]], axis=0)
                np.testing.assert_allclose(leaf[moment], expected, rtol=1e-9, atol=1e-11)


MOMENTA = {"a": 0.9, "b": 0.0, "c": 0.5, "d": 0.99, "fixed": 1.0}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_each_leafs_momentum_is_found_from_calls(dtype):
    """Leaves with momenta of their own and statistics over eight orders of magnitude; one that never moves."""
    batches = np.exp(np.random.default_rng(0).normal(0, 4, (4, 6))).astype(dtype)

    def apply_train(variables, x):
        old = variables["batch_stats"]
        return None, {"batch_stats": {name: m * old[name] + (1 - m) * x for name, m in MOMENTA.items()}}

    stats = {name: jnp.full(6, 7, dtype) for name in MOMENTA}
    found = recompute_batch_stats(apply_train, {"batch_stats": stats}, lambda i: jnp.asarray(batches)[i], 4)
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    for name in MOMENTA:
        expected = np.full(6, 7.0) if name == "fixed" else batches.astype(float).mean(0)
        np.testing.assert_allclose(found[name], expected, rtol=tolerance, err_msg=name)
        assert found[name].dtype == dtype


def test_batched_equals_one_by_one_and_nan_harms_no_other():
    model, variables = random_network("mlp", 4)
    others = [random_network("mlp", 4, seed)[1] for seed in (1, 2)]
    others[0]["params"]["Linear_0"]["kernel"] *= np.nan
    x = images(36).reshape(3, 12, *images(1).shape[1:])
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, *others)

    def recompute(variables):
        return recompute_batch_stats(apply_of(model), variables, lambda index: x[index], 3)

    single = jax.jit(recompute)
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *[single(v) for v in (variables, *others)])
    for batched in (jax.jit(jax.vmap(recompute))(members), jax.lax.map(recompute, members)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), batched, alone)
    assert all(np.isnan(leaf[1]).all() and np.isfinite(leaf[[0, 2]]).all() for leaf in jax.tree.leaves(alone))


def test_no_batch_norm_is_no_call():
    def forbidden(*unused):
        raise AssertionError

    assert recompute_batch_stats(forbidden, {"params": {}, "batch_stats": {}}, forbidden, 0) == {}
    assert recompute_batch_stats(forbidden, {"params": {}}, forbidden, 3) == {}
    with pytest.raises(UserError, match="num_batches 0 must be at least 1"):
        recompute_batch_stats(forbidden, {"batch_stats": {"mean": jnp.ones(2)}}, forbidden, 0)
