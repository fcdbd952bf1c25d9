"""Hessian kernels beside PyHessian: the same ResNet-18, its weights carried across, the same 200 images."""

import jax
import numpy as np
import pytest

from mdtree_jax.landscape import hvp, lanczos, power_iteration, xtrace
from mdtree_jax.models import build_model, from_torch
from mdtree_jax.training import cross_entropy
from tests.torch_resnet import make_torch_resnet

NUM_IMAGES = 200


def make_images(seed, number):
    """Ten noisy prototypes: (number, 3, 32, 32) and labels, a tenth of which is wrong."""
    prototypes = np.random.default_rng(0).normal(size=(10, 3, 8, 8)).repeat(4, 2).repeat(4, 3)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, number)
    images = 0.5 * prototypes[labels] + rng.normal(size=(number, 3, 32, 32))
    return images.astype(np.float32), np.where(rng.random(number) < 0.1, rng.integers(0, 10, number), labels)


def train_a_little(width, num_steps=200, batch_size=32):
    """Return a PyTorch ResNet-18 after some steps of SGD, in eval mode."""
    import torch

    torch.set_num_threads(1)  # threads that wait for each other are slower than one beside other load
    torch.manual_seed(width)
    network = make_torch_resnet("resnet18", width)
    x, y = (torch.tensor(a) for a in make_images(1, 1024))
    optimizer = torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=5e-4)
    for _ in range(num_steps):
        rows = torch.randint(len(x), (batch_size,))
        loss = torch.nn.functional.cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return network.eval()


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
    network = train_a_little(width)
    images, labels = make_images(2, NUM_IMAGES)
    data = (torch.tensor(images), torch.tensor(labels))
    theirs = pyhessian.hessian(network, torch.nn.CrossEntropyLoss(), data=data, cuda=False)
    (their_top,), _ = theirs.eigenvalues(maxIter=200, tol=1e-5)
    probes = np.array(theirs.trace(maxIter=120, tol=0))  # its own rule stops at chance
    their_trace, their_error = probes.mean(), probes.std(ddof=1) / np.sqrt(len(probes))

    params, product = our_product(network, images, labels)

    @jax.jit
    def measure(params, key):
        h = product(params)
        return lanczos()(h, key, params), power_iteration()(h, key, params), xtrace()(h, key, params)

    top, published_top, trace = measure(params, jax.random.key(0))
    assert top.converged.all()
    assert float(top.values[0]) == pytest.approx(their_top, rel=0.01)
    assert float(published_top.values[0]) == pytest.approx(their_top, rel=0.01)
    joint = np.hypot(their_error, float(trace.standard_error))

    def agrees(value):
        return abs(value - their_trace) < 2 * joint

    assert agrees(float(trace.mean))
    assert not agrees(1.5 * float(trace.mean))
    assert float(trace.standard_error) < their_error  # although of half as many products
