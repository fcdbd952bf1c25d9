"""Networks of other objectives than classification, from functions and arrays to a diagnosis or a refusal."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import r2_score

from mdtree_jax import Objective, UserError, diagnose_model
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.subject.measure import measure_subject
from mdtree_jax.subject.network import check_fit, examples, wrap

pytestmark = pytest.mark.usefixtures("quickly_compiled")

QUICK = MeasureConfig(["hessian"], "fast", hessian_images=40)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 3)).astype(np.float32)
Y = (X @ np.array([1, -2, 0.5]) + 0.5 * RNG.normal(size=80)).astype(np.float32)
IDS, NEXT = RNG.integers(0, 5, (80, 4)), RNG.integers(-1, 5, (80, 4))


def linear(params, x):
    return x @ params["w"]


def table(params, x):
    return params["w"][x]


def fitted(rows):
    return {"w": np.linalg.lstsq(X[rows], Y[rows], rcond=None)[0].astype(np.float32)}


def measured(apply, networks, x, y, objective):
    subject = wrap(apply, networks)._replace(objective=objective)
    return measure_subject(subject, examples(x, y, objective=objective), resolve(QUICK), in_random_order=True)


def test_a_regression():
    networks = [fitted(slice(40)), fitted(slice(40, 80))]
    found = measured(linear, networks, X, Y, "regression")
    assert found.doubt is None
    assert found.row["train_error"] == pytest.approx(np.mean([100 * (1 - r2_score(Y, X @ n["w"])) for n in networks]))
    # The Hessian of the mean squared residual is twice the mean of x x': its trace is known.
    assert found.row["hessian_trace"] == pytest.approx(2 * np.mean(np.sum(X[:40] ** 2, 1)), rel=0.05)
    wild = [{"w": -n["w"]} for n in networks]
    doubt = measured(linear, wild, X, Y, "regression").doubt
    assert (doubt.kind, doubt.values["error_of_guessing"]) == ("guessing", 100)
    diagnosis = diagnose_model(
        linear, wild, X, Y, objective="regression", measure={"effort": "fast", "metrics": ["hessian"]}
    )
    assert diagnosis.abstains
    assert any("mean squared residual" in note and "classifiers" in note for note in diagnosis.notes)
    for word in ("class", "label", "image"):
        assert word not in diagnosis.reason


def test_a_language_model_of_a_mapping_and_one_of_an_array():
    networks = [{"w": RNG.normal(size=(5, 5)).astype(np.float32)} for _ in range(2)]
    array = measured(table, networks, IDS, NEXT, "lm")
    mapping = measured(lambda p, x: table(p, x["ids"]), networks, {"ids": IDS}, NEXT, "sequence")
    assert array.row == mapping.row
    wrong = [(n["w"][IDS].argmax(-1) != NEXT)[NEXT >= 0].mean() for n in networks]
    assert array.row["train_error"] == pytest.approx(100 * np.mean(wrong))


def test_an_objective_of_ones_own():
    own = Objective(
        name="absolute",
        loss=lambda o, t: jnp.sqrt(1 + (o - t) ** 2),
        error=lambda o, t: jnp.abs(o - t) > 0.5,
        outputs="values",
    )
    networks = [fitted(slice(40)), fitted(slice(40, 80))]
    found = measured(linear, networks, X, Y, own)
    assert found.row["train_error"] == pytest.approx(
        np.mean([100 * np.mean(np.abs(X @ n["w"] - Y) > 0.5) for n in networks])
    )
    assert found.row["train_loss"] == pytest.approx(
        np.mean([np.mean(np.sqrt(1 + (X @ n["w"] - Y) ** 2)) for n in networks]), rel=1e-5
    )
    assert found.doubt is None  # what guessing would be is not known


NETWORK = [{"w": np.ones((3, 2), np.float32)}]
UNEVEN, TEXT = {"a": X, "b": X[:9]}, {"a": X.astype("U")}
NO_LOSS = Objective(loss=lambda o, t: o.mean(), error=lambda o, t: o[:, 0])


@pytest.mark.parametrize(
    ("apply", "networks", "x", "y", "objective", "message"),
    [
        (linear, NETWORK, X, Y, "regression", r"gives \(64, 2\) for 64 images; expected an output for each target"),
        (linear, NETWORK, X, Y, "binary", "the labels of y_train are -.* to .*; expected 0 and 1"),
        (linear, NETWORK, X, Y * np.nan, "regression", "the targets of y_train hold NaN or infinite values"),
        (linear, NETWORK, X, Y * 0, "regression", r"y_train holds 0.0 only; a diagnosis needs targets that differ"),
        (linear, NETWORK, X, Y, "lm", r"the tokens of y_train have shape \(80,\); expected tokens, integers"),
        (linear, NETWORK, X, NEXT, "lm", r"expected logits of shape \(n, time, vocabulary\)"),
        (table, NETWORK, IDS % 3, NEXT, "lm", "y_train holds the label 4, but the model gives 2 logits"),
        (linear, NETWORK, UNEVEN, Y, "regression", "x_train holds arrays of 9, 80 rows; they must be equal"),
        (linear, NETWORK, TEXT, Y, "regression", "x_train is of <U"),
        (linear, NETWORK, X, Y, NO_LOSS, r"objective 'own' gives the shape \(\) for 64 examples; expected a number"),
        (linear, NETWORK, X, Y, "regresion", "unknown objective 'regresion'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(apply, networks, x, y, objective, message):
    with pytest.raises(UserError, match=message) as error:
        check_fit(wrap(apply, networks)._replace(objective=objective), examples(x, y, objective=objective))
    assert "\n" not in str(error.value)
