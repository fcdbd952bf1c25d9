"""PyTorch's, torchvision's and Hugging Face's models through torchax, against autograd."""

import copy
import importlib.util

import jax
import numpy as np
import pytest

from mdtree_jax import UserError, diagnose_model
from mdtree_jax.landscape import recompute_batch_stats
from mdtree_jax.subject.adapted import subject_of, unlike_averages
from mdtree_jax.subject.frameworks import adapt
from tests.subject.frameworks.agreement import measure
from tests.subject.frameworks.cases import images, vectors
from tests.subject.frameworks.torch_cases import hugging_face_cases, torch_cases

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'mdtree-jax[torch]'")
if importlib.util.find_spec("torchax") is None:  # it cannot be imported without what the adapter does
    pytest.skip("needs torchax: pip install 'mdtree-jax[torch]'", allow_module_level=True)
pytestmark = pytest.mark.frameworks


def test_outputs_derivatives_and_statistics_are_pytorchs():
    found = {case.name: measure(case) for case in torch_cases()}
    assert len(found) == 7
    for name, differences in found.items():
        assert max(differences.values()) < 1e-4, (name, differences)


@pytest.mark.slow
def test_outputs_and_derivatives_are_hugging_faces():
    pytest.importorskip("transformers", reason="needs transformers: pip install 'mdtree-jax[hf]'")
    for case in hugging_face_cases():
        differences = measure(case)
        assert max(differences.values()) < 1e-4, (case.name, differences)


def test_the_mask_of_dropout_is_that_of_the_key():
    case = torch_cases()[0]
    adapted = adapt(case.model, case.x)
    variables = adapted.variables(case.network)
    run = jax.jit(lambda key: adapted.apply_train(variables, case.x, key)[0])
    one, two, again = (np.asarray(run(jax.random.key(seed))) for seed in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-3


def test_fresh_variables_are_those_of_the_layers():
    module, x = torch_cases()[0].model, vectors()
    adapted = adapt(module, x)
    one, again, other = (adapted.init(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert np.abs(one["params"]["0/weight"] - other["params"]["0/weight"]).max() > 0.1
    assert np.abs(one["params"]["0/weight"]).max() <= 6**-0.5
    assert (one["state"]["1/running_mean"] == 0).all()

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(6, 3))

        def forward(self, x):
            return x @ self.weight

    assert adapt(Own(), x).init is None
    built = adapt(Own(), x, build=lambda: torch.nn.Linear(6, 3))
    assert built.init is not None


def test_pytorch_itself_goes_on_as_before():
    """torchax registers a device, which PyTorch would choose for what it spreads over devices."""
    module, x = torch_cases()[0].model, vectors()
    adapt(module, x)
    parallel = torch.nn.DataParallel(torch.nn.Linear(6, 3))
    assert parallel(torch.as_tensor(x)).device.type == "cpu"
    assert torch.zeros(2).device.type == "cpu"


def test_tied_and_frozen_weights():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(6, 6, bias=False), torch.nn.Linear(6, 6, bias=False)
            self.last.weight = self.first.weight
            self.scale = torch.nn.Parameter(torch.full((6,), 2.0), requires_grad=False)

        def forward(self, x):
            return self.last(torch.tanh(self.first(x))) * self.scale

    module, x = Tied(), vectors()
    subject = subject_of(module, [module.state_dict()], x)
    assert list(subject.variables[0]["params"]) == ["first/weight"]
    found = subject.model.apply(subject.variables[0], x, False)[0]
    np.testing.assert_allclose(found, module(torch.as_tensor(x)).detach(), rtol=1e-5, atol=1e-6)


def test_statistics_between_networks_are_of_the_weights_that_pytorch_holds_fixed():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3)).train()
    module[0].requires_grad_(False)
    x = vectors()
    subject = subject_of(module, [copy.deepcopy(module)], x)
    assert unlike_averages(subject, x) == []

    def apply_train(variables, x):
        outputs, _, state = subject.model.apply(variables, x, True)
        return outputs, {"batch_stats": state}

    found = recompute_batch_stats(apply_train, subject.variables[0], lambda index: x, 2)["state"]
    hidden = module[0](torch.as_tensor(x)).detach().numpy()
    np.testing.assert_allclose(found["1/running_mean"], hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["1/running_var"], hidden.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_array_equal(found["0/weight"], module[0].weight.detach())


def test_images_with_channels_last_are_turned_and_said():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(108, 3)).double()
    x = images()
    adapted = adapt(module, x)
    assert any("channels first" in note for note in adapted.notes)
    found = adapted.apply(adapted.variables(module), x)
    with torch.no_grad():
        expected = module(torch.as_tensor(np.moveaxis(x, -1, 1)).double())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_operator_that_is_missing_is_named():
    class Strange(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(6, 6)

        def forward(self, x):
            return torch.special.airy_ai(self.layer(x))

    with pytest.raises(UserError, match=r"cannot be run by JAX: .*airy_ai.* write that layer with other operators"):
        adapt(Strange(), vectors())


def test_from_a_state_dict_to_a_diagnosis():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 120)
    x = (np.eye(6)[y] + 0.4 * rng.standard_normal((120, 6))).astype(np.float32)
    case = torch_cases()[0]
    quick = {"effort": "fast", "curve_steps": 20, "hessian_images": 40, "similarity_images": 64}
    networks = [network.state_dict() for network in (case.network, case.other)]
    diagnosis = diagnose_model(case.model, networks, (x, y), test=(x[:40], y[:40]), measure=quick)
    assert "mode_connectivity" in diagnosis.metrics
    with torch.no_grad():
        logits = case.network.eval()(torch.as_tensor(x)).numpy(), case.other.eval()(torch.as_tensor(x)).numpy()
    errors = [100 * np.mean(one.argmax(1) != y) for one in logits]
    assert diagnosis.metrics["train_error"] == pytest.approx(np.mean(errors))
