"""Objectives against plain formulas in NumPy, scikit-learn, and problems whose optimum is known."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import hamming_loss, log_loss, r2_score

from mdtree_jax import Objective, register
from mdtree_jax.checks import UserError
from mdtree_jax.models import Model
from mdtree_jax.registry.objectives import OBJECTIVES, find_objective
from mdtree_jax.registry.register import unregister
from mdtree_jax.training import Hyperparameters, chance_error, evaluate, make_trainer, weighted_cross_entropy
from mdtree_jax.training.loss import chance_loss, objective_functions
from mdtree_jax.training.train import train_single

RNG = np.random.default_rng(0)
N, T, C = 23, 5, 4
LOGITS, LABELS = RNG.normal(size=(N, C)), RNG.integers(0, C, N)
SHARES = RNG.dirichlet(np.ones(C), N)
SEQUENCES, TOKENS = RNG.normal(size=(N, T, C)), RNG.integers(-1, C, (N, T))
NUMBERS, VALUES = RNG.normal(size=(N, 3)), RNG.normal([1, 20, -3], size=(N, 3))
SIGNS, PRESENT = RNG.normal(size=(N, 3)), RNG.integers(0, 2, (N, 3))
WEIGHTS = np.array([0.5, 1.0, 3.0, 0.0])


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def token_formulas(logits, tokens):
    """Go through the tokens one by one: mean loss and share of wrong ones, of those that count."""
    losses, wrong = [], []
    for i, j in itertools.product(*map(range, tokens.shape)):
        if tokens[i, j] >= 0:
            losses.append(-log_softmax(logits[i, j])[tokens[i, j]])
            wrong.append(logits[i, j].argmax() != tokens[i, j])
    return np.mean(losses), np.mean(wrong)


def weighted(logits, labels, smoothing=0.1):
    """The formula in PyTorch's documentation of CrossEntropyLoss with weight= and label_smoothing=."""
    p = log_softmax(logits)
    exact = sum(-WEIGHTS[y] * row[y] for row, y in zip(p, labels, strict=True)) / WEIGHTS[labels].sum()
    spread = sum(-(WEIGHTS * row).sum() for row in p) / WEIGHTS[labels].sum()
    return (1 - smoothing) * exact + smoothing / C * spread


def huber(residuals):
    size = np.abs(residuals)
    return np.where(size <= 1, size**2 / 2, size - 0.5).mean()


UNEXPLAINED = 1 - r2_score(VALUES, NUMBERS, multioutput="variance_weighted")
#: Objective, outputs, targets, mean loss, error, error of the best constant.
CASES = {
    "cross_entropy": (
        "cross_entropy",
        LOGITS,
        LABELS,
        log_loss(LABELS, np.exp(log_softmax(LOGITS)), labels=range(C)),
        np.mean(LOGITS.argmax(1) != LABELS),
        1 - np.bincount(LABELS).max() / N,
    ),
    "soft labels": (
        "cross_entropy",
        LOGITS,
        SHARES,
        -(SHARES * log_softmax(LOGITS)).sum() / N,
        np.mean(LOGITS.argmax(1) != SHARES.argmax(1)),
        1 - np.bincount(SHARES.argmax(1)).max() / N,
    ),
    "weights": (
        weighted_cross_entropy(WEIGHTS, label_smoothing=0.1),
        LOGITS,
        LABELS,
        weighted(LOGITS, LABELS),
        np.mean(LOGITS.argmax(1) != LABELS),
        1 - np.bincount(LABELS).max() / N,
    ),
    "lm": (
        "lm",
        SEQUENCES,
        TOKENS,
        *token_formulas(SEQUENCES, TOKENS),
        1 - np.bincount(TOKENS[TOKENS >= 0]).max() / (TOKENS >= 0).sum(),
    ),
    "binary": (
        "binary",
        SIGNS[:, :1],
        PRESENT[:, 0],
        log_loss(PRESENT[:, 0], sigmoid(SIGNS[:, 0])),
        np.mean((SIGNS[:, 0] > 0) != PRESENT[:, 0]),
        min(PRESENT[:, 0].mean(), 1 - PRESENT[:, 0].mean()),
    ),
    "multilabel": (
        "multilabel",
        SIGNS,
        PRESENT,
        np.mean([log_loss(PRESENT[:, k], sigmoid(SIGNS[:, k])) for k in range(3)]),
        hamming_loss(PRESENT, SIGNS > 0),
        np.mean([min(PRESENT[:, k].mean(), 1 - PRESENT[:, k].mean()) for k in range(3)]),
    ),
    "regression": ("regression", NUMBERS, VALUES, ((NUMBERS - VALUES) ** 2).mean(), UNEXPLAINED, 1.0),
    "huber": ("huber", NUMBERS, VALUES, huber(NUMBERS - VALUES), UNEXPLAINED, 1.0),
}
#: A network that gives its input.
IDENTITY = Model(lambda key: {}, lambda variables, x, train: (x + variables["params"]["zero"], {}, {}))


