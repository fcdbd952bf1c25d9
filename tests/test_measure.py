"""`python -m mdtree_jax.measure`: checkpoints of a user's own model become rows of the user's own collection."""

import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pandas as pd
import pytest

from mdtree_jax import UserError, measure_model
from mdtree_jax import measure as measure_module
from mdtree_jax.cli import run
from mdtree_jax.store.rows import append_row
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("quickly_compiled")

QUICK = "{metrics: [hessian], effort: fast, hessian_images: 20, trace_products: 8, eigenvalue_steps: 5}"
RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, 60)
X = (np.eye(6)[Y] + 0.4 * RNG.standard_normal((60, 6))).astype(np.float32)


def build(width=5):
    return nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(3)])


def load():
    return {"train": (X[:40], Y[:40]), "validation": (X[40:50], Y[40:50]), "test": (X[50:], Y[50:])}


def measure(*overrides):
    given = ["model=tests.test_measure:build", "dataset=tests.test_measure:load", f"measure={QUICK}", *overrides]
    return run("measure", measure_module.__doc__, measure_module.main, given)


def test_rows_of_networks_become_a_collection(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    networks = [build().init(jax.random.key(seed), X) for seed in (0, 1)]
    for name, variables in zip("ab", networks, strict=True):
        leaves = jax.tree_util.tree_leaves_with_path(variables)
        arrays = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
        np.savez(f"{name}.npz", **arrays)
    for fraction in (0.5, 1, 1):
        names = "[a.npz,b.npz]" if fraction == 1 else "[a.npz]"
        settings = ["width=5", "batch_size=8", f"data_fraction={fraction}", "columns={learning_rate: 0.1}"]
        assert measure(f"checkpoints={names}", "append_to=mine.csv", *settings) == 0
    assert "mine.csv: 2 rows" in capsys.readouterr().out
    table = pd.read_csv("mine.csv")
    assert table["data_fraction"].tolist() == [0.5, 1]
    assert table["num_finite"].tolist() == [1, 2]
    assert (table["learning_rate"] == 0.1).all()
    quick = {"metrics": ["hessian"], "effort": "fast", "hessian_images": 20, "trace_products": 8, "eigenvalue_steps": 5}
    row = measure_model(build(), networks, "tests.test_measure:load", measure=quick, width=5)
    for name in ("train_error", "test_error", "log_hessian_trace", "width"):
        assert table[name][1] == pytest.approx(row[name])
    errors = [np.mean(np.asarray(build().apply(v, X[50:])).argmax(1) != Y[50:]) for v in networks]
    assert row["test_error"] == pytest.approx(100 * np.mean(errors))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=null"], "model= is required"),
        (["checkpoints=[]"], "checkpoints=[] is empty"),
        (["append_to=mine.txt"], "append_to='mine.txt' must be a .csv or .parquet file"),
        (["columns={rates: [1]}"], "columns.rates=[1] is a list; expected a number or text"),
        (["columns=3"], "columns=3 is not a mapping"),
        (["checkpoints=[nowhere.npz]"], "the checkpoint 'nowhere.npz' does not exist"),
        (["chekpoints=[a]"], "unknown setting 'chekpoints' (did you mean 'checkpoints'?)"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(overrides, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert measure("checkpoints=[nowhere.npz]", *overrides) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_table_grows_by_rows_and_stays_whole(tmp_path):
    for path in (tmp_path / "a.csv", tmp_path / "a.parquet"):
        assert append_row(path, {"name": "a", "width": 1}) == 1
        assert append_row(path, {"name": "b", "error": 0.5}) == 2
        assert append_row(path, {"name": "a", "width": 3.0}, same=("name",)) == 2
        read = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        assert read["name"].tolist() == ["b", "a"]
        assert read["width"].fillna(0).tolist() == [0, 3]
    (tmp_path / "b.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match="cannot be read as a table"):
        append_row(tmp_path / "b.parquet", {"name": "a"})
    assert (tmp_path / "b.parquet").read_bytes() == b"no table"


APPEND = """
import sys
from pathlib import Path
from mdtree_jax.store.rows import append_row
for number in range(5):
    append_row(Path(sys.argv[1]), {"process": int(sys.argv[2]), "number": number})
"""


def test_processes_take_turns(tmp_path):
    commands = [[sys.executable, "-c", APPEND, str(tmp_path / "a.csv"), str(one)] for one in range(3)]
    running = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(pd.read_csv(tmp_path / "a.csv").drop_duplicates()) == 15


def test_frozen_layers_and_limits_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, file in enumerate("ab"):
        params = build().init(jax.random.key(seed), X)["params"]
        names = {"layers_0/kernel": np.eye(6, 5, dtype=np.float32), "layers_0/bias": np.zeros(5, np.float32)}
        names |= {f"layers_2/{name}": leaf for name, leaf in params["layers_2"].items()}
        np.savez(f"{file}.npz", **{f"params/{name}": leaf for name, leaf in names.items()})
    capsys.readouterr()
    assert measure("checkpoints=[a.npz,b.npz]", "frozen=[layers_0]", "memory_gb=2", "max_minutes=60") == 0
    out = capsys.readouterr().out
    assert "35 of 53 parameters are frozen" in " ".join(out.split())
    assert "log_hessian_trace" in out
    for setting, message in (
        ("frozen=[layers_1]", "frozen=layers_1: there is no such parameter (did you mean 'layers_"),
        ("frozen=[layers_2]", "is frozen, but differs between networks 1 and 2"),
        ("max_minutes=0.01", "minutes here, and max_minutes=0.01: allow more"),
        ("memory_gb=0", "memory_gb=0 is out of range; it must be above 0, finite"),
    ):
        assert measure("checkpoints=[a.npz,b.npz]", setting) == 2
        assert message in " ".join(capsys.readouterr().err.split())
