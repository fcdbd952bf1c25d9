"""Adapters of the frameworks of JAX, against what the frameworks compute themselves."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mdtree_jax import UserError
from mdtree_jax.landscape.batch_norm import check_averages
from mdtree_jax.subject.adapted import subject_of, unlike_averages
from mdtree_jax.subject.frameworks import FRAMEWORKS, adapt, framework_of
from mdtree_jax.subject.network import wrap
from tests.subject.frameworks.agreement import measure, measure_landscape
from tests.subject.frameworks.cases import vectors
from tests.subject.frameworks.jax_cases import LinenMlp, NnxMlp, equinox_cases, flax_cases, haiku_cases

pytestmark = pytest.mark.usefixtures("quickly_compiled")

MAKERS = {"flax": flax_cases, "equinox": equinox_cases, "haiku": haiku_cases}


@functools.cache
def cases(package):
    if package != "flax":
        pytest.importorskip(package, reason=f"needs {package}: pip install 'mdtree-jax[{package}]'")
    return {case.name: case for case in MAKERS[package]()}


@pytest.mark.parametrize(("package", "number"), [("flax", 8), ("equinox", 3), ("haiku", 3)])
def test_outputs_derivatives_and_statistics_are_the_frameworks(package, number):
    found = {name: measure(case) for name, case in cases(package).items()}
    assert len(found) == number
    for name, differences in found.items():
        assert max(differences.values()) < 1e-4, (name, differences)


@pytest.mark.slow
def test_what_is_measured_is_a_dense_hessians_and_the_frameworks():
    case = next(case for case in flax_cases() if (case.framework, case.objective) == ("linen", "regression"))
    found = measure_landscape(case)
    assert set(found) == {"trace", "eigenvalue", "barrier", "curve"}
    assert max(found.values()) < 1e-5


@pytest.mark.parametrize("package", ["flax", "equinox", "haiku"])
def test_the_mask_of_dropout_is_that_of_the_key(package):
    case = next(iter(cases(package).values()))
    adapted = adapt(case.model, case.x)
    run = jax.jit(lambda v, key: adapted.apply_train(v, case.x, key)[0])
    variables = adapted.variables(case.network)
    one, two, again = (np.asarray(run(variables, jax.random.key(seed))) for seed in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-3
    fixed = adapted.apply_train(variables, case.x)[0]
    np.testing.assert_allclose(fixed, adapted.apply_train(variables, case.x)[0])


@pytest.mark.parametrize("package", ["flax", "equinox", "haiku"])
def test_fresh_variables_differ_by_key_and_have_the_networks_shapes(package):
    for case in cases(package).values():
        adapted = adapt(case.model, case.x, case.build)
        if case.framework == "functions":
            assert adapted.init is None
            continue
        one, other = (adapted.init(jax.random.key(seed)) for seed in (0, 1))
        shapes = jax.tree.map(np.shape, adapted.variables(case.network))
        assert jax.tree.map(np.shape, one) == shapes, case.name
        assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_models_that_hold_their_weights_need_a_builder_for_fresh_ones():
    assert adapt(NnxMlp(nnx.Rngs(0)), vectors()).init is None
    assert adapt(NnxMlp(nnx.Rngs(0)), vectors(), build=lambda: NnxMlp(nnx.Rngs(0))).init is None


def test_the_users_model_is_not_changed():
    model = NnxMlp(nnx.Rngs(0))
    model.train()
    adapted = adapt(model, vectors())
    before = jax.tree.map(np.array, adapted.variables(model))
    adapted.apply_train(adapted.variables(model), vectors())
    assert not model.dropout.deterministic
    jax.tree.map(np.testing.assert_array_equal, before, adapted.variables(model))


def test_averages_that_haiku_corrects_for_their_beginning_are_no_running_averages():
    case = cases("haiku")["haiku mlp cross_entropy"]
    model, (params, state) = case.model, case.network

    def apply(variables, x):
        return model.apply(variables["params"], variables["state"], None, x, False)[0]

    def apply_train(variables, x):
        outputs, new = model.apply(variables["params"], variables["state"], jax.random.key(0), x, True)
        return outputs, {"state": new}

    as_functions = wrap(apply, [{"params": params, "state": state}], apply_train)
    found = unlike_averages(as_functions, case.x)
    assert found
    assert all(name.endswith("average") for name in found)
    assert unlike_averages(subject_of(model, [case.network], case.x), case.x) == []


def test_states_that_are_no_averages_are_named():
    x = jnp.asarray(vectors(8, 3))
    stats = {
        "good": jnp.zeros(3),
        "kept": jnp.ones(3),
        "root": jnp.ones(3),
        "mixed": jnp.ones(3),
        "count": jnp.int32(4),
    }

    def apply_train(variables, x):
        old = variables["batch_stats"]
        new = {
            "good": 0.9 * old["good"] + 0.1 * x.mean(0),
            "kept": old["kept"],
            "root": jnp.sqrt(jnp.abs(old["root"])) + x.var(0),
            "mixed": 0.5 * old["good"] + x.mean(0),
            "count": old["count"] + 1,
        }
        return x, {"batch_stats": new}

    assert check_averages(apply_train, {"batch_stats": stats}, x) == ["mixed", "root"]


def test_models_that_are_of_no_framework_are_one_sentence():
    assert framework_of(LinenMlp()).name == "linen"
    assert framework_of(NnxMlp(nnx.Rngs(0))).name == "nnx"
    with pytest.raises(UserError, match=r"the model is a int; expected one of Flax Linen, .*PyTorch, or a function"):
        adapt(3, vectors())
    with pytest.raises(UserError, match="the class LinenMlp, not an object of it"):
        adapt(LinenMlp, vectors())
    with pytest.raises(UserError, match=r"does not accept inputs of shape \(2, 6, 1\)"):
        adapt(nn.Conv(3, (3, 3, 3)), vectors()[..., None])
    assert len({framework.name for framework in FRAMEWORKS}) == len(FRAMEWORKS)


def test_another_architecture_names_the_first_array_that_differs():
    x, module = vectors(), LinenMlp()
    variables = module.init(jax.random.key(0), x)
    renamed = {"params": dict(variables["params"]), "batch_stats": variables["batch_stats"]}
    renamed["params"]["Dense_O"] = renamed["params"].pop("Dense_0")
    message = r"it lacks params/Dense_0/bias \(7,\) \(did you mean 'params/Dense_O/bias'\?\) and holds"
    with pytest.raises(UserError, match=message):
        subject_of(module, [renamed], x)
    wider = LinenMlp(4).init(jax.random.key(0), x)
    with pytest.raises(UserError, match=r"'params/Dense_2/bias' has shape \(4,\) instead of \(3,\)"):
        subject_of(module, [wider], x)


def test_half_precision_is_measured_in_float32_and_said():
    x, module = vectors(), LinenMlp()
    variables = module.init(jax.random.key(0), x)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    subject = subject_of(module, [half], x)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(subject.variables)} == {"float32"}
    assert "the weights are of bfloat16 and are measured in float32" in subject.notes
