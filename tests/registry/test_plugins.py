"""A user's own architecture and data set, each a file of at most 25 lines outside the checkout, and their mistakes."""

import json

import numpy as np
import orbax.checkpoint
import pandas as pd
import pytest

from mdtree_jax.data import load_dataset
from mdtree_jax.store.checkpoint import load_network
from tests.commands import command, succeed

TINY = """
import flax.linen as nn

from mdtree_jax import Architecture, register


class Tiny(nn.Module):
    width: int
    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(self.width)(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(self.num_classes)(x)


def build(width, num_classes):
    return Tiny(width, num_classes)


register(Architecture("tiny", "one hidden layer of so many units as its width"), build=build)
"""
RINGS = """
import numpy as np

from mdtree_jax import Dataset, register


def load():
    rng = np.random.default_rng(0)
    labels = np.sort(np.arange(600) % 3)
    radius = 1 + labels + 0.2 * rng.standard_normal(600)
    angle = rng.uniform(0, 2 * np.pi, 600)
    x = (radius * np.stack([np.cos(angle), np.sin(angle)])).T.reshape(-1, 1, 2, 1)
    return {"x_train": x[::2], "y_train": labels[::2], "x_test": x[1::2], "y_test": labels[1::2]}


register(Dataset("rings", "three rings in the plane"), load=load)
"""
GRID = [
    "+grid=digits_tiny", "grid.width=[2,4]", "grid.batch_size=[32]", "grid.data_fraction=[0.5,1]",
    "grid.learning_rate=[0.05,0.1]", "grid.train_epochs=[3]", "grid.num_seeds=2", "grid.measure.effort=fast",
    "grid.measure.metrics=[similarity,barrier]",
]  # fmt: skip
OWN = ["grid.model=tiny:build", "grid.dataset=rings:load"]
REGISTERED = ["plugins=[tiny,rings]", "grid.model=tiny", "grid.dataset=rings"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with the two modules and two runs: `own` of their functions, `named` of what they register."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, text in (("tiny", TINY), ("rings", RINGS)):
        assert len(text.strip().splitlines()) <= 25
        (folder / f"{name}.py").write_text(text)
    succeed(folder, "sweep", *GRID, *OWN, "out=own")
    succeed(folder, "sweep", *GRID, *REGISTERED, "out=named", "stages=[train]")
    return folder


def test_a_sweep_of_own_functions_and_of_registered_names_is_the_same(runs):
    own, named = (json.loads((runs / name / "manifest.json").read_text()) for name in ("own", "named"))
    assert (own["config"]["model"], own["config"]["dataset"]) == ("tiny:build", "rings:load")
    assert (named["config"]["model"], named["config"]["dataset"]) == ("tiny", "rings")
    assert [session["plugins"] for session in named["sessions"]] == [["tiny", "rings"]]
    tables = [pd.read_parquet(runs / name / "members.parquet") for name in ("own", "named")]
    columns = [c for c in tables[1] if not c.endswith("_seconds")]
    pd.testing.assert_frame_equal(tables[0][columns], tables[1][columns], check_exact=True)
    assert (tables[0]["train_flops"] > 0).all()
    collection = pd.read_parquet(runs / "own" / "collection.parquet")
    assert len(collection) == 8
    # two inputs to width units, scale and shift, three logits
    assert (
        collection["num_parameters"]
        == 3 * collection["width"] + 2 * collection["width"] + 3 * (collection["width"] + 1)
    ).all()
    assert collection["num_samples"].tolist() == [150, 150, 300, 300] * 2
    assert np.isfinite(collection[["cka", "barrier", "test_error"]]).all(axis=None)
    assert "aligned_barrier" not in collection  # nothing is known of its permutations
    assert "2 cohorts, 2 finished" in succeed(runs, "sweep", *GRID, *OWN, "out=own", "dry_run=true")
    assert "0 cohorts trained and 0 measured" in succeed(runs, "sweep", *GRID, *OWN, "out=own")
    (runs / "later").mkdir()
    (runs / "later" / "tiny.py").write_text(
        TINY.replace("nn.Dense(self.width)", "nn.Dense(self.width, use_bias=False)")
    )
    (runs / "later" / "rings.py").write_text(RINGS)
    code, _, err = command(runs / "later", "sweep", *GRID, *OWN, "out=../own")
    assert (code, "created with another config (model_hash is" in err) == (2, True)


def forward(variables, x):
    """Return the logits of `Tiny`, written out."""
    params, stats = variables["params"], variables["batch_stats"]["BatchNorm_0"]
    x = x.reshape(len(x), -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    x = np.maximum(x * params["BatchNorm_0"]["scale"] + params["BatchNorm_0"]["bias"], 0)
    return x @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def test_its_networks_have_the_errors_of_their_rows_and_are_diagnosed(runs, monkeypatch):
    monkeypatch.chdir(runs)
    data = load_dataset("rings:load")
    assert set(data.y_train[:30]) == {0, 1, 2}  # made in order, and shuffled
    select = {"width": 4, "data_fraction": 1.0, "learning_rate": 0.1}
    errors = []
    for seed in (0, 1):
        network, row = load_network(runs / "own", seed=seed, **select)
        assert np.abs(network["batch_stats"]["BatchNorm_0"]["mean"]).max() > 1e-3
        wrong = forward(network, data.x_test).argmax(1) != data.y_test
        assert 100 * np.mean(wrong) == pytest.approx(row["test_error"], abs=1e-4)
        errors.append(row["train_error"])
        orbax.checkpoint.PyTreeCheckpointer().save(runs / "networks" / str(seed), network)
    chosen = [f"select.{name}={value:g}" for name, value in select.items()]
    assert "report" in succeed(runs, "diagnose", "run=own", *chosen)
    # not measured yet: from its networks
    quick = ["measure={effort: fast, metrics: [similarity]}", "format=json"]
    code, _, err = command(runs, "diagnose", "run=named", *chosen, *quick)
    assert code == 2
    assert "the model 'tiny' of named is registered by a plugin; add plugins=[rings,tiny]" in err
    found = json.loads(succeed(runs, "diagnose", "run=named", *chosen, *quick, "plugins=[tiny,rings]"))
    assert found["metrics"]["train_error"] == pytest.approx(np.mean(errors), abs=1e-4)
    files = ["checkpoints=[networks/0,networks/1]", "dataset=rings:load", "model=tiny:build", "model_width=4"]
    found = json.loads(succeed(runs, "diagnose", *files, *quick))
    assert found["metrics"]["train_error"] == pytest.approx(np.mean(errors), abs=1e-4)
    code, _, err = command(runs, "diagnose", *files[:-1], *quick)
    assert (code, "the function of model=tiny:build needs model_width=" in err) == (2, True)


def test_help_shows_what_plugins_register(runs, tmp_path):
    for name in ("sweep", "diagnose"):
        out = succeed(runs, name, "plugins=[tiny,rings]", "--help")
        assert "one hidden layer of so many units as its width" in out
        assert "three rings in the plane" in out
        assert "three rings" not in succeed(runs, name, "--help")
    # an installed package, by its entry points
    metadata = tmp_path / "mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[mdtree_jax.plugins]\nrings = rings\n")
    assert "three rings in the plane" in succeed(runs, "sweep", "--help", paths=[tmp_path])
    (metadata / "entry_points.txt").write_text("[mdtree_jax.plugins]\nrings = rungs\n")
    code, out, err = command(runs, "reference", paths=[tmp_path])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the plugin 'rings': the module 'rungs' cannot be imported (ModuleNotFoundError" in err
    assert "it comes with the installed package 'mine'" in err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "ModuleNotFoundError: No module named 'plugin'"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("def f(:", "SyntaxError"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        (
            "from mdtree_jax import *\nregister(Architecture('mlp'), build=print)",
            "UserError: a model named 'mlp' is already registered; choose another name",
        ),
    ],
)
def test_a_plugin_that_fails_is_one_sentence(tmp_path, text, why):
    if text is not None:
        (tmp_path / "plugin.py").write_text(text)
    code, out, err = command(tmp_path, "transfer", "plugins=[plugin]")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"transfer: plugins=[plugin]: the module 'plugin' cannot be imported ({why}")
