"""The command lines `diagnose` and `reference`: tables, run folders, and one sentence for every mistake."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from mdtree_jax import diagnose, diagnose_metrics, reference
from mdtree_jax.cli import run
from mdtree_jax.diagnosis.reference import default_reference
from mdtree_jax.diagnosis.result import Diagnosis
from mdtree_jax.store.manifest import FORMAT, write_manifest
from tests.models.test_convert import random_state_dict

ROW = {"train_error": 7.5, "log_hessian_trace": 5.6, "cka": 0.4, "mode_connectivity_peak": -9.0}


def call(capsys, *overrides, command=diagnose):
    code = run(command.__name__.rpartition(".")[2], command.__doc__, command.main, list(overrides))
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_table_of_one_model(capsys):
    pd.DataFrame([ROW]).to_csv("m.csv", index=False)
    code, out, _ = call(capsys, "metrics=m.csv", "name=net", "out=answer", "format=json")
    facts = json.loads(out)
    wanted = diagnose_metrics(ROW)[0].to_dict()
    assert code == 0
    wanted |= {"reference_provenance": default_reference().provenance}
    assert facts == {"name": "net"} | json.loads(json.dumps(wanted))
    said = {"name", "answer", "sentence", "abstains", "reason", "notes", "reference_provenance"}
    of_outlook = {"budget", "moves", "answers", "spent", "probes"}
    assert set(facts) - said - of_outlook == set(Diagnosis.__dataclass_fields__) - {"outlook"}
    assert list(facts)[:2] == ["name", "answer"]
    assert facts["answer"] == (None if facts["abstains"] else facts["cause"])
    with open("answer/diagnosis.json") as stream:
        assert json.load(stream) == facts
    with open("answer/report.html") as stream:
        assert "Why is net not better?" in stream.read()
    code, out, _ = call(capsys, "metrics=m.csv")
    assert code == 0
    assert "What to do:" in out
    assert "runs/diagnose/report.html" in out


def test_pages_of_an_earlier_diagnosis_do_not_stay_beside_new_ones(capsys):
    rows = [ROW | {"name": f"net {i}", "batch_size": 64, "colour": "red"} for i in range(3)]
    pd.DataFrame(rows).to_csv("three.csv", index=False)
    pd.DataFrame(rows[:1]).to_csv("one.csv", index=False)
    code, out, _ = call(capsys, "metrics=three.csv", "out=pages")
    assert code == 0
    assert "olumns not used: colour" in out
    for name in ("mine.html", "model-7-of-mine.html"):
        Path("pages", name).write_text("not ours")
    kept = Path("pages", "before the change.html")
    kept.write_bytes(Path("pages", "model-1-net-0.html").read_bytes())
    assert call(capsys, "metrics=one.csv", "out=pages")[0] == 0
    assert {path.name for path in Path("pages").iterdir()} == {
        "report.html", "diagnosis.json", "mine.html", "model-7-of-mine.html", kept.name
    }  # fmt: skip
    assert call(capsys, "metrics=three.csv", "out=pages")[0] == 0
    ours = {f"model-{i}-net-{i - 1}.html" for i in (1, 2, 3)} | {"index.html"}
    assert {path.name for path in Path("pages").glob("*.html")} == ours | {
        "mine.html",
        "model-7-of-mine.html",
        kept.name,
    }


def test_a_table_of_many_models_with_names(capsys):
    pd.DataFrame([ROW | {"name": f"net {i}", "train_error": i} for i in range(3)]).to_parquet("m.parquet")
    code, out, _ = call(capsys, "metrics=m.parquet", "out=many")
    assert code == 0
    assert "3 models" in out
    with open("many/diagnosis.json") as stream:
        found = json.load(stream)
    assert [facts["name"] for facts in found] == ["net 0", "net 1", "net 2"]
    assert found[0]["reference_provenance"]["accuracy"]["joint"]["models"] > 1000
    page = " ".join(Path("many/index.html").read_text().split())
    assert (
        "an interval intended to contain the gain of nine in ten models; on published/F_noise it contained 78" in page
    )


def test_a_page_for_the_first_models_only(capsys, monkeypatch):
    monkeypatch.setattr(diagnose, "_MOST_PAGES", 2)
    pd.DataFrame([ROW | {"note": "x"}] * 3).to_parquet("m.parquet")
    code, out, _ = call(capsys, "metrics=m.parquet", "out=many")
    assert code == 0
    assert "the report shows the first 2 of 3 models; all are in many/diagnosis.json" in " ".join(out.split())
    assert len(list(Path("many").glob("model-*.html"))) == 2
    facts = json.loads(Path("many/diagnosis.json").read_text())
    assert [f["notes"][-1] for f in facts] == ["columns not used: note"] * 3


def test_a_measured_run_is_diagnosed_from_its_table(capsys, small_grid, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    costs = {"hessian_seconds": 2.0, "connectivity_seconds": 4.0, "train_seconds": 30.0, "num_finite": 3}
    costs |= {"hessian_flops": 1e9, "connectivity_flops": 2e9, "train_flops": 5e10}
    small_grid.assign(learning_rate=0.1, weight_decay=0.0, train_epochs=7, **costs).to_parquet(
        folder / "collection.parquet"
    )
    select = ["select.width=32", "select.batch_size=16", "select.data_fraction=0.5"]
    code, out, _ = call(capsys, f"run={folder}", *select, "format=json")
    facts = json.loads(out)
    assert code == 0
    assert facts["name"] == "width 32, batch size 16, data fraction 0.5"
    # Three networks and the three pairs of a ring: 3 x 2 + 3 x 4 seconds.
    assert 18 < facts["cost"]["diagnosis_seconds"] < 48  # and the time of the answer, here
    assert facts["cost"]["diagnosis_flops"] == 9e9
    assert facts["cost"]["grid_search_flops"] == 27 * 5e10
    code, _, err = call(capsys, f"run={folder}", "select.width=5")
    assert (code, err) == (2, "diagnose: select.width=5 matches no configuration; available: 4, 32, 64\n")


@pytest.mark.parametrize(("dataset", "reference"), [("digits", "digits"), ("cifar10", "published/F")])
def test_a_run_is_compared_with_models_of_its_own_data(capsys, small_grid, tmp_path, dataset, reference):
    folder = tmp_path / "run"
    folder.mkdir()
    small_grid.assign(num_finite=3, train_seconds=30.0, train_flops=5e10).to_parquet(folder / "collection.parquet")
    manifest = {"format": FORMAT, "config": {"dataset": dataset}}
    write_manifest(folder / "manifest.json", manifest)
    chosen = ["select.width=32", "select.batch_size=16", "select.data_fraction=0.5", "format=json"]
    code, out, _ = call(capsys, f"run={folder}", *chosen)
    assert code == 0
    assert json.loads(out)["reference"] == reference
    assert not any("labels are noise" in note for note in json.loads(out)["notes"])
    manifest["config"]["label_noise_fraction"] = 0.1
    write_manifest(folder / "manifest.json", manifest)
    code, out, _ = call(capsys, f"run={folder}", *chosen, "reference=published_F")
    assert json.loads(out)["reference"] == "published/F"
    assert json.loads(out)["remarks"][-1] == {"kind": "label_noise", "share": 0.1}
    assert json.loads(out)["notes"][-1].startswith("10 % of the training labels are noise")


def test_a_configuration_without_checkpoints_harms_no_other(capsys, small_grid, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    table = small_grid.assign(num_finite=3, train_seconds=30.0, train_flops=5e10)
    measured = ["mode_connectivity_peak", "log_hessian_trace", "cka"]
    table.loc[[0, 1], [name for name in measured if name in table]] = np.nan
    table.to_parquet(folder / "collection.parquet")
    code, out, err = call(capsys, f"run={folder}", "format=json")
    found = json.loads(out)
    assert code == 0
    assert err.startswith(f"2 of {len(table)} configurations have not been measured yet; measuring them")
    assert [d["abstains"] for d in found[:2]] == [True, True]
    assert found[0]["reason"].endswith("has no manifest.json, so what its networks were trained on is not known")
    assert all(d["position"] for d in found[2:])
    # What is wrong with all of the run, or with what is asked, is no configuration's.
    code, out, err = call(capsys, f"run={folder}", "+measure.effort=exakt")
    assert (code, out) == (2, "")
    assert "unknown effort 'exakt'" in err
    table[measured] = np.nan
    table.to_parquet(folder / "collection.parquet")
    code, out, err = call(capsys, f"run={folder}")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("has no manifest.json, so what its networks were trained on is not known")


def test_a_configuration_whose_networks_all_diverged_harms_no_other(capsys, small_grid, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    table = small_grid.assign(num_finite=3, train_seconds=30.0, train_flops=5e10)
    metrics = [
        "test_error",
        "train_error",
        "train_loss",
        "test_loss",
        "mode_connectivity_peak",
        "log_hessian_trace",
        "cka",
    ]
    table.loc[0, metrics] = np.nan
    table.loc[0, "num_finite"] = 0
    table.iloc[:3].to_parquet(folder / "collection.parquet")
    code, out, _ = call(capsys, f"run={folder}", "format=json")
    facts = json.loads(out)
    assert code == 0
    assert facts[0]["abstains"]
    assert "diverged" in facts[0]["reason"]
    assert "smaller learning rate" in facts[0]["action"]["sentence"]
    assert facts[1]["metrics"]["train_error"] == pytest.approx(table["train_error"][1])


def test_a_reference_of_ones_own(capsys, small_grid):
    small_grid.to_csv("own.csv", index=False)
    code, out, _ = call(capsys, "collection=own.csv", "out=own.json", command=reference)
    assert code == 0
    assert "own.json: 18 configurations of own.csv" in out
    pd.DataFrame([ROW]).to_csv("m.csv", index=False)
    code, out, _ = call(capsys, "metrics=m.csv", "reference=own.json", "format=json")
    assert code == 0
    assert json.loads(out)["reference"] == "own.csv"
    code, _, err = call(capsys, command=reference)
    assert code == 2
    assert "collection= is required" in err


MODEL = ["model=resnet18", "dataset=digits"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give exactly one of metrics=TABLE, run=FOLDER, or model=NAME with checkpoints=[…]; given: none"),
        (["metrics=a.csv", "run=b"], "checkpoints=[…]; given: metrics, run"),
        (["metrics=none.csv"], "the table of metrics 'none.csv' does not exist"),
        (["metrics=bad.txt"], "the table of metrics 'bad.txt' ends in '.txt'; it must be a .csv or .parquet file"),
        (["metrics=bad.parquet"], "the table of metrics 'bad.parquet' cannot be read"),
        (["metrics=other.csv"], "the table has none of the metrics train_error, "),
        (["metrics=small.csv"], "set units=fraction or units=percent"),
        (["metrics=small.csv", "units=percents"], "unknown units 'percents' (did you mean 'percent'?)"),
        (["metrics=small.csv", "format=xml"], "unknown format 'xml'; available: text, json"),
        (["metrics=small.csv", "reference=none.json"], "reference=none.json is neither a file nor a reference of the"),
        (["metrics=small.csv", "reference=other.json"], "'other.json' is not a reference"),
        (["metrics=small.csv", "units=percent", "training.epochs=0"], "training.epochs=0 is out of range"),
        (
            ["metrics=small.csv", "units=percent", "training.epochs=inf"],
            "epochs=inf is out of range; it must be finite and",
        ),
        (["model=failing:build", "checkpoints=[there]", "dataset=digits"], "failed (ValueError: two lines)"),
        (["metrics=small.csv", "training.epoch=3"], "unknown setting 'epoch' (did you mean 'epochs'?)"),
        (["run=nowhere"], "run=nowhere is not a run folder with finished networks"),
        (["checkpoints=[a]"], "checkpoints need model="),
        (["checkpoints=[a]", "model=resnet18"], "checkpoints need dataset="),
        (["checkpoints=[a]", *MODEL], "the checkpoint 'a' does not exist"),
        (["checkpoints=[a]", "model=vgg16", "dataset=cifar10", "data_dir=nowhere"], "unknown model 'vgg16'"),
        (
            ["checkpoints=[a.pt]", "model=a:b", "dataset=cifar10", "data_dir=nowhere"],
            "the checkpoint 'a.pt' does not exist",
        ),
        (["checkpoints=[a=1.pt,b=2.pt]", *MODEL], 'the quotes: \'checkpoints=["a=1.pt","b=2.pt"]\''),
        (['checkpoints=["a=1.pt"]', *MODEL], "the checkpoint 'a=1.pt' does not exist"),
        (["checkpoints=[c,3.pt]", *MODEL], "the checkpoint 'c' does not exist, but 'c,3.pt' does: a path with a comma"),
        (["metrics=c,3.csv"], "needs quotes within the quotes: 'metrics=\"c,3.csv\"'"),
        (["run=unfinished"], "run=unfinished has no finished cohort yet"),
        (
            ["run=foreign"],
            "run=foreign was not made by sweep: its collection.parquet has no column 'batch_size'; to ",
        ),
        (
            ["checkpoints=[tv.safetensors]", *MODEL],
            "'tv.safetensors': shapes differ from those of resnet18 of width 64",
        ),
        (["checkpoints=[bad.safetensors]", *MODEL], "weights 'bad.safetensors' are damaged"),
        (
            ["checkpoints=[small.csv]", *MODEL, "model_width=2"],
            "the checkpoint 'small.csv' is of an unknown format; known are",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(capsys, tmp_path, overrides, message):
    for name in ("bad.txt", "bad.parquet", "bad.safetensors", "c,3.pt"):
        (tmp_path / name).write_text("nothing")
    (tmp_path / "unfinished").mkdir()
    swept = ("width", "batch_size", "data_fraction", "num_samples", "num_finite")
    pd.DataFrame({name: [] for name in swept}).to_parquet("unfinished/collection.parquet")
    (tmp_path / "foreign").mkdir()
    pd.DataFrame([ROW | {"width": 4, "bs": 16}]).to_parquet("foreign/collection.parquet")
    # A ResNet for large images: the same names, another stem.
    weights = random_state_dict("resnet18", 64, 10)
    weights["conv1.weight"] = np.zeros((64, 3, 7, 7), np.float32)
    safetensors.numpy.save_file(weights, "tv.safetensors")
    (tmp_path / "other.json").write_text("{}")
    pd.DataFrame([{"a": 1}]).to_csv("other.csv", index=False)
    Path("failing.py").write_text("def build():\n    raise ValueError('two\\nlines')\n")
    Path("there").mkdir()
    pd.DataFrame([ROW | {"train_error": 0.4, "mode_connectivity_peak": -0.3}]).to_csv("small.csv", index=False)
    code, out, err = call(capsys, *overrides)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_missing_columns_say_what_can_still_be_answered(capsys):
    pd.DataFrame([{"train_error": 7.5, "cka": np.nan}]).to_csv("m.csv", index=False)
    code, out, _ = call(capsys, "metrics=m.csv")
    assert code == 0
    assert "“Would a larger model gain more than a better temperature?” cannot be answered" in " ".join(out.split())


def test_what_the_answer_may_use_is_a_setting(capsys, small_grid, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    small_grid.assign(num_finite=3).iloc[:2].to_parquet(folder / "collection.parquet")
    write_manifest(folder / "manifest.json", {"format": FORMAT, "config": {"dataset": "digits"}})
    whole, alone = (
        json.loads(call(capsys, f"run={folder}", "format=json", *more)[1]) for more in ([], ["evidence=landscape"])
    )
    for both, landscape in zip(whole, alone, strict=True):
        assert both["budget"]
        assert both["moves"]
        assert both["landscape"]["ranking"] == landscape["ranking"]
        assert (landscape["budget"], landscape["landscape"]) == ([], None)
        # The classes of the data set say what guessing is.
        assert not any(remark["kind"] == "chance_unknown" for remark in both["remarks"])
    code, out, err = call(capsys, f"run={folder}", "evidence=landscap")
    assert (code, out) == (2, "")
    assert "unknown evidence 'landscap' (did you mean 'landscape'?)" in err
