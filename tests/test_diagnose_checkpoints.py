"""`diagnose` on checkpoints: objectives, what else is given, what a check fails on; one sentence for every mistake."""

import json
from pathlib import Path

import numpy as np
import pytest

from mdtree_jax import UserError, diagnose, diagnose_metrics
from mdtree_jax.cli import run

pytestmark = pytest.mark.usefixtures("quickly_compiled")

MEASURE = "measure={metrics: [hessian], effort: fast, hessian_images: 40}"
TRAINING = ["training.learning_rate=0.05", "training.batch_size=20", "training.epochs=16", "training.momentum=0.9"]


def data_of(objective):
    """Return inputs and targets that a linear map of the inputs tells but for some noise."""
    rng = np.random.default_rng(0)
    if objective == "lm":
        x = rng.integers(0, 5, (120, 6))
        return x, np.where(rng.random(x.shape) < 0.1, rng.integers(0, 5, x.shape), (x + 1) % 5)
    x = rng.standard_normal((240, 4)).astype(np.float32)
    value = x @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.3 * rng.standard_normal(240)
    return x, {"regression": value.astype(np.float32), "binary": value > 0, "cross_entropy": 1 * (value > 0)}[objective]


def load(objective):
    """Return training and test data as `dataset=` asks for them, which has the objective from the command line."""
    x, y = data_of(objective.name)
    half = len(x) // 2
    return {"train": (x[:half], y[:half]), "test": (x[half:], y[half:])}


def build_table():
    return lambda params, x: params["w"][x]


def build_linear():
    return lambda params, x: x @ params["w"]


def build_two_layers():
    return lambda params, x: np.tanh(1.0) * (x @ params["first"]) @ params["second"]


def save(name, seed, **shapes):
    rng = np.random.default_rng(seed)
    np.savez(name, **{key: 0.1 * rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()})
    return name


