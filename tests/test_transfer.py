"""The command `python -m mdtree_jax.transfer`: what it writes, and what it says to bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import MDTreeClassifier, cli, load_collection, transfer
from mdtree_jax.experiments.method_table import METHODS
from mdtree_jax.experiments.one_step import ONE_STEP_METHODS
from mdtree_jax.experiments.runner import EXPERIMENTS
from tests.conftest import ROOT


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command in an empty folder: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    # Other tests of this process have started JAX, and such a process must not fork.
    monkeypatch.setattr("mdtree_jax.parallel.available_cores", lambda: 1)

    def call(*arguments):
        code = cli.run("transfer", transfer.__doc__, transfer.main, ["figures=false", *arguments])
        return code, *capsys.readouterr()

    return call


def test_one_collection_is_tested_on_what_was_not_sampled(run, small_grid, tmp_path):
    small_grid.to_csv("own.csv", index=False)
    code, out, _ = run("collection=own.csv", "mode=all", "seeds=3", "out=results")
    assert code == 0
    results = pd.read_csv("results/results.csv")
    sizes = small_grid.assign(**load_collection("own.csv")).label_optimizer.ne("optimal").sum()
    part = results[results.experiment == "q1_dataset"]
    assert (part.n_train + part.n_test == sizes).all()
    assert "leaves none to test on" in out
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == [
        "one_step.csv", "results.csv", "tables.md", "thresholds.csv"]  # fmt: skip


def test_tables_have_the_documented_columns_and_rows(run, collections):
    code, _, _ = run("collection=published", "mode=all", "seeds=[42,90]", "k=[1,8]")
    assert code == 0
    folder = "runs/transfer-all"
    results, one_step, thresholds = (pd.read_csv(f"{folder}/{n}.csv") for n in ("results", "one_step", "thresholds"))
    assert results.columns.tolist() == [
        "experiment", "task", "method", "k", "seed", "n_train", "n_test", "accuracy"]  # fmt: skip
    assert one_step.columns.tolist() == ["task", "method", "step", "seed", "gain", "gain_unclipped"]
    assert set(results.experiment) == set(EXPERIMENTS)
    assert set(results.method) == set(METHODS)
    assert set(results.task) == {"optimizer", "size", "data"}
    assert set(one_step.method) == {"random", *ONE_STEP_METHODS, "oracle"}
    assert not results.duplicated(["experiment", "method", "k", "seed"]).any()
    fitted = results[results.method.isin(thresholds.method)]
    counted = thresholds[~thresholds.experiment.str.startswith("one_step")]
    nodes = {"optimizer": 3, "size": 3, "data": 6}
    assert len(counted) == fitted.task.map(nodes).sum()
    assert "## The paper's table beside ours" in Path(folder, "tables.md").read_text()
    assert os.listdir(".") == ["runs"]  # no outputs/, no log file


def test_by_default_the_packaged_pair_is_taken(run):
    code, out, _ = run("mode=dataset", "seeds=[42]", "k=[8]", "tasks=optimizer", "methods=majority")
    assert code == 0
    text = Path("runs/transfer-dataset/tables.md").read_text()
    assert "digits" in text
    assert "digits_noisy" in text
    assert "paper" not in out + text
    results = pd.read_csv("runs/transfer-dataset/results.csv")
    assert results.n_test.unique().tolist() == [load_collection("digits_noisy").label_optimizer.ne("optimal").sum()]


def test_forked_processes_give_the_same_tables(collections):
    from mdtree_jax.experiments.method_table import get_methods
    from mdtree_jax.experiments.runner import Runner, experiments_of

    tables = []
    for jobs in (1, 2):
        runner = Runner(*collections, get_methods(["md_tree", "validation"]), range(5), k=[1, 3], jobs=jobs)
        tables.append(runner.run(experiments_of("dataset")))
    for serial, forked in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(serial, forked)


def test_exchanged_sides_and_seed_ranges(run, collections):
    code, out, _ = run(
        "train=published/F_noise", "test=published/F", "mode=scale", "seeds=200:202", "k=[1]", "methods=[md_tree]"
    )
    assert code == 0
    results = pd.read_csv("runs/transfer-scale/results.csv")
    assert set(results.seed) == {200, 201}
    assert results[results.task == "size"].n_test.unique().tolist() == [1669]
    assert "paper" not in out


def test_figures(tmp_path, small_grid, run):
    small_grid.to_parquet("collection.parquet")
    assert cli.run("transfer", "", transfer.main, ["collection=.", "mode=all", "seeds=2", "out=out"]) == 0
    names = {p.name for p in (tmp_path / "out" / "figures").iterdir()}
    wanted = {f"accuracy_{e}" for e in EXPERIMENTS}
    wanted |= {f"tree_{t}" for t in ("optimizer", "optimizer_similarity", "size", "data")}
    wanted |= {"phase_metrics_collection"} | {f"phase_{t}_collection" for t in ("optimizer", "size", "data")}
    assert names == {f"{name}.{kind}" for name in wanted for kind in ("png", "svg")}


def drop_column(frame):
    return frame.drop(columns="log_hessian_trace")


TEST = "test_error"
BAD_TABLES = {
    "misspelt": (lambda f: f.rename(columns={"test_error": "test_eror"}), "no column 'test_error'.*mean 'test_eror'"),
    "nan": (lambda f: f.assign(cka=f.cka.mask(f.index == 3)), "column 'cka'.*'nan' in the row of index 3"),
    "infinity": (lambda f: f.assign(train_loss=np.inf), "column 'train_loss' holds 'inf'"),
    "text": (lambda f: f.assign(cka=f.cka.astype(object).mask(f.index == 1, "high")), "column 'cka'.* holds 'high'"),
    "incomplete": (lambda f: f.drop(index=[0, 5]), "3 x 3 x 2 = 18 configurations lacks 2: width=4, batch_size=16"),
    "twice": (lambda f: pd.concat([f, f.iloc[[4]]]), "width=4, batch_size=64, data_fraction=0.5 stands twice"),
    "fraction": (lambda f: f.assign(data_fraction=f.data_fraction * 2), r"data_fraction=2 .*must be \(0, 1\]"),
    "percent": (lambda f: f.assign(test_error=-f.test_error), "errors must be percentages in"),
    "label": (lambda f: f.assign(label_size="wide"), "column 'label_size' holds 'wide'"),
    "one_class": (lambda f: f.assign(test_error=10.0), "every label is 'optimal'"),
    "one_task": (
        lambda f: f.assign(label_size="size"),
        r"only one class for task 'size', 'size' in .*with tasks=\[opt",
    ),
    "converted": (
        lambda f: f.assign(test_acc=(100 - f.test_error).astype(object).mask(f.index == 2, "n/a?")).drop(columns=TEST),
        r"column 'test_acc' holds 'n/a\?' in the row with index 2; it must hold numbers",
    ),
    "fractions": (
        lambda f: f.assign(test_acc=1 - f.test_error / 100).drop(columns=TEST),
        "accuracies must be percentages, but column 'test_acc' has no value above 0.95",
    ),
    "empty": (lambda f: f.iloc[:0], "has no rows"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(name, run, small_grid, tmp_path):
    change, message = BAD_TABLES[name]
    change(small_grid).to_csv("bad.csv", index=False)
    expect_error(run("collection=bad.csv", "mode=all"), message)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.csv"]


def expect_error(outcome, message):
    code, out, err = outcome
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert re.search(message, err), err


BAD_SETTINGS = [
    (["mode=datset"], "unknown mode 'datset' .*mean 'dataset'.*available: dataset, scale, one_step, all"),
    (["methods=[md_tre]"], "unknown method 'md_tre' .*mean 'md_tree'.*available: hyperparameter, validation"),
    (["fit=best"], "unknown fit 'best' .*available: robust, published, exact"),
    (["collection=publishd"], "unknown collection 'publishd' .*mean 'published'.*published/F, published/F_noise"),
    (["train=published/f"], "unknown collection 'published/f'"),
    (["test=own.csv"], "test=own.csv needs train="),
    (["collection=own.csv", "train=own.csv"], "cannot be combined with train= or test="),
    (["seeds=many"], r"seeds='many'; seeds are a count \(50\), a list"),
    (["seeds=5:5"], "names no seed"),
    (["seeds=[1,-2]"], "names no seed"),
    (["collection=own.csv", "k=[0]"], "k=0; a sample size must be a whole number of at least 1"),
    (["collection=own.csv", "k=[1.5]"], "k=1.5; a sample size"),
    (["collection=own.csv", "mode=one_step", "methods=[majority]"], "with these methods, only hyperparameter"),
    (["collection=own.csv", "k=[]"], r"an empty list \[\] names nothing"),
    (["seeds=1,2"], r"a list is written 'seeds=\[1,2\]'"),
    (["+seeds=3"], "'seeds' is already a setting; write it without the plus sign"),
    (["collection=[a,b]"], "has the wrong type"),
    (["hydra.run.dir=x"], "'hydra.run.dir=x' is not accepted"),
    (["~mode"], "'~mode' is not accepted"),
    (["test=published", "train=digits"], r"'published' is a pair of collections, .* use collection=published"),
    (["sedes=3"], r"unknown setting 'sedes' \(did you mean 'seeds'\?\); available: mode, collection"),
    (["grid=cifar"], "unknown setting 'grid'"),
    (["+grid=cifar"], "unknown setting 'grid'"),
    (["figures=maybe"], "figures=maybe has the wrong type: figures must be bool"),
    (["train=a=b.csv"], "needs quotes within the quotes: 'train=\"a=b.csv\"'"),
    (["train=a(1).csv"], "needs quotes within the quotes"),
    (["mode"], "'mode' is not a setting; write key=value"),
    (["--multirun"], "'--multirun' is not a setting"),
    (
        ["collection=published", "published_dir=nowhere"],
        "'nowhere' .*has no file dataframe_normal_public.csv; put it there from https://",
    ),
    (["collection=own.csv", "out=own.csv"], "cannot write to the folder 'own.csv'"),
    (["collection=own.txt"], "unknown collection 'own.txt'"),
    (["collection=."], "the folder '.' holds no collection: it needs collection.parquet or collection.csv"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_SETTINGS, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_bad_settings(arguments, message, run, small_grid, tmp_path):
    small_grid.to_csv("own.csv", index=False)
    expect_error(run(*arguments), message)
    assert not list(tmp_path.glob("runs/*/*"))


def test_unreadable_tables(run, tmp_path):
    (tmp_path / "own.parquet").write_bytes(b"PAR1 cut off")
    expect_error(run("collection=own.parquet"), "'own.parquet' cannot be read")
    (tmp_path / "own.csv").write_text("")
    expect_error(run("collection=own.csv"), "'own.csv' cannot be read")
    (tmp_path / "own.json").write_text("{}")
    expect_error(run("collection=own.json"), "ends in '.json'; it must be a .csv or .parquet file")


def test_wrong_checksum(run, tmp_path):
    (tmp_path / "dataframe_normal_public.csv").write_text("width\n1\n")
    expect_error(
        run("collection=published", "published_dir=."), "has sha256 .*but published/F is the file with 3e1fb0019ff5"
    )


def test_no_network_and_no_folder(run, monkeypatch, tmp_path):
    import pooch

    def refuse(*_, **__):
        raise ConnectionError("unreachable")

    monkeypatch.delenv("MDTREE_JAX_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", refuse)
    expect_error(
        run("collection=published"),
        "could not be downloaded .*name that folder by published_dir=DIR or MDTREE_JAX_DATA=DIR",
    )


def test_download_is_checked_and_cached(monkeypatch, tmp_path, collections):
    """Fetch through pooch from a local folder that stands for the server."""
    from mdtree_jax.collection import published

    server = tmp_path / "server"
    server.mkdir()
    file, _ = published.FILES["published/F"]
    source = server / file
    source.write_bytes(published.published_file("published/F").read_bytes())

    def fetch(url, output_file, pooch):
        with open(output_file, "wb") as out:
            out.write(source.read_bytes())

    import pooch

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: fetch)
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")
    monkeypatch.delenv("MDTREE_JAX_DATA", raising=False)
    assert len(load_collection("published/F")) == 1690
    source.write_text("tampered")
    assert len(load_collection("published/F")) == 1690  # from the cache
    (tmp_path / "cache" / file).unlink()
    with pytest.raises(ValueError, match="does not match the known hash"):
        load_collection("published/F")


def test_method_without_its_columns_is_skipped_and_named(run, small_grid):
    drop_column(small_grid).to_csv("own.csv", index=False)
    code, out, _ = run("collection=own.csv", "mode=dataset", "seeds=2", "out=o")
    assert code == 0
    skipped = "collection 'own.csv' has no column 'log_hessian_trace' (published name 'hessian_t')"
    assert "task optimizer is run without landscape, md_tree, md_tree_exact, md_tree_robust, md_tree_relative, " in out
    assert skipped in " ".join(out.split())
    assert skipped in Path("o/tables.md").read_text()
    results = pd.read_csv("o/results.csv")
    assert "md_tree" not in set(results[results.task == "optimizer"].method)
    assert "md_tree" in set(results[results.task == "size"].method)
    expect_error(run("collection=own.csv", "methods=[md_tree,landscape]", "out=p"), "no method is left for task 'opt")


def test_data_task_on_a_grid_of_narrow_networks(run, small_grid):
    small_grid.assign(width=small_grid.width // 4).to_csv("own.csv", index=False)
    code, out, _ = run("collection=own.csv", "mode=scale", "seeds=1", "out=o", "tasks=data")
    assert code == 0
    assert "no width is 32 or more; the widths from 1 are used" in out
    assert set(pd.read_csv("o/results.csv").task) == {"data"}
    expect_error(
        run("collection=own.csv", "mode=one_step", "tasks=[data]"),
        "no experiment of the tasks data, only of opt",
    )
    expect_error(run("collection=own.csv", "tasks=[dat]"), "unknown task 'dat' .*available: optimizer, size, data")


def test_incomplete_grid_on_request(run, small_grid):
    small_grid.drop(index=[0, 5]).to_csv("own.csv", index=False)
    code, out, _ = run("collection=own.csv", "allow_missing=true", "mode=all", "seeds=2", "out=o")
    assert code == 0
    assert "note: collection 'own.csv' lacks 2 of the 18 configurations of its grid" in out
    assert np.isfinite(pd.read_csv("o/one_step.csv").gain).all()


def test_a_missing_metric_does_not_change_labels(run, small_grid):
    whole = load_collection(small_grid)
    row = int(np.argmax(whole.label_optimizer != "optimal"))
    holed = small_grid.assign(cka=small_grid.cka.mask(small_grid.index == row))
    part = load_collection(holed, allow_missing=True)
    assert part.label_size.tolist() == whole.label_size.tolist()
    holed.to_csv("own.csv", index=False)
    code, out, _ = run(
        "collection=own.csv", "allow_missing=true", "mode=dataset", "seeds=1", "out=o", "tasks=optimizer"
    )
    assert code == 0
    assert "task optimizer: 1 of " in out


def test_holes_spoil_no_figure(small_grid, tmp_path, run):
    row = int(np.argmax(load_collection(small_grid).label_optimizer != "optimal"))
    here = small_grid.index == row
    holes = {"cka": np.nan, "log_hessian_trace": np.inf, "train_error": "diverged"}
    holed = small_grid.assign(**{c: small_grid[c].astype(object).mask(here, hole) for c, hole in holes.items()})
    holed.to_csv("own.csv", index=False)
    (tmp_path / "o" / "figures").mkdir(parents=True)
    (tmp_path / "o" / "figures" / "my_notes.svg").write_text("mine")
    arguments = ["collection=own.csv", "allow_missing=true", "mode=dataset", "seeds=1", "out=o", "tasks=[optimizer]"]
    assert cli.run("transfer", "", transfer.main, arguments) == 0
    names = {p.name for p in (tmp_path / "o" / "figures").iterdir()}
    assert {"phase_optimizer_own.png", "tree_optimizer.png", "my_notes.svg"} <= names
    assert not {"tree_size.png", "tree_data.png"} & names


def test_a_hole_in_what_only_a_companion_asks_leaves_it_out_in_that_row(F):
    holed = load_collection(F.assign(cka=F.cka.mask(F.index == 3)), allow_missing=True)
    model = MDTreeClassifier("optimizer").fit(holed)
    assert any("cka" in member.features for member in model.members_)
    whole = load_collection(F)
    found, expected = model.predict_proba(holed), model.predict_proba(whole)
    other = np.arange(len(F)) != 3
    np.testing.assert_array_equal(found[other], expected[other])
    assert np.isfinite(found[3]).all()


def test_a_used_folder_holds_the_results_of_the_last_run_only(run, small_grid, tmp_path):
    small_grid.to_csv("own.csv", index=False)
    assert run("collection=own.csv", "mode=all", "seeds=1", "out=o")[0] == 0
    assert run("collection=own.csv", "mode=one_step", "seeds=2", "out=o")[0] == 0
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["one_step.csv", "tables.md", "thresholds.csv"]


def test_repeated_row_labels_of_a_parquet_file_do_no_harm(run, small_grid):
    small_grid.set_index(np.zeros(len(small_grid), dtype=int)).to_parquet("own.parquet")
    assert run("collection=own.parquet", "mode=one_step", "seeds=1")[0] == 0


def test_methods_that_take_no_step_do_not_stop_the_rest(run, small_grid):
    small_grid.to_csv("own.csv", index=False)
    code, out, _ = run("collection=own.csv", "mode=all", "methods=landscape", "seeds=1")
    assert code == 0
    assert "one_step is left out" in out


def test_labels_of_a_part_are_those_of_the_whole(small_grid):
    whole = load_collection(small_grid)
    part = load_collection(whole[whole.width < 64])
    assert part.label_size.tolist() == whole[whole.width < 64].label_size.tolist()


def test_process_exit_code_and_speed_of_help(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mdtree_jax.transfer"]
    done = subprocess.run([*command, "mode=x"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    code = (
        "import sys, runpy; sys.argv = ['transfer', '--help']\ntry: runpy.run_module('mdtree_jax.transfer', run_name="
    )
    code += "'__main__')\nexcept SystemExit: pass\nimport json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    *text, modules = done.stdout.splitlines()
    assert any(line.startswith("seeds: [42, 90, 38, 18, 72]") for line in text)
    assert not {"pandas", "sklearn", "hydra", "jax"} & set(json.loads(modules))
