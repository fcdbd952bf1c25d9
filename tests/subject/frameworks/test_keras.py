"""Keras 3 on its JAX backend, against Keras."""

import os
import sys

import jax
import numpy as np
import pytest

if "keras" not in sys.modules:
    os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="needs Keras: pip install 'mdtree-jax[keras]'")

from mdtree_jax import UserError  # noqa: E402
from mdtree_jax.subject.adapted import subject_of  # noqa: E402
from mdtree_jax.subject.frameworks import adapt  # noqa: E402
from tests.subject.frameworks.agreement import measure  # noqa: E402
from tests.subject.frameworks.torch_cases import keras_cases  # noqa: E402

pytestmark = pytest.mark.frameworks


@pytest.fixture(scope="module")
def cases():
    return keras_cases()


def test_outputs_derivatives_and_statistics_are_keras(cases):
    assert len(cases) == 3
    for case in cases:
        differences = measure(case)
        assert max(differences.values()) < 1e-4, (case.name, differences)


def test_dropout_and_fresh_variables_follow_the_key(cases):
    case = cases[0]
    adapted = adapt(case.model, case.x)
    variables = adapted.variables(case.network)
    run = jax.jit(lambda key: adapted.apply_train(variables, case.x, key)[0])
    one, two, again = (np.asarray(run(jax.random.key(seed))) for seed in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-3
    fresh = [adapted.init(jax.random.key(seed)) for seed in (0, 0, 1)]
    jax.tree.map(np.testing.assert_array_equal, fresh[0], fresh[1])
    kernel = adapted.names[0]
    assert np.abs(fresh[0]["params"][kernel] - fresh[2]["params"][kernel]).max() > 0.1


def test_weights_come_as_a_model_a_list_or_a_file(cases, tmp_path):
    case = cases[0]
    expected = case.outputs(case.network, case.x)
    before = [np.asarray(variable) for variable in case.model.variables]
    case.network.save(tmp_path / "a.keras")
    case.network.save_weights(tmp_path / "b.weights.h5")
    for form in (case.network, case.network.get_weights(), tmp_path / "a.keras", tmp_path / "b.weights.h5"):
        subject = subject_of(case.model, [form], case.x)
        found = subject.model.apply(subject.variables[0], case.x, False)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for variable, array in zip(case.model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, array)
    (tmp_path / "c.keras").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"c.keras' is not of this Keras model, or damaged"):
        subject_of(case.model, [tmp_path / "c.keras"], case.x)
    with pytest.raises(UserError, match=r"it holds 3 arrays; the model has"):
        subject_of(case.model, [case.network.get_weights()[:3]], case.x)