def call(capsys, *overrides):
    code = run("diagnose", diagnose.__doc__, diagnose.main, [MEASURE, *overrides, "format=json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("objective", "builder", "shape"),
    [("regression", "build_linear", (4,)), ("binary", "build_linear", (4,)), ("lm", "build_table", (5, 5))],
)
def test_other_objectives_from_the_command_line(capsys, objective, builder, shape):
    for seed in (0, 1):
        save(f"{seed}.npz", seed, w=shape)
    named = [f"model={__name__}:{builder}", f"dataset={__name__}:load", f"objective={objective}"]
    code, found, _ = call(capsys, *named, "checkpoints=[0.npz,1.npz]", "cost=0")
    assert code == 0
    x, y = data_of(objective)
    half, total = len(x) // 2, 0.0
    for seed in (0, 1):
        w = np.load(f"{seed}.npz")["w"]
        if objective == "regression":
            residual = y[:half] - x[:half] @ w
            total += 100 * np.mean(residual**2) / np.var(y[:half])
        elif objective == "binary":
            total += 100 * np.mean((x[:half] @ w > 0) != y[:half])
        else:
            total += 100 * np.mean(w[x[:half]].argmax(-1) != y[:half])
    assert found["metrics"]["train_error"] == pytest.approx(total / 2, rel=1e-3)
    assert found["budget"]
    assert any(remark["kind"] == "objective" for remark in found["remarks"])


NAMED = [f"model={__name__}:build_two_layers", f"dataset={__name__}:load", "checkpoints=[net.npz]"]


def two_layers():
    """Save a network, and one that it may have started from, with the same first layer."""
    shapes = {"first": (4, 6), "second": (6, 2)}
    save("net.npz", 0, **shapes)
    with np.load("net.npz") as net:
        np.savez("start.npz", first=net["first"], second=-net["second"])


def test_all_that_can_be_given_beside_checkpoints_is_used(capsys):
    two_layers()
    rows = [f"{epoch},{0.6 / epoch},{30 / epoch}" for epoch in range(1, 17)]
    Path("history.csv").write_text("\n".join(["epoch,train_loss,validation_error", *rows]))
    given = ["history=history.csv", "cost=0.1", "improved=better.npz", "initial=[start.npz]", "frozen=[first]"]
    code, found, err = call(capsys, *NAMED, *TRAINING, *given)
    assert code == 0
    assert found["spent"] == pytest.approx(0.1, abs=0.02)
    assert found["probes"]
    assert "24 of 36 parameters are frozen" in " ".join(found["notes"])
    assert "fitted without" not in " ".join(found["notes"])  # the landscape's model, which does not answer here
    assert not {"no_experiments", "no_start"} & {remark["kind"] for remark in found["remarks"]}
    assert "diagnosing: experiments (" in err
    assert "better.npz" in err
    with np.load("better.npz") as better, np.load("net.npz") as net:
        assert {name: better[name].shape for name in better.files} == {name: net[name].shape for name in net.files}
        assert np.array_equal(better["first"], net["first"])
        assert (not np.array_equal(better["second"], net["second"])) == bool(found["improved"])
    assert found["cost"]["retraining_seconds"] > 0

    code, found, err = call(capsys, *NAMED, *TRAINING, "evidence=landscape", "improved=none.npz")
    assert (code, found["spent"], found["budget"], found["landscape"]) == (0, 0.0, [], None)
    assert "improved=none.npz is not written" in err
    assert any(remark["kind"] == "metrics_missing" for remark in found["remarks"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.learning_rate=-1"], "training.learning_rate=-1 is out of range; it must be finite and above 0"),
        (["training.batch_size=two"], "training.batch_size=two has the wrong type"),
        (["training.optimizer=adan"], "unknown optimizer 'adan' (did you mean 'adam'?)"),
        (["training.schedule=cosin"], "unknown schedule 'cosin' (did you mean 'cosine'?)"),
        (["training.momentum=2"], "momentum=2"),
        (["training.augment=maybe"], "training.augment=maybe has the wrong type"),
        (["training.opt_state=x"], "unknown setting 'opt_state'"),
        (["history=none.csv"], "none.csv"),
        (["history=[a.csv,b.csv]"], "there are 2 histories of 1 networks"),
        (["cost=much"], "cost='much' is not valid; give a share of one training, such as 0.1, or wall time, such"),
        (["cost=-1"], "cost=-1 is out of range"),
        (["evidence=some"], "unknown evidence 'some'; available: all, landscape"),
        (["initial=[none.npz]"], "the checkpoint 'none.npz' does not exist"),
        (["initial=[start.npz,start.npz]"], "initial= holds 2 networks, and there are 1"),
        (["initial=[other.npz]"], "'first' has shape (4, 5), and (4, 6) after training"),
        (["frozen=[frist]"], "frozen=frist: there is no such parameter (did you mean 'first'?)"),
        (["frozen=['*']"], "leaves no parameter that was trained"),
        (["improved=net.npz/better.npz"], "net.npz"),
        (["fail_on=too_hot"], "unknown cause in fail_on 'too_hot'"),
        (["fail_on=[any:2]"], "fail_on: the probability of any is '2'; it must be a number from 0 to 1"),
        (["fail_on=[cannot_tell:0.5]"], "fail_on: cannot_tell takes no probability"),
        (["fail_on=[]"], "fail_on=[] names no cause"),
        (["max_minutes=0.3", *TRAINING], "max_minutes=0.3: allow more"),
        (["memory_gb=1e-5"], "1e-05 GB may be used"),
    ],
)
def test_mistakes_beside_checkpoints_are_one_sentence(capsys, overrides, message):
    two_layers()
    save("other.npz", 0, first=(4, 5), second=(5, 2))
    code, found, err = call(capsys, *NAMED, *overrides)
    assert (code, found) == (2, None)
    last = err.splitlines()[-1]
    assert last.startswith("diagnose: ")
    assert message in last
    assert len([line for line in err.splitlines() if not line.startswith("diagnosing: ")]) == 1


@pytest.mark.parametrize("given", ["history=a.csv", "improved=a.npz", "initial=[a.npz]", "frozen=[a]", "cost=1"])
def test_what_only_checkpoints_take_is_refused_of_a_table(capsys, given):
    code, found, err = call(capsys, "metrics=m.csv", given)
    assert (code, found) == (2, None)
    assert f"{given.partition('=')[0]}= is of no use with metrics=; give it with" in err


ROW = {"train_error": 28.2, "train_loss": 0.99, "log_hessian_trace": 5.2, "mode_connectivity_peak": -0.03, "cka": 0.45}


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [
        ("temperature_too_high", 1),
        ("temperature_too_low", 0),
        ("any", 1),
        ("cannot_tell", 0),
        ("[model_too_small:0.99,temperature_too_low]", 0),
        ("[temperature_too_high:0.99]", 0),
        ("[temperature_too_high:0.5]", 1),
        ("{temperature_too_high: 0.5}", 1),
        ("[model_too_small:0.1]", 1),
        ("any:0.99", 0),
    ],
)
def test_a_check_fails_on_causes(capsys, fail_on, code):
    Path("m.csv").write_text(f"{','.join(ROW)}\n{','.join(map(str, ROW.values()))}\n")
    given = ["metrics=m.csv", "name=net", "evidence=landscape", f"fail_on={fail_on}", "out=answer"]
    ended = run("diagnose", diagnose.__doc__, diagnose.main, [*given, "format=json"])
    out, err = capsys.readouterr()
    ranking = json.loads(out)["ranking"]
    assert ended == code
    assert Path("answer/report.html").is_file()
    said = [f"fail_on: net: {words}" for words in ("trained too hot", "model too small") if words in err]
    assert [line.partition(", ")[0] for line in err.splitlines()] == said
    assert bool(said) == bool(code)
    assert ranking["temperature_too_high"] > 0.5 > ranking["model_too_small"] > 0.1


def test_a_diagnosis_tells_what_a_check_fails_on():
    (diagnosis,) = diagnose_metrics(ROW, evidence="landscape")
    hot = diagnosis.ranking["temperature_too_high"]
    assert diagnosis.failures("any") == {"temperature_too_high": hot}
    assert list(diagnosis.failures({"any": 0.1})) == ["temperature_too_high", "model_too_small"]
    assert diagnosis.failures(None) == diagnosis.failures(["too_little_data"]) == {}
    (unknown,) = diagnose_metrics({"train_error": 28.2, "log_hessian_trace": 90.0}, evidence="landscape")
    assert unknown.abstains
    assert unknown.failures({"any": 0.0}) == {}
    assert unknown.failures("cannot_tell") == {"cannot_tell": 1.0}
    with pytest.raises(UserError, match="unknown cause in fail_on 'none'"):
        diagnosis.failures("none")
