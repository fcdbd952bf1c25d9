"""A user's own builders of models and loaders of data, in this process: what they are given, and their mistakes."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import Architecture, Dataset, Objective, UserError, models, register
from mdtree_jax.data import dataset_shape, load_dataset
from mdtree_jax.models import build_model, count_flops, count_parameters, has_permutations
from mdtree_jax.models.base import check_widths
from mdtree_jax.registry.architectures import ARCHITECTURES
from mdtree_jax.registry.datasets import DATASETS, DatasetShape
from mdtree_jax.registry.register import unregister
from mdtree_jax.training import objective_functions


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module and gives its name; it is forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)

    def write(text):
        name = f"own_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(
            "import flax.linen as nn\nimport jax.numpy as jnp\nimport numpy as np\n" + text
        )
        return name

    yield write
    for name in set(sys.modules) - known:
        if name.startswith("own_"):
            del sys.modules[name]


NETWORK = """
class Net(nn.Module):
    outputs: int = 3
    dtype: type = jnp.float32
    drop: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(self.drop, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(self.outputs, param_dtype=self.dtype)(x), {"features": x}

class Convolution(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Conv(self.width, (3, 3))(x).mean((1, 2)))

class Frozen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=False)(x.reshape(len(x), -1)))

class Counting(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        self.variable("cache", "count", jnp.zeros, ())
        return nn.Dense(3)(x.reshape(len(x), -1))

class Empty(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return x.reshape(len(x), -1)[:, :3]
"""


def test_a_builder_is_given_the_settings_that_it_names(module):
    name = module(
        NETWORK
        + "seen = {}\n"
        + "def build(num_outputs, input_shape, dtype, depth=2):\n"
        + "    seen.update(locals())\n"
        + "    return Net(num_outputs, dtype)\n"
        + "def all_of_them(**settings):\n"
        + "    seen.update(settings)\n"
        + "    return Net(settings['num_classes'])\n"
    )
    model = build_model(f"{name}:build", 7, 3, (2, 2, 1))
    assert build_model(f"{name}:build", 7, 3, (2, 2, 1)) is model  # or every cohort would be compiled anew
    seen = sys.modules[name].seen
    assert seen == {"num_outputs": 3, "input_shape": (2, 2, 1), "dtype": jnp.float32, "depth": 2}
    assert count_parameters(model) == 4 * 3 + 3
    variables = model.init(jax.random.key(0))
    logits, intermediates, stats = model.apply(variables, jnp.ones((5, 2, 2, 1)), True)
    assert (logits.shape, intermediates["features"].shape, stats) == ((5, 3), (5, 4), {})
    assert not has_permutations(f"{name}:build")
    seen.clear()
    build_model(f"{name}:all_of_them", 7, 3, (2, 2, 1))
    assert set(seen) == {"width", "num_classes", "num_outputs", "image_shape", "input_shape", "dtype"}
    assert count_parameters(build_model(f"{name}:Net", 7, 3, (2, 2, 1))) == 15  # a module is a builder too
    convolution = build_model(f"{name}:Convolution", 2, 3, (5, 4, 1))
    assert count_parameters(convolution) == 9 * 2 + 2 + 2 * 3 + 3
    assert count_flops(convolution, (5, 4, 1)) == 2 * (9 * 2 * 20 + 2 * 3)
    check_widths(f"{name}:build", [2])
    with pytest.raises(UserError, match=r"takes no 'width', so its networks would be the same at width=\[2, 4\]"):
        check_widths(f"{name}:build", [2, 4])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("builld", r"has no function 'builld'; available: build"),
        (
            "depth",
            "the function needs the argument 'depth', which is not available; available: width, num_classes, num_out",
        ),
        ("fails", r"the function, called with width, failed \(ZeroDivisionError: division by zero\)"),
        ("nothing", "the function returns a NoneType; expected a Flax Linen module, or a mdtree_jax.models.Model"),
        ("four", r"gives outputs of shape \(2, 4\) for 2 inputs; expected \(2, 3\)"),
        ("half", "has parameters of float16; expected float32, the dtype that its builder is given"),
        ("dropout", "it draws random numbers, as dropout does, and a network of a sweep is given none"),
        ("Frozen", "has running averages, but its call has no argument 'train'"),
        ("Counting", "keeps the state 'cache'; of a network's state only running averages"),
        ("Empty", "has no parameters, so there is nothing to train"),
        ("large", r"does not accept images of shape \(2, 2, 1\): .*reshape"),
        ("model", r"is initialized to something other than \{'params': …, 'batch_stats': …\}"),
    ],
)
def test_builders_that_do_not_fit(module, function, message):
    name = module(
        NETWORK
        + "from mdtree_jax.models import Model\n"
        + "def build(): return Net()\n"
        + "def depth(depth): return Net()\n"
        + "def fails(width): 1 / 0\n"
        + "def nothing(): return None\n"
        + "def four(): return Net(4)\n"
        + "def half(): return Net(3, jnp.float16)\n"
        + "def dropout(): return Net(drop=0.5)\n"
        + "class Large(nn.Module):\n"
        + "    @nn.compact\n"
        + "    def __call__(self, x): return nn.Dense(3)(x.reshape(len(x), 784))\n"
        + "def large(): return Large()\n"
        + "def model(): return Model(lambda key: {'w': jnp.zeros(3)}, lambda v, x, train: (x, {}, {}))\n"
    )
    with pytest.raises(UserError, match=message) as error:
        build_model(f"{name}:{function}", 2, 3, (2, 2, 1))
    assert "\n" not in str(error.value)


LOADER = """
from typing import NamedTuple

def arrays(**changed):
    x, y = np.ones((12, 2, 2, 1), np.float32), np.arange(12) % 3
    return dict(x_train=x, y_train=y, x_test=x, y_test=y) | changed

class Named(NamedTuple):
    x_train: object
    y_train: object
    x_test: object
    y_test: object
    num_classes: int

def load(): return Named(**arrays(), num_classes=5)
def images(data_dir): return arrays(x_train=np.full((12, 2, 2), len(data_dir), np.float32))
def nothing(): return None
def lacking(): return {"x_train": 1}
def flat(): return arrays(x_train=np.ones((12, 4, 2, 2, 1), np.float32))
def few(): return arrays(y_train=np.arange(11) % 3)
def text(): return arrays(y_train=["a"] * 12)
def ragged(): return arrays(x_train=[[1.0], [1.0, 2.0]])
def one(): return arrays(num_classes=1)
def fails(): raise OSError("no disk")
def many(source, depth): return arrays()
"""


def test_a_loader_returns_a_mapping_or_a_named_tuple(module):
    name = module(LOADER)
    data = load_dataset(f"{name}:load", label_noise_fraction=0.5)
    assert (data.num_classes, data.classes_are_known, data.name) == (5, True, f"{name}:load")
    assert dataset_shape(f"{name}:images", data_dir="four")[:4] == (12, 12, (2, 2, 1), 3)
    data = load_dataset(f"{name}:images", data_dir="four")
    assert not data.classes_are_known
    assert (data.x_train == 4).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("lode", "has no function 'lode'; available: .*load"),
        ("nothing", "the function returns a NoneType; expected a mapping or a named tuple with x_train, y_train"),
        ("lacking", "has no array 'y_train'; expected x_train, y_train, x_test, y_test"),
        ("flat", r"the training images of data set '.*:flat' have shape \(12, 4, 2, 2, 1\); wanted \(number, height"),
        ("few", r"the training labels of data set '.*:few' have shape \(11,\); expected \(12,\), one per input"),
        ("text", "the training labels of data set '.*:text' are of type <U1; expected integers"),
        ("ragged", "holds something that is not an array"),
        ("one", "num_classes of dataset=.*:one is 1; expected a whole number of at least 2"),
        ("fails", r"the function, called without arguments, failed \(OSError: no disk\)"),
        (
            "many",
            "the function needs the argument 'depth', which is not available; available: source, data_dir, data_file",
        ),
        ("images", r"the function needs data_dir=PATH"),
    ],
)
def test_loaders_that_do_not_fit(module, function, message):
    name = module(LOADER)
    with pytest.raises(UserError, match=message) as error:
        load_dataset(f"{name}:{function}")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"data_file='a\.npz' is given, but the function of dataset=.* takes no"):
        load_dataset(f"{name}:load", data_file="a.npz")


def test_register_binds_replaces_and_refuses(added):
    arrays = {"x_train": np.ones((4, 1, 1, 1)), "y_train": [0, 1, 0, 1], "x_test": np.ones((4, 1, 1, 1))}
    arrays["y_test"] = arrays["y_train"]
    one = Dataset("ones", shape=DatasetShape(4, 4, (1, 1, 1), 3))
    assert added(one, load=lambda: arrays) is one
    assert dataset_shape("ones") == load_dataset("ones").shape == one.shape  # three classes, though two have labels
    added(one, load=lambda: arrays | {"x_test": arrays["x_test"][:3], "y_test": arrays["y_test"][:3]})
    with pytest.raises(UserError, match=r"'ones' is registered with DatasetShape\(num_train=4.*but has .*num_test=3"):
        load_dataset("ones")
    added(Objective("hinge"), loss=lambda o, t: o[:, 0], error=lambda o, t: t > 0)
    assert objective_functions("hinge").loss(np.ones((2, 3)), np.ones(2)).tolist() == [1, 1]
    with pytest.raises(UserError, match=r"unknown objective 'hinges' \(did you mean 'hinge'\?\)"):
        objective_functions("hinges")
    for entry, functions, message in (
        (Dataset("ones", "another"), {"load": print}, "a data set named 'ones' is already registered"),
        (Dataset("a b"), {"load": print}, "'a b' is not an identifier"),
        (Dataset("twos"), {}, "the data set 'twos' needs load=, the function that is bound to it"),
        (
            Architecture("net"),
            {"built": print},
            r"register\(Architecture, built=…\): besides the entry, it takes build=, per",
        ),
        (Architecture("net"), {"build": 3}, "build= of the model 'net' is of type int; it must be a function"),
        ("net", {}, r"register\('net'\): its type is str; it must be one of Architecture, .*Dataset"),
    ):
        with pytest.raises(UserError, match=message):
            register(entry, **functions)
    assert "net" not in ARCHITECTURES
    assert "twos" not in DATASETS


def test_the_decorator_of_the_release_before_still_registers():
    with pytest.warns(DeprecationWarning, match="register of models.base goes in the next release"):
        decorate = models.base.register("plain")
    made = models.Model(lambda key: {"params": {"w": jnp.zeros(3)}, "batch_stats": {}}, lambda v, x, train: None)
    builder = decorate(lambda width, num_classes, dtype: made)
    assert models.find_builder("plain") is builder
    assert "plain" in models.model_names()
    unregister(ARCHITECTURES["plain"])
