"""Two diagnoses of a model: what moved, and whether the predicted gain was real, against values worked out by hand."""

import json

import pytest

from mdtree_jax import diagnose
from mdtree_jax.checks import UserError
from mdtree_jax.cli import run
from mdtree_jax.diagnosis.compare import compare, read_diagnoses
from mdtree_jax.diagnosis.words.comparison import causes_sentence, gain_sentence, moved_row

BEFORE = {
    "name": "a",
    "cause": "too_little_data",
    "abstains": False,
    "test_error": 20.0,
    "expected_gain": {"mean": 3.0, "low": 1.0, "high": 6.0, "models": 9, "cut": False},
    "metrics": {"train_error": 10.0, "train_error_se": 3.0, "cka": 0.5, "train_loss": 0.2, "train_loss_se": 0.01},
}
AFTER = BEFORE | {
    "cause": "none",
    "test_error": 15.0,
    "metrics": {"train_error": 5.0, "train_error_se": 4.0, "cka": 0.75, "train_loss": 0.1, "train_loss_se": 0.0},
}


def test_gain_interval_and_standard_errors():
    (found,) = compare([BEFORE], [AFTER | {"name": "renamed"}])
    assert (found.gained, found.predicted, found.held) == (5.0, (3.0, 1.0, 6.0), True)
    moved = {one.name: one.errors for one in found.moved}
    assert moved == {"train_error": pytest.approx(-1.0), "train_loss": pytest.approx(-10.0), "cka": None}
    assert list(moved) == ["train_loss", "train_error", "cka"]
    assert moved_row(found.moved[1])[0] == "training error"
    assert "within the interval" in gain_sentence(found)
    assert "was: too little data" in causes_sentence(found)


@pytest.mark.parametrize(("error", "words"), [(10.0, "above"), (19.5, "below"), (None, "not known")])
def test_what_was_not_as_predicted(error, words):
    (found,) = compare([BEFORE], [AFTER | {"test_error": error}])
    assert words in gain_sentence(found)
    assert found.held is (None if error is None else False)


def test_models_are_paired_by_name():
    found = compare([BEFORE, BEFORE | {"name": "b", "test_error": 9.0}], [AFTER | {"name": "b"}])
    assert [(one.name, one.gained) for one in found] == [("b", -6.0)]
    with pytest.raises(UserError, match=r"no model has the name of one diagnosed before \(a, b\)"):
        compare([BEFORE, BEFORE | {"name": "b"}], [AFTER | {"name": "c"}])


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"cause": "none"}'])
def test_files_that_hold_no_diagnosis(tmp_path, text):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"compare=.*(cannot be read as JSON|holds no diagnosis)"):
        read_diagnoses(path)


def test_command_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    head = "name,train_error,train_loss,log_hessian_trace,cka,test_error\n"
    for name, row in {"old": "<b>,4,0.1,6,0.4,20", "new": "<b>,1,0.01,6.5,0.6,17"}.items():
        (tmp_path / f"{name}.csv").write_text(f"{head}{row}\n")
    settings = ["evidence=landscape", "reference=digits"]
    assert run("diagnose", "", diagnose.main, ["metrics=old.csv", "out=old", *settings]) == 0
    both = ["metrics=new.csv", "out=new", "compare=old/diagnosis.json", *settings]
    assert run("diagnose", "", diagnose.main, both) == 0
    assert "Test accuracy changed by +3" in capsys.readouterr().out
    page = (tmp_path / "new" / "compare.html").read_text()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert json.loads((tmp_path / "new" / "diagnosis.json").read_text())["test_error"] == 17
    assert run("diagnose", "", diagnose.main, ["metrics=new.csv", "compare=missing.json"]) == 2
