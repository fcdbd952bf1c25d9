"""Hessian kernels beside PyHessian: the same ResNet-18, its weights carried across, the same 200 images."""

import jax
import numpy as np
import pytest

from mdtree_jax.landscape import hvp, lanczos, power_iteration, xtrace
from mdtree_jax.models import build_model, from_torch
from mdtree_jax.training import cross_entropy
from tests.torch_resnet import make_images, trained_snapshots

NUM_IMAGES = 200


def our_product(network, images, labels):
    """Return parameters of the PyTorch network as ours, and the product with the Hessian of its mean loss."""
    variables, width, num_classes = from_torch("resnet18", network.state_dict())
    model = build_model("resnet18", width, num_classes, (32, 32, 3))
    stats, data = variables["batch_stats"], (images.transpose(0, 2, 3, 1), labels.astype(np.int32))

    def loss(params, data):
        logits, _, _ = model.apply({"params": params, "batch_stats": stats}, data[0], False)
        return cross_entropy(logits, data[1]).mean()

    return variables["params"], lambda params: hvp(loss, params, data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
@pytest.mark.parametrize("width", [2, 4])
def test_top_eigenvalue_and_trace_are_those_of_pyhessian(width):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[benchmark]'")
    pyhessian = pytest.importorskip("pyhessian", reason="needs PyHessian: pip install -e '.[benchmark]'")
    (network,) = trained_snapshots(width, 1)
    images, labels = make_images(2, NUM_IMAGES)
    data = (torch.tensor(images), torch.tensor(labels))
    theirs = pyhessian.hessian(network, torch.nn.CrossEntropyLoss(), data=data, cuda=False)
    (their_top,), _ = theirs.eigenvalues(maxIter=200, tol=1e-5)
    probes = np.array(theirs.trace(maxIter=120, tol=0))  # its own rule stops at chance
    their_trace, their_error = probes.mean(), probes.std(ddof=1) / np.sqrt(len(probes))

    params, product = our_product(network, images, labels)

    # The error of theirs decides then: that of XTrace is up to 1.4 times what it says after few products.
    trace_of = xtrace(400, batched=False)

    @jax.jit
    def measure(params, key):
        h = product(params)
        return lanczos()(h, key, params), power_iteration()(h, key, params), trace_of(h, key, params)

    top, published_top, trace = measure(params, jax.random.key(0))
    assert top.converged.all()
    assert float(top.values[0]) == pytest.approx(their_top, rel=0.01)
    assert float(published_top.values[0]) == pytest.approx(their_top, rel=0.01)
    joint = np.hypot(their_error, float(trace.standard_error))

    def agrees(value):
        return abs(value - their_trace) < 2 * joint

    assert agrees(float(trace.mean))
    assert not agrees(1.5 * float(trace.mean))
    assert float(trace.standard_error) < 0.5 * their_error
