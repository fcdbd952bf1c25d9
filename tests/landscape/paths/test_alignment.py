import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import align, apply_permutation, linear_barrier, match_weights, recompute_batch_stats
from mdtree_jax.models import has_permutations, model_names, permutation_spec
from mdtree_jax.models.resnet import ResNet
from mdtree_jax.training import cross_entropy, error_count
from tests.landscape.networks import images, random_network, random_values
from tests.landscape.test_batch_norm import apply_of

pytestmark = pytest.mark.usefixtures("strict")


def permute_mlp(variables, rng):
    """Rename the hidden units, layer by layer and by hand."""
    v = jax.tree.map(np.array, variables)
    for layer, after in (("0", "Linear_1"), ("1", "head")):
        order = rng.permutation(v["params"][f"Linear_{layer}"]["bias"].size)
        linear, norm = v["params"][f"Linear_{layer}"], v["params"][f"BatchNorm_{layer}"]
        linear["kernel"], linear["bias"] = linear["kernel"][:, order], linear["bias"][order]
        for table in (norm, v["batch_stats"][f"BatchNorm_{layer}"]):
            table.update({name: vector[order] for name, vector in table.items()})
        v["params"][after]["kernel"] = v["params"][after]["kernel"][order]
    return v


def permute_resnet8(variables, rng):
    """Rename the channels of stem and first block together, of each later block, and inside every block."""
    v = jax.tree.map(np.array, variables)
    params, stats = v["params"], v["batch_stats"]

    def norm(order, *path):
        for table in (params, stats):
            for name in path:
                table = table[name]
            table.update({name: vector[order] for name, vector in table.items()})

    stream = rng.permutation(params["stem"]["kernel"].shape[-1])
    params["stem"]["kernel"] = params["stem"]["kernel"][..., stream]
    norm(stream, "stem_norm")
    for block in ("stage1_block1", "stage2_block1", "stage3_block1"):
        b = params[block]
        inside = rng.permutation(b["Conv3x3_0"]["kernel"].shape[-1])
        b["Conv3x3_0"]["kernel"] = b["Conv3x3_0"]["kernel"][:, :, stream][..., inside]
        norm(inside, block, "BatchNorm_0")
        if block != "stage1_block1":
            out = rng.permutation(b["shortcut"]["kernel"].shape[-1])
            b["shortcut"]["kernel"] = b["shortcut"]["kernel"][stream][:, out]
            norm(out, block, "shortcut_norm")
            stream = out
        b["Conv3x3_1"]["kernel"] = b["Conv3x3_1"]["kernel"][:, :, inside][..., stream]
        norm(stream, block, "BatchNorm_1")
    params["head"]["kernel"] = params["head"]["kernel"][stream]
    return v


@functools.cache
def jit_logits(apply):
    return jax.jit(lambda variables, x: apply(variables, x, False)[0])


@pytest.mark.parametrize(("name", "width", "permute"), [("mlp", 9, permute_mlp), ("resnet8", 4, permute_resnet8)])
def test_alignment_undoes_a_renaming_and_removes_its_barrier(name, width, permute):
    model, variables = random_network(name, width)
    x = images(40)

    def recomputed_logits(params):
        batch_stats = recompute_batch_stats(apply_of(model), {**variables, "params": params}, lambda i: x, 1)
        return model.apply({"params": params, "batch_stats": batch_stats}, x, False)[0]

    both_logits = jax.jit(lambda v: (model.apply(v, x, False)[0], recomputed_logits(v["params"])))
    # Sure of what it says and not always of the same class, so that a mixture of two errs.
    variables["params"]["head"]["kernel"] *= 20
    variables["params"]["head"]["bias"] -= both_logits(variables)[1].mean(0)
    copy = permute(variables, np.random.default_rng(3))
    for ours, theirs in zip(both_logits(variables), both_logits(copy), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)

    def measure(end0, end1):
        labels = jnp.argmax(recomputed_logits(end0), axis=1).astype(jnp.int32)

        def evaluate(params):
            logits = recomputed_logits(params)
            error = 100 * jnp.mean(error_count(logits, labels).astype(jnp.float64))
            return {"train_error": error, "train_loss": cross_entropy(logits, labels).mean()}

        return linear_barrier(3)(end0, end1, evaluate)

    measure = jax.jit(measure)
    before = measure(variables["params"], copy["params"])
    np.testing.assert_array_equal(before.train_error[jnp.array([0, 2])], 0)
    assert before.train_error_barrier > 10
    assert before.train_loss_barrier > 0.5

    aligned = align(permutation_spec(name, variables), variables, copy)
    jax.tree.map(np.testing.assert_array_equal, aligned, variables)  # BatchNorm statistics too
    assert measure(variables["params"], aligned["params"]).train_loss_barrier == 0