@pytest.mark.parametrize("name", CASES)
def test_mean_loss_and_error_of_a_set_whatever_the_batches(name):
    objective, outputs, targets, loss, error, chance = CASES[name]
    variables = {"params": {"zero": jnp.zeros(())}, "batch_stats": {}}
    assert float(objective_functions(objective).mean_loss(jnp.asarray(outputs), jnp.asarray(targets))) == pytest.approx(
        loss, rel=1e-12
    )
    # What is behind the set's end does not count.
    x, y = (jnp.concatenate([a, a[:2][::-1]]) for a in (jnp.asarray(outputs), jnp.asarray(targets)))
    for batch_size in (7, 100):
        found, errors = evaluate(IDENTITY, variables, x, y, jnp.int32(N), batch_size, objective)
        assert float(found) == pytest.approx(loss, rel=1e-12)
        assert float(errors) / N == pytest.approx(error, rel=1e-12)
        is_count = name in ("cross_entropy", "soft labels", "weights", "binary")
        assert (errors.dtype == jnp.int32) == is_count
    assert chance_error(objective, targets) == pytest.approx(100 * chance)


def test_tokens_that_do_not_count_change_nothing():
    functions, changed = objective_functions("lm"), np.where((TOKENS < 0)[..., None], 9 * SEQUENCES[::-1], SEQUENCES)
    assert not np.array_equal(changed, SEQUENCES)
    for function in (functions.mean_loss, functions.loss, functions.error):
        np.testing.assert_array_equal(function(SEQUENCES, jnp.asarray(TOKENS)), function(changed, jnp.asarray(TOKENS)))
    slope = jax.grad(lambda z: functions.mean_loss(z, jnp.asarray(TOKENS)))(jnp.asarray(SEQUENCES))
    assert not slope[TOKENS < 0].any()
    assert slope[TOKENS >= 0].any(axis=1).all()
    nothing = jnp.full_like(TOKENS, -1)  # a batch in which no token counts is no reason to diverge
    assert float(functions.mean_loss(jnp.asarray(SEQUENCES), nothing)) == 0


@pytest.mark.parametrize(("name", "to"), [("cross_entropy", jax.nn.softmax), ("multilabel", jax.nn.sigmoid)])
def test_probabilities_are_taken_where_they_are_announced(name, to):
    _, outputs, targets, loss, _, _ = CASES[name]
    objective = Objective(name, outputs="probabilities")
    found = objective_functions(objective).mean_loss(to(jnp.asarray(outputs)), jnp.asarray(targets))
    assert float(found) == pytest.approx(loss, rel=1e-9)
    assert objective_functions(objective) == objective_functions(Objective(name, outputs="probabilities"))
    assert find_objective(objective).unit == OBJECTIVES[name].unit


