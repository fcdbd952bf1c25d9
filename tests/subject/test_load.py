"""Networks of checkpoints and of run folders: they are those that were saved, and the command diagnoses them."""

import json
import shutil
from pathlib import Path

import numpy as np
import orbax.checkpoint
import pandas as pd
import pytest
import safetensors.numpy

from mdtree_jax import UserError
from mdtree_jax import diagnose as diagnose_module
from mdtree_jax import sweep as sweep_module
from mdtree_jax.causes.joint import COLUMNS
from mdtree_jax.cli import run
from mdtree_jax.models import build_model, from_torch
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.store.manifest import read_manifest, write_manifest
from mdtree_jax.subject.load import load_subject
from mdtree_jax.subject.measure import measure_subject
from mdtree_jax.subject.run_folder import load_configuration
from tests.models.test_convert import random_state_dict
from tests.subject.networks import Normalized, make_data, normalized_networks, save

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def test_flax_networks_from_orbax_checkpoints(tmp_path):
    images = make_data(64)[0].reshape(-1, 2, 3, 1)
    networks = normalized_networks(x=images)
    paths = [str(tmp_path / name) for name in ("a", "b")]
    save(paths[0], networks[0] | {"step": np.asarray(3)})
    orbax.checkpoint.PyTreeCheckpointer().save(paths[1], networks[1])
    subject = load_subject("tests.subject.networks:build", paths, (2, 3, 1), 3)
    for ours, theirs in zip(subject.variables, networks, strict=True):
        logits = subject.model.apply(ours, images, False)[0]
        np.testing.assert_array_equal(logits, Normalized().apply(theirs, images, False))


def test_pytorch_networks(tmp_path):
    paths = []
    for seed in (0, 1):
        weights = {k: v.astype(np.float32) for k, v in random_state_dict("resnet8", 2, channels=1, seed=seed).items()}
        paths.append(str(tmp_path / f"{seed}.safetensors"))
        safetensors.numpy.save_file(weights, paths[-1])
    subject = load_subject("resnet8", paths, (8, 8, 1), 7)
    assert subject.architecture == "resnet8"
    model, variables = build_model("resnet8", 2, 7, (8, 8, 1)), from_torch("resnet8", weights).variables
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype(np.float32)
    logits = subject.model.apply(subject.variables[1], x, False)[0]
    np.testing.assert_array_equal(logits, model.apply(variables, x, False)[0])
    with pytest.raises(UserError, match=r"'.*0.safetensors' holds a resnet8 of width 2, but model_width=3"):
        load_subject("resnet8", paths, (8, 8, 1), 7, 3)
    with pytest.raises(UserError, match=r"is not of resnet8 of width 2 for images \(8, 8, 3\): .*stem.* instead of"):
        load_subject("resnet8", paths, (8, 8, 3), 7)
    with pytest.raises(UserError, match=r"PyTorch weights, which can be converted only for .*package.module:function"):
        load_subject("mlp", paths, (8, 8, 1), 7)
    with pytest.raises(UserError, match=r"0.safetensors' is not of this model: it lacks .* and holds .*bn1/bias"):
        load_subject("tests.subject.networks:build", paths, (8, 8, 1), 7)


@pytest.fixture(scope="module")
def measured_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "mlp"
    overrides = [
        "+grid=digits_tiny", "grid.model=mlp", "grid.width=[3]", "grid.batch_size=[32]", "grid.data_fraction=[0.1]",
        "grid.train_epochs=[2]", "grid.num_seeds=3", "grid.measure.effort=fast", "grid.measure.curve_steps=20",
        "grid.measure.metrics=[hessian,similarity,connectivity]", f"out={folder}",
    ]  # fmt: skip
    assert run("sweep", sweep_module.__doc__, sweep_module.main, overrides) == 0
    return folder


