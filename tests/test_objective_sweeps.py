"""Sweeps of other objectives than classification from end to end: trained, measured, diagnosed."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score

from mdtree_jax import load_collection, sweep
from mdtree_jax.cli import compose, run
from mdtree_jax.data import load_dataset
from mdtree_jax.data.grammar import ENTROPY, SHARES, followers
from mdtree_jax.models import build_model
from mdtree_jax.recipe.schema import resolved_config
from mdtree_jax.store.checkpoint import load_network
from mdtree_jax.subject.run_folder import load_configuration
from tests import tiny_lm

pytestmark = pytest.mark.usefixtures("quickly_compiled")

MEASURE = [
    *("grid.measure.effort=fast", "grid.measure.curve_steps=20", "grid.measure.hessian_images=40"),
    *("grid.measure.similarity_images=64", "grid.measure.pairs=first", "grid.num_seeds=2"),
]
REGRESSION = ["grid.dataset=diabetes", "grid.model=mlp", "grid.objective=regression"]
MEASURED = ("log_hessian_trace", "log_hessian_max_eigenvalue", "ball_sharpness", "cka", "mode_connectivity_peak")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def swept(*overrides):
    assert sweep.main(compose("sweep", ["+grid=digits_tiny", "out=run", *MEASURE, *overrides])) == 0
    return [pd.read_parquet(f"run/{name}.parquet") for name in ("members", "collection", "pairs")]


def test_a_regression(tmp_path):
    axes = ["grid.width=[3]", "grid.batch_size=[32]", "grid.data_fraction=[0.5,1]", "grid.train_epochs=[6]"]
    members, collection, pairs = swept(*REGRESSION, *axes)
    data, model = load_dataset("diabetes", objective="regression"), build_model("mlp", 3, 1, (10,))
    for row in members.to_dict("records"):
        names = ("width", "batch_size", "data_fraction", "train_epochs", "learning_rate", "weight_decay")
        network, _ = load_network(tmp_path / "run", seed=row["seed"], **{name: row[name] for name in names})
        for side, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
            count = row["num_samples"] if side == "train" else len(y)
            found = np.asarray(model.apply(network, x[:count], False)[0])[:, 0]
            assert row[f"{side}_error"] == pytest.approx(100 * (1 - r2_score(y[:count], found)), rel=1e-4)
            assert row[f"{side}_loss"] == pytest.approx(np.mean((y[:count] - found) ** 2), rel=1e-4)
    assert members["train_error"].between(5, 95).all()  # it has learned something, and not everything
    assert np.isfinite(collection[list(MEASURED)]).all(axis=None)
    assert "agreement" not in pairs
    assert collection["num_not_measurable"].eq(0).all()
    assert len(load_collection(tmp_path / "run")) == 2
    with open("run/manifest.json") as file:
        assert json.load(file)["config"]["objective"] == "regression"
    subject, examples = load_configuration(tmp_path / "run", collection.iloc[1])
    assert (subject.objective, len(subject.variables), len(examples.y_train)) == ("regression", 2, 354)


def test_a_language_model():
    assert sum(-share * np.log(share) for share in SHARES) == pytest.approx(ENTROPY)
    data, table = load_dataset("grammar", objective="lm"), followers()
    x, y = data.x_test, data.y_test
    ranks = np.argmax(table[x[:, :-1], x[:, 1:]] == y[:, 1:, None], axis=-1)
    assert (np.take_along_axis(table[x[:, :-1], x[:, 1:]], ranks[..., None], -1)[..., 0] == y[:, 1:]).all()
    np.testing.assert_allclose(np.bincount(ranks.ravel()) / ranks.size, SHARES, atol=0.01)
    model = f"grid.model={tiny_lm.__name__}:build"
    axes = ["grid.width=[4]", "grid.batch_size=[100]", "grid.data_fraction=[1]", "grid.train_epochs=[4]"]
    # Plain gradient descent on a mean over tokens is slow: what is known is what it starts from and cannot reach.
    members, collection, _ = swept("grid.dataset=grammar", model, "grid.objective=lm", "grid.learning_rate=[2]", *axes)
    assert members["test_loss"].between(ENTROPY, np.log(16)).all()
    assert members["test_error"].between(100 * (1 - max(SHARES)), 100 * 15 / 16).all()
    assert np.isfinite(collection[[*MEASURED, "agreement"]]).all(axis=None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["grid.objective=regresion"], "unknown objective 'regresion' (did you mean 'regression'?); available: cross"),
        (["grid.dataset=diabetes", "grid.model=mlp"], "type float64; expected integers; of numbers, choose objective="),
        (["grid.objective=lm"], "the training tokens of data set 'digits' have shape (3200,); expected tokens"),
        (
            [*REGRESSION, "grid.label_smoothing=[0.1]"],
            "spreads probability over classes, and grid.objective=regression",
        ),
        ([*REGRESSION, "grid.label_noise_fraction=0.1"], "redraws class labels; 'diabetes' has none"),
        ([*REGRESSION, "grid.augment=true"], "augment=true crops and mirrors images, and the inputs are not images"),
    ],
)
def test_mistakes(capsys, overrides, message):
    code = run("sweep", sweep.__doc__, sweep.main, ["+grid=digits_tiny", "grid.batch_size=[16]", "out=run", *overrides])
    error = capsys.readouterr().err
    assert code == 2
    assert message in " ".join(error.split())


def test_a_config_of_classification_is_what_it_was_before_there_were_others():
    config = compose("sweep", ["+grid=digits_tiny"])
    assert "objective" not in resolved_config(config.grid)
    config.grid.objective = "regression"
    assert resolved_config(config.grid)["objective"] == "regression"


@pytest.mark.parametrize(
    ("grid", "settings", "chance"),
    [
        ("digits_mlp", ["grid.width=[16]", "grid.train_epochs=[4]"], 90),
        ("diabetes_mlp", ["grid.width=[8]", "grid.train_epochs=[10]"], 100),
    ],
)
def test_small_grids_of_a_fully_connected_network_train(grid, settings, chance):
    some = ["grid.batch_size=[32]", "grid.data_fraction=[1]", "stages=[train]", "out=run"]
    assert sweep.main(compose("sweep", [f"+grid={grid}", *settings, *some])) == 0
    members = pd.read_parquet("run/members.parquet")
    assert len(members) == 2
    assert (members[["train_error", "test_error"]] < 0.8 * chance).all(axis=None)
