"""From networks and data to a diagnosis: what is measured, and what is refused."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import UserError, diagnose_model
from mdtree_jax.causes.joint import COLUMNS
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.subject.frameworks import adapt
from mdtree_jax.subject.measure import measure_subject
from mdtree_jax.subject.network import Examples, examples, wrap
from mdtree_jax.subject.settings import _check_types
from tests.subject.networks import QUICK, Normalized, apply, make_data, make_params, normalized_networks

pytestmark = pytest.mark.usefixtures("quickly_compiled")


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


def test_the_same_network_twice_is_no_pair():
    x, y = make_data()
    landscape = {"evidence": "landscape"}
    with pytest.raises(UserError, match="networks 1 and 3 have the same parameters; give networks that were trained"):
        diagnose_model(apply, [make_params(0), make_params(1), make_params(0)], x, y, **landscape)
    with pytest.raises(UserError, match="networks 2 and 3 have the same parameters"):
        diagnose_model(apply, [make_params(0), make_params(1), make_params(1)], x, y, **landscape)
