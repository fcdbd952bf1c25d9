"""The page on frameworks: every example runs, from checkpoints to a diagnosis in at most six lines."""

import importlib.util
import os
import re
import sys

import jax
import numpy as np
import pytest
from flax import nnx

import mdtree_jax
from mdtree_jax.recipe.measure_settings import MeasureConfig
from mdtree_jax.subject import settings
from mdtree_jax.subject.frameworks import FRAMEWORKS
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "how-to" / "frameworks.md").read_text()
EXAMPLES = re.findall(r"^```py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
BLOCKS = {re.findall(r"from mypackage\.(\w+)", block)[0]: block for block in EXAMPLES}
MODELS = {
    "linen": """
import flax.linen as nn
class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x))
        return nn.Dense(3)(nn.relu(x))
""",
    "nnx": """
from flax import nnx
class Net(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(6, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)
        self.last = nnx.Linear(5, 3, rngs=rngs)
    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))
""",
    "equinox": """
import equinox as eqx
def Net(key):
    return eqx.nn.MLP(6, 3, 5, 1, key=key)
""",
    "haiku": """
import haiku as hk, jax, jax.numpy as jnp
def forward(x, is_training):
    return hk.Linear(3)(jax.nn.relu(hk.BatchNorm(True, True, 0.9)(hk.Linear(5)(x), is_training)))
model = hk.transform_with_state(forward)
networks = [model.init(jax.random.key(seed), jnp.ones((2, 6)), True) for seed in (0, 1)]
""",
    "keras": """
import keras
def build():
    layers = [keras.layers.Dense(5, "relu"), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *layers])
""",
    "torch": """
import torch
def Net():
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
""",
    "functions": """
import jax.numpy as jnp
def apply(params, x):
    return jnp.tanh(x @ params["w1"]) @ params["w2"]
""",
}
NEEDS = {"haiku": "haiku", "equinox": "equinox", "keras": "keras", "torch": "torchax"}


def write_checkpoints(name):
    """Write two networks, `a` and `b`, in the format of the example."""
    module = importlib.import_module(f"mypackage.{name}")
    for seed, file in enumerate("ab"):
        key = jax.random.key(seed)
        if name == "linen":
            import flax.serialization

            variables = module.Net().init(key, np.ones((2, 6), np.float32))
            with open(f"{file}.msgpack", "wb") as stream:
                stream.write(flax.serialization.to_bytes(variables))
        elif name == "nnx":
            state = nnx.split(module.Net(nnx.Rngs(seed)))[1]
            arrays = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}
            np.savez(f"{file}.npz", **arrays)
        elif name == "equinox":
            import equinox as eqx

            eqx.tree_serialise_leaves(f"{file}.eqx", module.Net(key))
        elif name == "keras":
            module.build().save_weights(f"{file}.weights.h5")
        elif name == "torch":
            import torch

            torch.manual_seed(seed)
            torch.save({"state_dict": module.Net().state_dict()}, f"{file}.pth")
        elif name == "functions":
            rng = np.random.default_rng(seed)
            np.savez(
                f"{file}.npz", w1=rng.standard_normal((6, 5)).astype("f"), w2=rng.standard_normal((5, 3)).astype("f")
            )


def test_every_framework_has_an_example_of_at_most_six_lines():
    assert set(BLOCKS) == set(MODELS) == {framework.name for framework in FRAMEWORKS} | {"functions"}
    for block in BLOCKS.values():
        assert len([line for line in block.splitlines() if line.strip()]) <= 6


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.frameworks if name in ("keras", "torch") else ()) for name in MODELS]
)
def test_the_example_runs(name, tmp_path, monkeypatch):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}: pip install 'mdtree-jax[{name}]'")
    if name == "keras" and "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "__init__.py").touch()
    (tmp_path / "mypackage" / f"{name}.py").write_text(MODELS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [module for module in sys.modules if module.split(".")[0] == "mypackage"]:
        monkeypatch.delitem(sys.modules, module)
    write_checkpoints(name)
    quick = MeasureConfig(["hessian"], "fast", hessian_images=20, trace_products=8, eigenvalue_steps=5)
    monkeypatch.setattr(settings, "default_measure", lambda columns: quick)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    x = (np.eye(6)[y] + 0.4 * rng.standard_normal((60, 6))).astype(np.float32)
    found = {"x": x, "y": y, "x_test": x[:20], "y_test": y[:20]}
    exec(compile(BLOCKS[name], name, "exec"), found)
    assert isinstance(found["diagnosis"], mdtree_jax.Diagnosis)
    assert "log_hessian_trace" in found["diagnosis"].metrics