def build(name):
    """Return `apply`, variables and the name of the rule; `short` has a stage of two blocks, as resnet18 has."""
    if name != "short":
        model, variables = random_network(name, 3)
        return model.apply, variables, name
    module = ResNet((3, 6), 5, (1, 2), jnp.float64)
    shapes = jax.eval_shape(lambda key: module.init(key, images(1), False), jax.random.key(0))
    return module.apply, random_values(shapes), "resnet8"


QUICK = ("mlp", "mlp_gelu", "cnn", "cnn_bn")
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in model_names() if has_permutations(n) and n not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, "short", *SLOW])
def test_every_architecture_has_a_spec_that_leaves_the_function_alone(name):
    apply, variables, rule = build(name)
    spec = permutation_spec(rule, variables)
    paths = [tuple(key.key for key in path) for path, _ in jax.tree.leaves_with_path(variables)]
    assert sorted(spec) == sorted(paths)
    rng = np.random.default_rng(0)
    sizes = {g: n for path, groups in spec.items() for g, n in zip(groups, _shape(variables, path), strict=True) if g}
    orders = {group: rng.permutation(size) for group, size in sizes.items()}
    moved = apply_permutation(spec, orders, variables)
    x, logits = images(6), jit_logits(apply)
    np.testing.assert_allclose(logits(moved, x), logits(variables, x), rtol=1e-9, atol=1e-11)
    # A spec that forgot one array would be found out.
    group = spec["params", "head", "kernel"][0]
    wrong = {path: groups for path, groups in spec.items() if path[1] != "head"}
    broken = apply_permutation(wrong, {group: np.roll(np.arange(sizes[group]), 1)}, variables)
    assert np.abs(logits(broken, x) - logits(variables, x)).max() > 1e-3


def _shape(variables, path):
    for name in path:
        variables = variables[name]
    return variables.shape


SMALL = {("a",): (None, "h"), ("b",): ("h", "k"), ("c",): ("k", None)}


def small_pair(seed):
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 4), "b": (4, 4), "c": (4, 2)}
    return tuple({name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(2))


def test_found_permutations_are_near_the_best_of_all():
    """24 x 24 permutations can all be tried: the optimum is found for most pairs, and never something below it."""
    is_best, gains = [], []
    for seed in range(10):
        reference, other = small_pair(seed)

        def value(h, k, a=reference, b=other):
            moved = b["a"][:, h], b["b"][h][:, k], b["c"][k]
            return sum((x * y).sum() for x, y in zip(a.values(), moved, strict=True))

        orders = [list(order) for order in itertools.permutations(range(4))]
        best = max(value(h, k) for h in orders for k in orders)
        found = match_weights(SMALL, reference, other)
        got = value(found["h"], found["k"])
        np.testing.assert_allclose(
            got, sum((reference[n] * moved).sum() for n, moved in align(SMALL, reference, other).items())
        )
        assert got <= best + 1e-9
        is_best.append(got > best - 1e-9)
        gains.append(got - value(range(4), range(4)))
    assert sum(is_best) >= 8
    assert min(gains) >= 0


def test_equal_seeds_give_equal_permutations_and_nan_gives_none():
    reference, other = small_pair(0)
    first, second = (match_weights(SMALL, reference, other, seed=5) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    other["b"][0, 0] = np.nan
    for order in match_weights(SMALL, reference, other).values():
        np.testing.assert_array_equal(order, np.arange(4))


def test_bad_input():
    reference, other = small_pair(0)
    with pytest.raises(UserError, match="num_starts 0 must be at least 1"):
        match_weights(SMALL, reference, other, num_starts=0)
    with pytest.raises(UserError, match="the permutation spec names 'd', which the network does not have"):
        match_weights({**SMALL, ("d",): ("h",)}, reference, other)
    with pytest.raises(UserError, match=r"'a' has shape \(3, 4\), but the permutation spec names 1 axes"):
        match_weights({**SMALL, ("a",): ("h",)}, reference, other)
    with pytest.raises(UserError, match=r"'b' has 4 units in group 'h', other arrays of the group 3"):
        match_weights({("a",): ("h", None), ("b",): ("h", "k")}, reference, other)
    with pytest.raises(UserError, match=r"'b' has two axes in group 'h'; a group can have at most one axis per array"):
        match_weights({("b",): ("h", "h")}, reference, other)
    with pytest.raises(UserError, match="the two networks have groups of different sizes"):
        match_weights({("a",): (None, "h")}, reference, {"a": np.ones((3, 5))})
    with pytest.raises(UserError, match=r"'a' has shape \(3, 4\) in one network and \(2, 4\) in the other"):
        match_weights({("a",): (None, "h")}, reference, {"a": np.ones((2, 4))})
    with pytest.raises(
        UserError, match=r"unknown model with permutations 'vgg'; available: mlp, resnet18, resnet8, resnet8_fine"
    ):
        permutation_spec("vgg", {"params": {}})
