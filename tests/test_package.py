"""The package as a whole: it starts fast, configurations compose, all reaches a wheel."""

import configparser
import importlib
import os
import re
import subprocess
import sys

import pytest

import mdtree_jax
from mdtree_jax import cli
from mdtree_jax.__main__ import COMMANDS, main
from mdtree_jax.config import SCHEMAS
from tests.conftest import ROOT

PACKAGE = ROOT / "mdtree_jax"


def test_import_of_the_package_is_light(tmp_path):
    code = (
        "import sys, mdtree_jax; mdtree_jax.load_collection, mdtree_jax.MDTreeClassifier; "
        "print(sorted({'jax', 'hydra', 'omegaconf', 'matplotlib'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_configuration_composes_under_its_schema(path):
    relative = path.relative_to(ROOT / "conf")
    if len(relative.parts) > 1:  # a grid: the one kind of group
        assert relative.parts[0] == "grid"
        assert isinstance(cli.compose("sweep", [f"+grid={path.stem}"]), SCHEMAS["sweep"])
        return
    config = cli.compose(path.stem, ["+grid=digits_tiny"] if path.stem == "sweep" else [])
    assert isinstance(config, SCHEMAS[path.stem])
    text = path.read_text()
    for key in set(vars(config)) - {"grid"}:
        assert re.search(rf"^{key}:.*#", text, re.MULTILINE), f"{key} has no comment that --help could show"


def test_everything_reaches_a_wheel():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    roots = {"mdtree_jax": PACKAGE, "mdtree_jax.conf": ROOT / "conf", "mdtree_jax.sweeps": ROOT / "sweeps"}
    folders = {}
    for name, root in roots.items():
        inner = [path.parent for path in root.rglob("__init__.py")]
        folders |= {path: ".".join((name, *path.relative_to(root).parts)) for path in inner}
    assert set(setup["options"]["packages"].split()) == set(folders.values())
    data, number = setup["options.package_data"], 0
    for root in roots.values():
        for file in root.rglob("*"):
            if (
                file.suffix in {".py", ".yaml", ".json", ".parquet", ".html", ".css", ".LICENSE", ".typed"}
                and "__pycache__" not in file.parts
            ):
                package = next(parent for parent in file.parents if parent in folders)
                patterns = ["*.py", *data.get(folders[package], "").split()]
                assert any(file.relative_to(package).match(pattern) for pattern in patterns), file
                number += 1
    assert number > 100


def test_every_command_says_its_version_which_is_written_once(capsys):
    expected = f"mdtree-jax {mdtree_jax.__version__}\n"
    for name in COMMANDS:
        assert main([name, "--version"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == expected * (len(COMMANDS) + 1)
    assert main([]) == 0
    helped = capsys.readouterr().out
    assert all(f"mdtree-jax {name} " in helped for name in COMMANDS)
    assert main(["swep"]) == 2
    assert "did you mean 'sweep'?" in capsys.readouterr().err
    assert main(["transfer", "mode=x"]) == 2
    assert capsys.readouterr().err.startswith("transfer: ")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE).group(1)
    logged = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1)
    assert setup["metadata"]["version"] == cited == logged


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_name_what_is_there(path):
    """They take minutes and are not run here, but what they import must not be gone."""
    importlib.import_module(f"tests.benchmarks.{path.stem}")


@pytest.mark.slow
def test_benchmarks_of_the_hessian_run():
    command = [sys.executable, "tests/benchmarks/hessian_kernels.py", "WHAT", "--model", "mlp", "--widths", "2"]
    command += ["--size", "4", "--steps", "3", "--keys", "2", "--seconds", "0.1", "--blocks", "1", "--batches", "20"]
    for what in ("cost", "batches", "trace", "stops", "eigen"):
        command[2] = what
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert sum(line.startswith("| mlp") for line in done.stdout.splitlines()) >= (
            1 if what in ("cost", "batches") else 2
        )