def test_shapes_that_would_be_broadcast_are_refused():
    functions = objective_functions("regression")
    with pytest.raises(UserError, match=r"outputs have shape \(4, 2\) and the targets \(4,\); expected as many"):
        functions.loss(jnp.zeros((4, 2)), jnp.zeros(4))
    assert functions.loss(jnp.zeros((4, 1)), jnp.ones(4)).tolist() == [1, 1, 1, 1]
    with pytest.raises(UserError, match=r"outputs \(batch, time, vocabulary\) and targets \(batch, time\)"):
        objective_functions("lm").loss(jnp.zeros((4, 3)), jnp.zeros((4, 3), int))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Objective(loss=print), "the objective 'own' has loss=, but no error="),
        (lambda: Objective(loss=print, error=3), "error= of the objective 'own' is of type int; it must be a function"),
        (lambda: Objective("lm", outputs="logit"), r"unknown kind of outputs 'logit' \(did you mean 'logits'\?\)"),
        (lambda: find_objective("regresion"), r"unknown objective 'regresion' \(did you mean 'regression'\?\)"),
        (lambda: find_objective("math:pi"), "objective=math:pi is a float; expected a mdtree_jax.Objective"),
        (lambda: find_objective(3), "objective=3 is no objective"),
        (lambda: weighted_cross_entropy([1.0, -1.0]), "must be two or more numbers of at least 0"),
        (lambda: weighted_cross_entropy([1.0, 1.0], 1.0), r"label_smoothing=1 is out of range; it must be in \[0, 1\)"),
    ],
)
def test_what_is_no_objective_is_one_sentence(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_an_objective_of_ones_own_can_bring_its_functions_into_the_table():
    own = Objective("halved", loss=lambda o, t: o[:, 0] / 2, error=lambda o, t: t > 0, chance_error=lambda t: 0.25)
    register(own)
    try:
        assert objective_functions("halved").loss(jnp.ones((2, 1)), None).tolist() == [0.5, 0.5]
        assert chance_error("halved", np.ones(3)) == 25
    finally:
        unregister(own)
    assert chance_error(Objective(loss=own.loss, error=own.error), np.ones(3)) is None


def trained(apply, params, x, y, objective, *, batch_size, num_epochs, learning_rate, **knobs):
    """Train by plain gradient steps and return the last network's parameters, and its loss and error on the set."""
    model = Model(lambda key: None, lambda variables, x, train: (apply(variables["params"], x), {}, {}))
    trainer = make_trainer(
        model,
        batch_size=batch_size,
        num_epochs=num_epochs,
        momentum=0.0,
        early_stop=False,
        objective=objective,
        **knobs,
    )
    number = len(y)
    hparams = Hyperparameters(
        jax.random.key_data(jax.random.key(1)), jnp.int32(number), jnp.float64(learning_rate), 0.0
    )
    state = train_single(trainer, {"params": params, "batch_stats": {}}, hparams, x, jnp.asarray(y))
    loss, errors = evaluate(model, state.kept, x, jnp.asarray(y), jnp.int32(number), 16, objective)
    return state.kept["params"], float(loss), float(errors) / number


@pytest.mark.parametrize("as_pair", [False, True])
def test_linear_regression_is_trained_to_the_least_squares_solution(as_pair):
    """Of one array and of a mapping of two, which the network adds up."""
    x = RNG.normal(size=(60, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 + RNG.normal(size=60)
    design = np.concatenate([x, np.ones((60, 1))], 1)
    solution, residual, *_ = np.linalg.lstsq(design, y, rcond=None)

    def apply(params, x):
        x = x["some"] @ params["w"][:1] + x["others"] @ params["w"][1:] if as_pair else x @ params["w"]
        return x[:, None] + params["b"]

    inputs = {"some": jnp.asarray(x[:, :1]), "others": jnp.asarray(x[:, 1:])} if as_pair else jnp.asarray(x)
    options = {"batch_size": 60, "num_epochs": 200, "learning_rate": 0.3}
    params, loss, error = trained(apply, {"w": jnp.zeros(3), "b": jnp.zeros(1)}, inputs, y, "regression", **options)
    np.testing.assert_allclose(np.concatenate([params["w"], params["b"]]), solution, atol=1e-7)
    assert loss == pytest.approx(residual[0] / 60)
    assert error == pytest.approx(1 - r2_score(y, design @ solution))


def test_a_language_model_of_two_tokens_is_trained_to_its_entropy():
    """Logits are a table of the token before: the optimum is the frequencies of pairs, the loss their entropy."""
    x = RNG.integers(0, 2, (40, 6))
    y = np.where(RNG.random((40, 6)) < 0.8, x, 1 - x)
    y[RNG.random((40, 6)) < 0.2] = -1
    pairs = np.array([[np.sum((x == a) & (y == b)) for b in range(2)] for a in range(2)])
    shares = pairs / pairs.sum(1, keepdims=True)
    entropy = -(pairs * np.log(shares)).sum() / pairs.sum()
    apply, start = (lambda params, x: params["table"][x]), {"table": jnp.zeros((2, 2))}
    options = {"batch_size": 40, "num_epochs": 150, "learning_rate": 4.0}
    params, loss, error = trained(apply, start, jnp.asarray(x, jnp.int32), y, "lm", **options)
    assert loss == pytest.approx(entropy, abs=1e-9)
    np.testing.assert_allclose(jax.nn.softmax(params["table"]), shares, atol=1e-5)
    assert error == pytest.approx(pairs.min(1).sum() / pairs.sum())
    smoothing = 0.1
    params, *_ = trained(apply, start, jnp.asarray(x, jnp.int32), y, "lm", **options, label_smoothing=smoothing)
    smoothed = (1 - smoothing) * shares + smoothing / 2
    np.testing.assert_allclose(jax.nn.softmax(params["table"]), smoothed, atol=1e-5)


def test_augmentation_of_what_is_no_image_is_refused():
    apply, params, options = of_sum, {"w": jnp.ones(1)}, {"batch_size": 4, "num_epochs": 1, "learning_rate": 0.1}
    with pytest.raises(UserError, match="augment=true crops and mirrors images, and the inputs are not images"):
        trained(apply, params, jnp.ones((4, 3)), np.ones(4), "regression", **options, augment=True)


def of_sum(params, x):
    return x.sum(1, keepdims=True) * params["w"]


def test_the_default_counts_errors_and_divides_by_nothing():
    functions = objective_functions()
    assert (functions.counts, functions.has_scale, functions.outputs) == (True, False, "logits")
    assert math.isnan(float(functions.loss(jnp.full((1, 2), jnp.nan), jnp.zeros(1, int))[0]))


def test_the_loss_of_chance_is_that_of_the_best_constant():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 2000)
    share = np.bincount(labels) / 2000
    assert chance_loss("cross_entropy", labels, 5) == pytest.approx(-(share * np.log(share)).sum(), rel=1e-4)
    numbers = 3 * rng.standard_normal((500, 1)) + 7
    assert chance_loss("regression", numbers.astype(np.float32), 1) == pytest.approx(numbers.var(), rel=1e-4)
    tokens = rng.integers(0, 4, (300, 7))
    share = np.bincount(tokens.ravel()) / tokens.size
    assert chance_loss("lm", tokens, 4) == pytest.approx(-(share * np.log(share)).sum(), rel=1e-4)