def test_networks_of_a_run_give_the_numbers_of_its_table(measured_run):
    row = pd.read_parquet(measured_run / "collection.parquet").iloc[0]
    subject, data = load_configuration(measured_run, row)
    config = MeasureConfig(
        ["hessian", "similarity", "connectivity"], "fast", curve_steps=20, curve_batch_size=32, curve_learning_rate=0.1
    )
    found = measure_subject(subject, data, resolve(config), in_random_order=True).row
    assert len(data.y_train) == 320
    for name in (*COLUMNS, *(f"{c}_se" for c in COLUMNS), "test_error"):
        assert found[name] == pytest.approx(row[name], rel=1e-5, abs=1e-7), name


def diagnosed(capsys, *arguments):
    """Return what the command prints as JSON, of its one model."""
    capsys.readouterr()
    assert run("diagnose", "", diagnose_module.main, [*arguments, "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return found[0] if isinstance(found, list) else found


def test_the_command_measures_the_networks_of_a_run(measured_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured_run, "run")
    table = pd.read_parquet("run/collection.parquet")
    measured = [c for c in table if c.removesuffix("_se") in COLUMNS and not c.startswith("train_")]
    table.drop(columns=measured).to_parquet("run/collection.parquet")
    manifest = Path("run/manifest.json")  # in which the digest of the whole table is
    write_manifest(manifest, read_manifest(manifest) | {"tables": {}})
    finely = "measure={effort: fast, curve_steps: 20, curve_batch_size: 32, curve_learning_rate: 0.1}"
    found = diagnosed(capsys, "run=run", finely)
    assert found["reference"] == "digits"
    for name in COLUMNS:
        assert found["metrics"][name] == pytest.approx(table[name][0], rel=1e-5, abs=1e-7), name
    assert found["cost"]["retraining_flops"] > 0


def test_the_command_measures_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y = make_data(64)
    images = x.reshape(-1, 2, 3, 1)
    networks = normalized_networks(x=images)
    for name, network in zip("ab", networks, strict=True):
        save(str(tmp_path / name), network)
    np.savez("my.npz", x_train=images[:48], y_train=y[:48], x_test=images[48:], y_test=y[48:])
    found = diagnosed(
        capsys, "model=tests.subject.networks:build", "checkpoints=[a,b]", "dataset=npz", "data_file=my.npz",
        "measure={effort: fast, metrics: [hessian]}", "training.epochs=10",
    )  # fmt: skip
    errors = []
    for network in networks:
        logits = np.asarray(Normalized().apply(network, images, False)).argmax(1)
        errors.append([100 * np.mean(logits[part] != y[part]) for part in (slice(48), slice(48, None))])
    assert (found["metrics"]["train_error"], found["test_error"]) == pytest.approx(np.mean(errors, axis=0))
    assert (tmp_path / "runs/diagnose/report.html").is_file()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet9", r"unknown model 'resnet9' \(did you mean 'resnet8'\?\); .*metrics=TABLE.csv"),
        ("no_such.module:build", "the module 'no_such.module' cannot be imported"),
        ("tests.subject.networks:bild", "has no function 'bild'; available: .*build"),
        ("tests.subject.networks:build_nothing", "returns a int; expected a model of Flax Linen"),
        ("mlp", "checkpoints of mlp need model_width="),
    ],
)
def test_models_that_there_are_not(spec, message, tmp_path):
    path = tmp_path / "a"
    save(path, normalized_networks()[0])
    with pytest.raises(UserError, match=message):
        load_subject(spec, [str(path)], (2, 3, 1), 3)


def test_checkpoints_that_there_are_not(tmp_path):
    with pytest.raises(UserError, match="the checkpoint '/nowhere' does not exist"):
        load_subject("mlp", ["/nowhere"], (2, 3, 1), 3, 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is not a checkpoint that Orbax can read"):
        load_subject("mlp", [str(tmp_path / "empty")], (2, 3, 1), 3, 4)
    save(tmp_path / "a", normalized_networks()[0])
    with pytest.raises(UserError, match=r"is not of mlp of width 4 .*: it lacks .* and holds"):
        load_subject("mlp", [str(tmp_path / "a")], (2, 3, 1), 3, 4)
