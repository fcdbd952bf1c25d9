"""The page on measuring in another framework: its PyTorch code against our measurements, of the same two ResNet-8."""

import importlib.util
import re

import numpy as np
import pytest

from mdtree_jax import Diagnosis, measure_model
from mdtree_jax.data import load_dataset
from tests.conftest import ROOT
from tests.torch_resnet import make_torch_resnet

PAGE = (ROOT / "docs" / "how-to" / "measure-elsewhere.md").read_text()
BLOCKS = re.findall(r"^```py\n(.*?)^```$", PAGE, re.S | re.M)
STEPS = 200
OURS = {
    "metrics": ["hessian", "similarity", "barrier", "connectivity"],
    "trace_relative_error": 0.02,
    "trace_products": 200,
    "eigenvalue_steps": 100,
    "barrier_points": 5,
    "curve_points": 5,
    "curve_steps": STEPS,
    "curve_batch_size": 32,
    "curve_learning_rate": 0.1,
}


def trained(seed, x, y, epochs=4):
    import torch

    torch.manual_seed(seed)
    network = make_torch_resnet("resnet8", 3, channels=1)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(32):
            loss = torch.nn.functional.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def both():
    """The row of the page, what it defined, and ours."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchax") is None:
        pytest.skip("needs PyTorch: pip install 'mdtree-jax[torch]'")
    import torch

    torch.set_num_threads(1)  # threads that wait for each other are slower than one beside other load
    data = load_dataset("digits")
    sides = ((data.x_train[:896], data.y_train[:896]), (data.x_test[:500], data.y_test[:500]))
    (x, y), (x_test, y_test) = ((np.moveaxis(x, -1, 1).copy(), np.asarray(y)) for x, y in sides)
    names = dict(zip(("x", "y", "x_test", "y_test"), map(torch.as_tensor, (x, y, x_test, y_test)), strict=True))
    names |= {name: names[name].long() for name in ("y", "y_test")}
    names |= {name: trained(seed, names["x"], names["y"]) for seed, name in enumerate("ab")}
    exec(compile(BLOCKS[0].replace("steps=2000", f"steps={STEPS}"), "page", "exec"), names)
    exec(compile(BLOCKS[1].replace('"my_models.csv"', "None"), "page", "exec"), names)
    ours = measure_model(names["a"], [names["a"], names["b"]], (x, y), measure=OURS)
    return names["row"], names, ours


pytestmark = [pytest.mark.slow, pytest.mark.frameworks]


def test_errors_and_losses(both):
    row, names, ours = both
    assert 2 < row["train_error"] < 60
    for name in ("train_error", "train_loss", "train_error_se"):
        assert row[name] == pytest.approx(ours[name], rel=1e-4)
    assert isinstance(names["diagnosis"], Diagnosis)


def test_sharpness(both):
    row, names, ours = both
    estimates = names["networks"]["hessian_trace_se"]
    error = np.hypot(np.hypot(*estimates) / 2, 0.02 * ours["hessian_trace"])  # of the estimators, not over networks
    assert error < 0.1 * ours["hessian_trace"]
    assert abs(row["hessian_trace"] - ours["hessian_trace"]) < 3 * error
    assert abs(1.5 * row["hessian_trace"] - ours["hessian_trace"]) > 3 * error
    assert row["hessian_max_eigenvalue"] == pytest.approx(ours["hessian_max_eigenvalue"], rel=5e-3)
    for name in ("log_hessian_trace", "log_hessian_max_eigenvalue"):
        assert abs(row[name] - ours[name]) < max(row[f"{name}_se"], ours[f"{name}_se"])
    assert row["hessian_max_eigenvalue_se"] == pytest.approx(ours["hessian_max_eigenvalue_se"], rel=0.05)


def test_pairs(both):
    row, names, ours = both
    draws = [names["similarity"](names["a"], names["b"], names["x"], seed=seed) for seed in range(1, 9)]
    for name in ("cka", "agreement"):
        values = [draw[name] for draw in draws]
        assert abs(row[name] - ours[name]) < 4 * np.std(values, ddof=1)
        assert np.std(values, ddof=1) < 0.05
    # Other images are the batches of the statistics, and other random numbers train the curve.
    assert row["barrier"] == pytest.approx(ours["barrier"], rel=0.1, abs=1)
    assert row["barrier_loss"] == pytest.approx(ours["barrier_loss"], rel=0.1)
    assert ours["mode_connectivity_peak"] < 0
    assert row["mode_connectivity_peak"] == pytest.approx(ours["mode_connectivity_peak"], rel=0.25, abs=1)
    assert abs(row["mode_connectivity"] - ours["mode_connectivity"]) < 0.25 * abs(row["mode_connectivity_peak"]) + 1
