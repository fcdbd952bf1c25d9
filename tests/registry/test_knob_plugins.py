"""A user's own knobs, each a file of at most 25 lines outside the checkout: in help, tables, names and networks."""

import functools
import json

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.models import build_model
from mdtree_jax.store.checkpoint import load_network
from tests import commands

NOISE = """
import jax

from mdtree_jax import Knob, register
from mdtree_jax.registry.knobs import Words


def add_noise(x, key, value):
    return x + value * jax.random.normal(key, x.shape, x.dtype)


register(
    Knob(
        "input_noise",
        unit="1",
        meaning="standard deviation of the noise on training images",
        acts_on="inputs",
        is_static=False,
        default=0.0,
        low=0.0,
        words=Words("input noise"),
    ),
    apply=add_noise,
)
"""
DEPTH = """
from mdtree_jax import Architecture, Knob, register
from mdtree_jax.models.mlp import MLP
from mdtree_jax.registry.knobs import Words

words = Words("depth", "shallower", "deeper")
register(Knob("depth", "layers", "hidden layers", "build", is_static=True, kind=int, default=2, low=1, words=words))


def build(width, num_classes, dtype, depth):
    return MLP(width, num_classes, depth, dtype)


register(Architecture("deep", "an mlp of any depth"), build=build)
"""
GRID = [
    *("+grid=digits_tiny", "grid.model=mlp", "grid.width=[4]", "grid.batch_size=[32]", "grid.data_fraction=[0.1]"),
    *("grid.train_epochs=[2]", "grid.num_seeds=2", "out=run", "grid.measure.metrics=[similarity]"),
]


@pytest.fixture
def command(tmp_path):
    """Return `commands.command` in a folder with the modules."""
    for name, text in (("noise", NOISE), ("depth", DEPTH)):
        assert len(text.strip().splitlines()) <= 25
        (tmp_path / f"{name}.py").write_text(text)
    return functools.partial(commands.command, tmp_path)


def test_a_knob_on_the_inputs_from_the_help_to_a_diagnosis(command, tmp_path):
    code, out, err = command("sweep", "--help", "plugins=[noise]")
    assert (code, err) == (0, "")
    assert "grid.input_noise: [0.0]" in out
    assert "axis: standard deviation of the noise on training images" in out
    code, _, err = command("sweep", *GRID, "plugins=[noise]", "grid.input_noise=[0,-1]")
    assert (code, "input_noise=-1 is out of range; it must be 0 or above" in err) == (2, True)
    swept = [*GRID, "plugins=[noise]", "grid.input_noise=[0,2]", "grid.optimizer=[sgd,adamw]"]
    code, _, err = command("sweep", *swept)
    assert code == 0, err
    members, collection = (pd.read_parquet(tmp_path / f"run/{name}.parquet") for name in ("members", "collection"))
    assert members["cohort"].unique().tolist() == ["w4-b32-e2", "w4-b32-e2-oadamw"]
    for table in (members, collection):
        assert set(zip(table["input_noise"], table["optimizer"], strict=True)) == {
            (noise, optimizer) for noise in (0.0, 2.0) for optimizer in ("sgd", "adamw")
        }
    assert not {"input_noise_se", "optimizer_se"} & set(collection)
    assert collection["train_loss"].nunique() == 4
    noisy, clean = (collection[collection["input_noise"] == value]["train_loss"].mean() for value in (2.0, 0.0))
    assert noisy > clean
    config = json.loads((tmp_path / "run/manifest.json").read_text())["config"]
    assert (config["input_noise"], config["optimizer"]) == ([0.0, 2.0], ["sgd", "adamw"])
    _, row = load_network(tmp_path / "run", seed=1, input_noise=2, optimizer="adamw")
    assert (row["input_noise"], row["optimizer"]) == (2.0, "adamw")
    code, out, err = command("sweep", *swept)
    assert "0 cohorts trained and 0 measured" in out, err
    asked = ["run=run", "select.input_noise=2", "plugins=[noise]", "format=json"]
    code, out, err = command("diagnose", *asked)
    assert code == 0, err
    assert [one["name"].split(", ")[3:] for one in json.loads(out)] == [
        ["optimizer sgd"],
        ["optimizer adamw"],
    ]
    code, _, err = command("diagnose", *asked, "select.input_noise=3")
    assert (code, "select.input_noise=3 matches no configuration; available: 0, 2" in err) == (2, True), err


def test_a_knob_of_the_builder(command, tmp_path):
    deep = [*GRID, "plugins=[depth]", "grid.model=deep", "grid.depth=[1,2,3]", "stages=[train]"]
    code, _, err = command("sweep", *deep)
    assert code == 0, err
    members = pd.read_parquet(tmp_path / "run/members.parquet").drop_duplicates("depth")
    assert members["cohort"].tolist() == ["w4-b32-e2-depth1", "w4-b32-e2", "w4-b32-e2-depth3"]
    # 100 pixels, 4 units with bias and BatchNorm in a layer, 10 classes
    assert members["num_parameters"].tolist() == [100 * 4 + 12 + (4 * 4 + 12) * (depth - 1) + 50 for depth in (1, 2, 3)]
    code, _, err = command("sweep", *GRID, "plugins=[depth]", "grid.depth=3", "out=other", "stages=[train]")
    assert (code, "the builder of model 'mlp' takes no 'depth'" in err) == (2, True), err
    two = [*GRID, "grid.depth=2", "plugins=[depth]", "out=other", "dry_run=true"]  # the default: nothing is asked of it
    assert command("sweep", *two)[0] == 0
    network, _ = load_network(tmp_path / "run", seed=0, depth=2)
    same = build_model("mlp", 4, 10, (10, 10, 1)).apply(network, np.ones((1, 10, 10, 1), np.float32), False)[0]
    assert same.shape == (1, 10)
    asked = ["run=run", "select.depth=3", "measure={effort: fast, metrics: [sharpness]}"]
    code, _, err = command("diagnose", *asked)
    assert (code, "unknown setting 'depth'" in err) == (2, True), err
    assert command("diagnose", *asked, "plugins=[depth]")[0] == 0
