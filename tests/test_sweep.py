"""The command line: every mistake is one sentence and exit code 2, before anything is written."""

import re
import subprocess
import sys
import time

import pytest

from mdtree_jax import sweep
from mdtree_jax.cli import compose, run
from mdtree_jax.cli import conf_dir as conf

GRIDS = "cifar, cifar_noisy, digits, digits_noisy, digits_tiny"


def call(capsys, *overrides):
    code = run("sweep", sweep.__doc__, sweep.main, list(overrides))
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], f"no grid is chosen; add +grid=NAME, where there are: {GRIDS}"),
        (["grid.width=[2]"], f"no grid is chosen; add +grid=NAME, where there are: {GRIDS}"),
        (["grid=digits"], "'grid' is chosen with a plus sign: +grid=NAME"),
        (["+grid=digit"], f"there is no configuration 'grid/digit'; there are: {GRIDS}"),
        (["+grid=digits", "grid.widht=[2]"], "unknown setting 'widht' (did you mean 'width'?)"),
        (["+grid=digits", "+grid.depth=2"], "unknown setting 'depth'"),
        (["+grid=digits", "grid.width=[a]"], "grid.width=[a] does not fit: grid.width takes list[int]"),
        (
            ["+grid=digits", "grid.dataset=cifar"],
            "unknown data set 'cifar' (did you mean 'cifar10'?); there are: digits,",
        ),
        (["+grid=digits", "grid.model=resnet9"], "unknown model 'resnet9'"),
        (
            ["+grid=digits", "grid.optimizer=adam"],
            "unknown optimizer 'adam' (did you mean 'adamw'?); there are: sgd, adamw",
        ),
        (["+grid=digits", "grid.schedule=linear"], "unknown schedule 'linear'; there are: constant, step, cosine"),
        (["+grid=digits", "grid.batch_size=[512]"], "batch_size=512 is larger than the subset of data_fraction=0.1"),
        (["+grid=digits", "grid.data_fraction=[0,1]"], "data_fraction=0 is out of range; wanted in (0, 1]"),
        (["+grid=digits", "grid.label_noise_fraction=2"], "label_noise_fraction=2 is outside [0, 1]"),
        (["+grid=digits", "keep=some"], "unknown keep 'some'; there are: all, metrics_only"),
        (["+grid=digits", "checkpoint_minutes=0"], "checkpoint_minutes=0 is out of range; wanted above 0"),
        (["+grid=cifar", "data_dir=nowhere"], "data_dir='nowhere' is not a folder"),
        (["+grid=digits", "grid.dataset=npz"], "dataset 'npz' needs data_file=PATH"),
    ],
)
def test_mistakes(capsys, tmp_path, overrides, message):
    code, out, err = call(capsys, *overrides)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted((conf() / "grid").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_composes_and_opens_as_a_lab_note(path):
    config = compose("sweep", [f"+grid={path.stem}"])
    assert config.grid.name == path.stem
    assert config.out == f"runs/{path.stem}"
    text = path.read_text()
    assert text.startswith(f"# python -m mdtree_jax.sweep +grid={path.stem}\n")
    if not path.stem.endswith("_noisy"):
        assert config.grid.label_noise_fraction == 0.0
        return
    clean = compose("sweep", [f"+grid={path.stem.removesuffix('_noisy')}"]).grid
    differing = {key for key, value in vars(config.grid).items() if value != getattr(clean, key)}
    assert differing == {"name", "label_noise_fraction"}


def test_help_is_fast_and_names_every_grid():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "mdtree_jax.sweep", "--help"], capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 2
    assert GRIDS in done.stdout
    assert not re.search(r"\bgrid: ", done.stdout)
