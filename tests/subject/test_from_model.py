"""From networks and data to a diagnosis: what is measured, of which files, and what is refused."""

import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pandas as pd
import pytest
import safetensors.numpy
from orbax.checkpoint import v1 as ocp

from mdtree_jax import UserError, diagnose_model
from mdtree_jax import diagnose as diagnose_module
from mdtree_jax import sweep as sweep_module
from mdtree_jax.causes.joint import COLUMNS
from mdtree_jax.cli import run
from mdtree_jax.models import build_model, from_torch
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.subject.frameworks import adapt
from mdtree_jax.subject.from_model import _check_types
from mdtree_jax.subject.load import load_subject
from mdtree_jax.subject.measure import measure_subject
from mdtree_jax.subject.network import Examples, examples, wrap
from mdtree_jax.subject.run_folder import load_configuration
from tests.models.test_convert import random_state_dict

save = getattr(ocp, "save", None) or ocp.save_pytree
QUICK = {"effort": "fast", "curve_steps": 20, "hessian_images": 40, "similarity_images": 64}


def make_data(num=120, classes=3, seed=0):
    """Points in classes that overlap a little, (n, 6) and (n,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, num)
    return (np.eye(6)[y] + 0.4 * rng.standard_normal((num, 6))).astype(np.float32), y


def apply(params, x):
    return jnp.tanh(x @ params["w1"]) @ params["w2"]


def make_params(seed, hidden=5, classes=3):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (6, hidden), "w2": (hidden, classes)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def two_networks():
    x, y = make_data()
    return measure_subject(
        wrap(apply, [make_params(0), make_params(1)]),
        examples(x, y),
        # As many products as there are parameters: the trace is exact.
        resolve(MeasureConfig(["hessian"], trace_products=64, eigenvalue_tolerance=1e-6, eigenvalue_steps=45, **QUICK)),
        in_random_order=True,
    )


def test_the_row_holds_what_the_networks_give(two_networks):
    x, y = make_data()
    errors, losses, traces, tops = [], [], [], []
    with jax.enable_x64(True):
        for seed in (0, 1):
            params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), make_params(seed))
            logits = np.asarray(apply(params, x))
            errors.append(100 * np.mean(logits.argmax(1) != y))
            losses.append(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]))

            def loss(flat, like=params):
                tree = {"w1": flat[:30].reshape(6, 5), "w2": flat[30:].reshape(5, 3)}
                logits = apply(tree, jnp.asarray(x[:40], like["w1"].dtype))
                return -jax.nn.log_softmax(logits)[jnp.arange(40), y[:40]].mean()

            flat = jnp.concatenate([params["w1"].ravel(), params["w2"].ravel()])
            eigenvalues = np.linalg.eigvalsh(jax.hessian(loss)(flat))
            traces.append(eigenvalues.sum())
            tops.append(max(eigenvalues, key=abs))
    row = two_networks.row
    assert row["train_error"] == pytest.approx(np.mean(errors))
    assert row["train_error_se"] == pytest.approx(np.std(errors, ddof=1) / 2**0.5)
    assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert row["hessian_trace"] == pytest.approx(np.mean(traces), rel=1e-4)
    assert row["hessian_max_eigenvalue"] == pytest.approx(np.mean(tops), rel=1e-4)
    assert row["hessian_trace_se"] == pytest.approx(np.std(traces, ddof=1) / 2**0.5, rel=1e-3)
    assert two_networks.flops > 0
    assert two_networks.forward_flops == 2 * (6 * 5 + 5 * 3)


def test_diagnosis_of_functions_and_arrays():
    x, y = make_data()
    diagnosis = diagnose_model(
        apply, [make_params(0), make_params(1)], x, y, measure=QUICK, training={"epochs": 10, "batch_size": 8}
    )
    assert sum(diagnosis.ranking.values()) == pytest.approx(1)
    assert set(COLUMNS) <= set(diagnosis.metrics)
    assert diagnosis.cost.retraining_flops == 3 * 90 * 120 * 10
    assert diagnosis.cost.grid_search_flops == 27 * diagnosis.cost.retraining_flops


def test_images_sorted_by_label_are_not_measured_class_by_class():
    x, y = make_data(600)
    order = np.argsort(y, kind="stable")
    subject, data = wrap(apply, [make_params(0)]), examples(x[order], y[order])

    def trace(images, **options):
        config = MeasureConfig(["hessian"], "fast", hessian_images=images, trace_products=64)
        return measure_subject(subject, data, resolve(config), **options).row["hessian_trace"]

    every, one_class, some = trace(600), trace(100, in_random_order=True), trace(100)
    assert abs(some - every) < 0.2 * abs(one_class - every)
    assert trace(5000) == pytest.approx(every, rel=0.05)  # no image twice, and hardly one left out


def test_of_a_network_that_only_guesses_nothing_is_said():
    x, y = make_data()
    for labels, is_told in ((y, False), (np.random.default_rng(0).permutation(y), True)):
        trained = {"w1": np.eye(6, dtype=np.float32), "w2": np.eye(6, 3, dtype=np.float32)}
        options = {"measure": QUICK | {"metrics": ["hessian"]}}
        diagnosis = diagnose_model(apply, [trained], x, labels, **options)
        assert ("hardly better than guessing" in diagnosis.reason) == is_told
        assert diagnosis.abstains >= is_told
        if is_told:
            assert diagnosis.action.is_tentative
            assert diagnosis.action.sentence.count("If the first guess is right, ") == 1
            assert "gained" not in diagnosis.action.sentence
            assert (diagnosis.expected_gain, diagnosis.gains) == (None, {})
            assert "I can’t tell" in str(diagnosis)


def test_one_network_and_a_part_of_the_data():
    x, y = make_data(400)
    diagnosis = diagnose_model(apply, [make_params(0)], x, y, measure=QUICK, max_images=100)
    assert "there is only one network" in diagnosis.notes[0]
    assert diagnosis.notes[1] == "training errors were measured on a random sample of 100 of 400 examples"
    assert "cka" not in diagnosis.metrics
    share = diagnosis.metrics["train_error"] / 100
    assert diagnosis.metrics["train_error_se"] == pytest.approx(100 * (share * (1 - share) / 100 * 0.75) ** 0.5)
    assert diagnosis.cost.retraining_seconds is None
    assert "not known" in diagnosis.cost.note
    assert diagnosis.action.factor is None


class Normalized(nn.Module):
    """A network with running averages, as a user of Flax writes it."""

    features: int = 4

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(self.features)(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(nn.relu(x))


def normalized_networks(module=None, x=None):
    module = module or Normalized()
    x = make_data()[0] if x is None else x
    networks = []
    for seed in (0, 1):
        variables = module.init(jax.random.key(seed), x, False)
        _, state = module.apply(variables, x, True, mutable=["batch_stats"])
        networks.append(jax.tree.map(np.asarray, {**variables, **state}))
    return networks


def test_a_sample_is_what_points_are_evaluated_on_and_curves_see_all():
    x, y = make_data(400)
    subject, data = wrap(apply, [make_params(0), make_params(1)]), examples(x, y)
    config = MeasureConfig(["connectivity"], "fast", curve_steps=40, statistics_batch_size=50)

    def peak(data, **options):
        return measure_subject(subject, data, resolve(config), in_random_order=True, **options).row

    whole, some = peak(data), peak(data, max_images=100)
    alone = peak(Examples(x[:100], y[:100].astype(np.int32), data.x_test, data.y_test))
    assert some["train_error"] == alone["train_error"] != whole["train_error"]
    assert some["mode_connectivity_peak"] != alone["mode_connectivity_peak"]  # another curve
    # All images but one: the same curve as of all, so that its errors differ by that image at most.
    assert abs(peak(data, max_images=399)["mode_connectivity_peak"] - whole["mode_connectivity_peak"]) < 0.26


def test_running_averages_need_apply_train_between_two_networks():
    module, (x, y), networks = Normalized(), make_data(), normalized_networks()
    measure = QUICK | {"metrics": ["similarity", "connectivity"]}

    def evaluate(variables, x):
        return module.apply(variables, x, False)

    def train(variables, x):
        return module.apply(variables, x, True, mutable=["batch_stats"])

    without = diagnose_model(evaluate, networks, x, y, measure=measure)
    assert any("without apply_train" in note and "connectivity" in note for note in without.notes)
    assert "mode_connectivity_peak" not in without.metrics
    whole = diagnose_model(evaluate, networks, x, y, measure=measure, apply_train=train)
    assert "mode_connectivity_peak" in whole.metrics
    assert {name: whole.metrics[name] for name in ("train_error", "cka")} == {
        name: without.metrics[name] for name in ("train_error", "cka")
    }


class WithDropout(nn.Module):
    """The commonest network with a source of noise in training."""

    normalized: bool = False

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(6)(x.reshape(len(x), -1)))
        if self.normalized:
            x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(nn.relu(x))


@pytest.mark.parametrize("normalized", [False, True])
def test_networks_with_dropout_have_curves_too(normalized):
    module, (x, y) = WithDropout(normalized), make_data()
    networks = [module.init(jax.random.key(seed), x, False) for seed in (0, 1)]
    measure = QUICK | {"metrics": ["connectivity"]}
    apply, apply_train = adapt(module, x)[:2]
    found = diagnose_model(apply, networks, x, y, measure=measure, apply_train=apply_train)
    assert "mode_connectivity_peak" in found.metrics
    assert apply_train(networks[0], x)[0].tolist() == apply_train(networks[0], x)[0].tolist()


def test_what_flax_raises_is_one_sentence():
    module, (x, y) = Normalized(), make_data()
    apply = adapt(module, x).apply
    networks = normalized_networks()
    for wrong in ({"x_train": x[:, :4]}, {"params": [network["params"] for network in networks]}):
        arguments = {"params": networks, "x_train": x, "y_train": y} | wrong
        with pytest.raises(UserError, match=r"apply\(params, x\) fails for images of shape") as error:
            diagnose_model(apply, **arguments, measure=QUICK)
        assert "\n" not in str(error.value)

    def train(variables, x):
        return module.apply(variables, x, True)  # without mutable=: Flax refuses to write the averages

    with pytest.raises(UserError, match=r"apply_train\(variables, x\) fails for images of shape"):
        diagnose_model(apply, networks, x, y, measure=QUICK, apply_train=train)


def build():
    """Return the module, as `model=tests.subject.test_from_model:build` asks for it."""
    return Normalized()


def build_nothing():
    return 3


def test_flax_networks_from_orbax_checkpoints(tmp_path):
    images = make_data(64)[0].reshape(-1, 2, 3, 1)
    networks = normalized_networks(x=images)
    paths = [str(tmp_path / name) for name in ("a", "b")]
    save(paths[0], networks[0] | {"step": np.asarray(3)})
    orbax.checkpoint.PyTreeCheckpointer().save(paths[1], networks[1])
    subject = load_subject("tests.subject.test_from_model:build", paths, (2, 3, 1), 3)
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
        load_subject("tests.subject.test_from_model:build", paths, (8, 8, 1), 7)


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
        capsys, "model=tests.subject.test_from_model:build", "checkpoints=[a,b]", "dataset=npz", "data_file=my.npz",
        "measure={effort: fast, metrics: [hessian]}", "training.epochs=10",
    )  # fmt: skip
    errors = []
    for network in networks:
        logits = np.asarray(Normalized().apply(network, images, False)).argmax(1)
        errors.append([100 * np.mean(logits[part] != y[part]) for part in (slice(48), slice(48, None))])
    assert (found["metrics"]["train_error"], found["test_error"]) == pytest.approx(np.mean(errors, axis=0))
    assert (tmp_path / "runs/diagnose/report.html").is_file()


X, Y = make_data()
HUGE = np.full((5, 3), 3e38, np.float32)
GOOD = {"params": [make_params(0), make_params(1)], "x_train": X, "y_train": Y}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"params": []}, "the list of networks is empty"),
        ({"params": 3}, "the networks are a int; expected a list"),
        ({"params": [np.ones(3)]}, r"holds arrays, not networks.*\[params\]"),
        ({"params": [make_params(0), make_params(1, 6)]}, r"networks 1 and 2 differ in shape: params/w1 \(6, 5\) and"),
        ({"params": [make_params(0), {"w1": X}]}, "different parameters: 'params/w2' is in one only"),
        ({"params": [make_params(0) | {"w1": np.full((6, 5), np.nan, "f")}]}, "'params/w1' of network 1 holds numbers"),
        ({"params": [make_params(0), make_params(1) | {"w2": HUGE}]}, "network 2 gives logits that are not finite"),
        ({"x_train": X[:, :4]}, r"apply\(params, x\) fails for images of shape \(64, 4\)"),
        ({"x_train": X[:50]}, "x_train has 50 rows and y_train has 120"),
        ({"x_train": X.astype(np.uint8)}, "x_train is of uint8; expected floating point"),
        ({"x_train": np.full_like(X, np.nan)}, "x_train holds numbers that are not finite"),
        ({"y_train": np.zeros(120, int)}, "y_train holds only one class, 0"),
        ({"y_train": Y + 2}, "y_train holds the label 4, but the model gives 3 logits, for the labels 0 to 2"),
        ({"y_train": Y - 1}, "y_train holds the label -1; labels count from 0"),
        ({"y_train": np.eye(3, dtype=int)[Y]}, "convert one-hot labels with argmax"),
        ({"y_train": np.eye(3)[Y] / 2}, "are not probabilities of the classes; expected rows that add up to 1"),
        ({"y_train": Y / 2}, "expected integers of shape .*; of numbers, give objective='regression'"),
        ({"apply": lambda p, x: jax.nn.softmax(apply(p, x))}, r"are probabilities .*outputs='probabilities'\)"),
        ({"x_test": X}, "x_test and y_test belong together"),
        ({"x_test": X[:, :4], "y_test": Y}, r"x_test has shape \(4,\), but one of x_train has \(6,\); they must"),
        ({"training": {"epoch": 3}}, r"unknown training setting 'epoch' \(did you mean 'epochs'\?\)"),
        ({"training": {"epochs": 0}}, "training.epochs=0 is out of range"),
        ({"training": {"epochs": "many"}}, "training.epochs='many' is not a number"),
        ({"measure": {"probed": 3}}, "unknown measure 'probed'.*available: metrics"),
        ({"measure": "fast"}, "measure='fast' is not a mapping; give settings by name"),
        ({"measure": {"curve_steps": "abc"}}, "measure.curve_steps='abc' has the wrong type; it must be int"),
        ({"measure": {"metrics": "hessian"}}, "measure.metrics='hessian' has the wrong type; it must be list"),
        ({"measure": {"curve_steps": -1}}, "curve_steps=-1 is out of range; it must be at least 1"),
        ({"measure": {"hessian_images": 40.5}}, "measure.hessian_images=40.5 has the wrong type; it must be int"),
        ({"training": "fast"}, "training='fast' is not a mapping; give settings by name"),
        ({"max_images": 0}, "max_images=0 is out of range; it must be a whole number of at least 1"),
        ({"max_images": 10.5}, "max_images=10.5 is out of range; it must be a whole number"),
        ({"x_train": X.astype(float) * 1e300}, "x_train holds numbers that are not finite as float32"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(changed, message):
    with pytest.raises(UserError, match=message) as error:
        diagnose_model(**GOOD | {"apply": apply, "measure": QUICK} | changed)
    assert "\n" not in str(error.value)


def test_every_setting_of_measuring_takes_its_default_back():
    _check_types(dataclasses.asdict(MeasureConfig()))
    with pytest.raises(UserError, match="similarity_debiased=1 has the wrong type; it must be bool"):
        _check_types({"similarity_debiased": 1})


def test_logits_that_are_not_finite_for_a_late_image_are_refused():
    def broken(params, x):
        return jnp.where(x[:, :1] == X[99, 0], jnp.nan, apply(params, x))

    with pytest.raises(UserError, match="network 1 has a mean loss of nan on the training images"):
        diagnose_model(broken, **GOOD, measure=QUICK)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet9", r"unknown model 'resnet9' \(did you mean 'resnet8'\?\); .*metrics=TABLE.csv"),
        ("no_such.module:build", "the module 'no_such.module' cannot be imported"),
        ("tests.subject.test_from_model:bild", "has no function 'bild'; available: .*build"),
        ("tests.subject.test_from_model:build_nothing", "returns a int; expected a model of Flax Linen"),
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


def test_the_same_network_twice_is_no_pair():
    x, y = make_data()
    with pytest.raises(UserError, match="networks 1 and 3 have the same parameters; give networks that were trained"):
        diagnose_model(apply, [make_params(0), make_params(1), make_params(0)], x, y)
    with pytest.raises(UserError, match="networks 2 and 3 have the same parameters"):
        diagnose_model(apply, [make_params(0), make_params(1), make_params(1)], x, y)
