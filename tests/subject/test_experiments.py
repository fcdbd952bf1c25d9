"""Experiments from a user's own networks: what they see, what they cost, what they say of planted faults."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

from mdtree_jax import UserError, diagnose_model
from mdtree_jax.collection.curve_features import curve_features
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.gain_reference import GainReference, Policy, gain_reference
from mdtree_jax.registry.remedies import REMEDIES
from mdtree_jax.subject.adapted import subject_of
from mdtree_jax.subject.experiments import gather as gathering
from mdtree_jax.subject.experiments import plan
from mdtree_jax.subject.experiments.spending import Spending, spending_of
from mdtree_jax.subject.experiments.trained_as import fitting_state, trained_as
from mdtree_jax.subject.held_out import examples_of
from tests.numerics import unoptimized

HESSIAN = {"effort": "fast", "metrics": ["hessian"], "hessian_images": 40}
SIZES = (8, 24, 4)
RATE, BATCH, EPOCHS = 0.01, 20, 16


@pytest.fixture(autouse=True)
def _quick():
    with unoptimized():
        yield


def make_data(num, seed):
    """Points (n, 8) whose class depends on the signs of two of them, 5 % of the labels wrong."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num, SIZES[0])).astype(np.float32)
    y = 2 * (x[:, 0] > 0) + (x[:, 1] > 0)
    return x, np.where(rng.random(num) < 0.05, rng.integers(0, 4, num), y).astype(np.int32)


TRAIN, HELD_OUT = make_data(400, 0), make_data(400, 1)


def init(key):
    keys = jax.random.split(key, 2)
    shapes = zip(("w1", "w2"), keys, SIZES[:-1], SIZES[1:], strict=True)
    return {name: jax.random.normal(key, (a, b)) / a**0.5 for name, key, a, b in shapes}


def apply(params, x):
    return jax.nn.relu(x @ params["w1"]) @ params["w2"]


def loss_of(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()


def error_of(params, x, y):
    return 100 * float(np.mean(np.asarray(apply(params, x)).argmax(1) != y))


@functools.cache
def trained(factor, optimizer="sgd"):
    """Return parameters, the optimizer's state and the history of a training at `factor` times a good rate."""
    make = {"sgd": lambda rate: optax.sgd(rate, 0.9), "adam": optax.adam}[optimizer]
    transform, params = make(factor * RATE), init(jax.random.key(3))
    state, (x, y) = transform.init(params), map(jnp.asarray, TRAIN)

    @jax.jit
    def epoch(params, state, order):
        def step(carry, rows):
            params, state = carry
            value, gradient = jax.value_and_grad(loss_of)(params, x[rows], y[rows])
            updates, state = transform.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, state), losses = jax.lax.scan(step, (params, state), order)
        return params, state, losses.mean()

    rng, rows = np.random.default_rng(0), []
    for number in range(EPOCHS):
        params, state, value = epoch(params, state, rng.permutation(400).reshape(-1, BATCH))
        rows.append({"epoch": number + 1, "train_loss": float(value), "validation_error": error_of(params, *HELD_OUT)})
    return *jax.device_get((params, state)), pd.DataFrame(rows)


def settings(factor, **more):
    return {"learning_rate": factor * RATE, "batch_size": BATCH, "epochs": EPOCHS, "momentum": 0.9, **more}


def seen(params, spending, training=None, data=None, **options):
    data = data or examples_of(TRAIN, validation=HELD_OUT, test=make_data(200, 2))[0]
    subject = subject_of(apply, [params], data.x_train, init=options.pop("init", init))
    known = {name: options.pop(name) for name in ("histories", "known", "progress", "memory_bytes") if name in options}
    planned = plan.plan_experiments(subject, data, Training.of(training), spending=spending, **options)
    return gathering.gather(planned, **known)


def run_policy(monkeypatch, **policy):
    """Let every cost above 0 have this policy."""
    policies = (Policy(), Policy(cost=1e-3, **policy))
    reference = GainReference(gain_reference().model, policies)
    for module in (plan, gathering):
        monkeypatch.setattr(module, "gain_reference", lambda: reference)


def test_without_cost_nothing_is_trained_and_the_columns_are_those_of_the_networks():
    params, _, history = trained(1.0)
    start = jax.device_get(init(jax.random.key(3)))
    initial = [{"params": start, "batch_stats": {}}]
    found = seen(params, Spending(0.0), settings(1.0), histories=[history], initial=initial)
    assert (found.spent, found.probes, found.raced, found.improved) == (0.0, (), {}, None)
    for side, (x, y) in {"train": TRAIN, "validation": HELD_OUT, "test": make_data(200, 2)}.items():
        assert found.row[f"{side}_error"] == pytest.approx(error_of(params, x, y), abs=1e-4)
        assert found.row[f"{side}_loss"] == pytest.approx(float(loss_of(params, x, y)), rel=1e-4)
    shares = np.bincount(TRAIN[1]) / 400
    assert found.row["chance_error"] == pytest.approx(100 * (1 - shares.max()))
    assert found.row["chance_loss"] == pytest.approx(-np.sum(shares * np.log(shares)))
    flat, flat_start = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (params, start))
    growth = np.log(np.linalg.norm(flat) / np.linalg.norm(flat_start))
    assert found.row["weight_growth"] == pytest.approx(growth, rel=1e-4)
    moved = np.linalg.norm(flat - flat_start) / np.linalg.norm(flat_start)
    assert found.row["distance_from_initial"] == pytest.approx(moved, rel=1e-4)
    wrong = np.asarray(apply(params, HELD_OUT[0])).argmax(1) != HELD_OUT[1]
    by_class = {label: (wrong[HELD_OUT[1] == label], np.sum(HELD_OUT[1] == label)) for label in range(4)}
    assert [one.label for one in found.by_class] == [0, 1, 2, 3]
    for one in found.by_class:
        of_class, number = by_class[one.label]
        assert (one.examples, one.error) == (number, pytest.approx(100 * of_class.mean()))
        assert one.standard_error == pytest.approx(100 * of_class.std(ddof=1) / number**0.5)
    chance = {name: found.row[name] for name in ("chance_loss", "chance_error")}
    assert found.row["history_slope_30"] == pytest.approx(curve_features(history, **chance)["history_slope_30"][0])


def test_what_no_fresh_or_initial_network_is_there_for_is_left_out():
    params = trained(1.0)[0]
    fresh, without = seen(params, Spending(0.0)).row, seen(params, Spending(0.0), init=None)
    assert "distance_from_initial" not in fresh
    assert fresh["weight_growth"] != pytest.approx(0, abs=1e-3)
    assert not {"weight_growth", "layer_growth", "weight_norm_initial"} & set(without.row)
    assert without.row["gradient_ratio"] == pytest.approx(fresh["gradient_ratio"])
    assert [note.kind for note in without.notes] == ["no_start"]


@pytest.mark.parametrize(("factor", "answer"), [(1 / 30, "too_low"), (30.0, "too_high")])
def test_a_temperature_that_is_far_off_is_told(factor, answer):
    params, _, history = trained(factor)
    diagnosis = diagnose_model(
        apply, [params], TRAIN, test=HELD_OUT, init=init, training=settings(factor), history=history, measure=HESSIAN
    )
    optimizer = next(one for one in diagnosis.outlook.answers if one.question == "optimizer")
    assert (optimizer.answer, optimizer.probability > 0.7) == (answer, True)
    worst = max(diagnosis.by_class, key=lambda one: one.error)
    assert sum(one.examples for one in diagnosis.by_class) == 200
    assert f"Errors by class:\n     {worst.label}  " in str(diagnosis)
    assert diagnosis.outlook.probes == gain_reference().policy(0.1).probes
    assert 0 < diagnosis.outlook.spent <= 0.1 + 1 / (EPOCHS * 400 / BATCH)


def test_a_race_ranks_the_rates(monkeypatch):
    run_policy(monkeypatch, racers=4, share=4)
    params, told = trained(30.0)[0], []
    found = seen(params, Spending(1.2), settings(30.0), progress=lambda *said: told.append(said))
    assert found.raced["rate_down"] < min(error for name, error in found.raced.items() if name != "rate_down")
    assert found.spent == pytest.approx(sum({"batch_down": 0.5, "batch_up": 0.125}.get(n, 0.25) for n in found.raced))
    assert "longer" not in found.raced
    assert "wider" not in found.raced
    fractions, messages = zip(*told, strict=True)
    assert (messages[0], *fractions[:1], fractions[-1]) == ("norms and errors of network 1 of 1", 0.0, 1.0)
    assert list(fractions) == sorted(fractions)
    assert [message for message in messages if message.startswith("race: ")] == [
        f"race: {REMEDIES[name].meaning}" for name in found.raced
    ]
    without = seen(params, Spending(1.2), settings(30.0), memory_bytes=1)
    assert (without.raced, without.spent, [note.kind for note in without.notes]) == ({}, 0.0, ["memory_over"])


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(24)(x))
        return nn.Dense(4)(nn.Dropout(0.1, deterministic=not train)(nn.relu(x)))


@functools.cache
def spoiled():
    """Return a trained network with BatchNorm, and the same with statistics of other inputs."""
    module, (x, y) = Normalized(), map(jnp.asarray, TRAIN)
    variables = module.init(jax.random.key(0), x)
    transform = optax.adam(0.01)

    @jax.jit
    def step(variables, state, rows):
        def loss(params):
            given = {**variables, "params": params}
            out, new = module.apply(given, x[rows], True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
            return optax.softmax_cross_entropy_with_integer_labels(out, y[rows]).mean(), new

        gradient, new = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = transform.update(gradient, state)
        return {"params": optax.apply_updates(variables["params"], updates), **new}, state

    state, rng = transform.init(variables["params"]), np.random.default_rng(0)
    for _ in range(200):
        variables, state = step(variables, state, rng.integers(0, 400, 40))
    good = jax.device_get(variables)
    return good, {**good, "batch_stats": jax.tree.map(lambda leaf: 6 * leaf + 3, good["batch_stats"])}


def test_stale_statistics_are_the_cause_and_improved_has_the_right_ones(tmp_path):
    good, bad = spoiled()

    def error(variables):
        return 100 * float(np.mean(Normalized().apply(variables, HELD_OUT[0]).argmax(1) != HELD_OUT[1]))

    diagnosis = diagnose_model(Normalized(), [bad], TRAIN, test=HELD_OUT, measure=HESSIAN)
    assert diagnosis.cause == "stale_statistics"
    assert diagnosis.outlook.spent == 0
    assert sum(term.points for term in diagnosis.outlook.budget) == pytest.approx(diagnosis.outlook.error, abs=1e-3)
    improved = diagnosis.improved
    assert (improved.by, improved.is_better) == ("refreshed", True)
    assert error(bad) - error(good) > 10
    assert error(improved.variables) < error(good) + 2
    assert np.mean(improved.test_error[1:]) < np.mean(improved.test_error[:1]) - 5
    path = improved.save(tmp_path / "better")
    with np.load(path) as arrays:
        mean = improved.variables["batch_stats"]["BatchNorm_0"]["mean"]
        assert np.array_equal(arrays["batch_stats/BatchNorm_0/mean"], mean)


def test_the_given_network_is_kept_where_none_is_surely_better(monkeypatch):
    run_policy(monkeypatch, probes=("heat", "cool"))
    params = trained(1.0)[0]
    improved = seen(params, Spending(0.3), settings(1.0)).improved
    if improved.by == "checkpoint":
        assert all(np.array_equal(improved.variables[name], params[name]) for name in params)
    else:
        assert improved.change < -2 * improved.standard_error


def test_the_state_of_the_optimizer_goes_on_or_is_warmed_up(monkeypatch):
    run_policy(monkeypatch, probes=("same",))
    params, state, _ = trained(0.1, "adam")
    rate = 0.1 * RATE
    own = settings(0.1, optimizer=optax.adam(rate))
    given, warmed, other = (
        seen(params, Spending(0.2), own | more)
        for more in ({"opt_state": state}, {}, {"opt_state": optax.sgd(rate, 0.9).init(params)})
    )
    assert [note.kind for note in other.notes] == ["state_unfit"]
    assert other.row == warmed.row
    assert given.row["same_train_loss"] != warmed.row["same_train_loss"]
    assert warmed.spent - given.spent == pytest.approx(10 / (EPOCHS * 400 // BATCH))
    # The same optimizer by its name takes the same steps from the same state.
    named = seen(params, Spending(0.2), settings(0.1, optimizer="adam", opt_state=state))
    assert named.row["same_train_loss"] == pytest.approx(given.row["same_train_loss"], rel=1e-3)


def test_a_warm_up_that_is_longer_than_the_probe_is_left_out():
    found = seen(trained(1.0)[0], Spending(0.1), settings(1.0, epochs=2))  # 40 steps, 4 of them for the probe
    assert found.probes == gain_reference().policy(0.1).probes
    assert found.spent == pytest.approx(0.1)


def test_moments_keep_their_places_in_another_chain():
    params, state, _ = trained(0.1, "adam")
    data = examples_of(TRAIN, test=HELD_OUT)[0]
    subject = subject_of(apply, [params], data.x_train)
    as_it_was, notes = trained_as(subject, data, Training.of(settings(0.1, optimizer="adam")))
    found = fitting_state(as_it_was, params, state)
    adam = next(one for one in jax.tree.leaves(found, is_leaf=lambda n: hasattr(n, "nu")) if hasattr(one, "nu"))
    assert np.array_equal(adam.nu["w1"], state[0].nu["w1"])
    assert np.array_equal(adam.mu["w2"], state[0].mu["w2"])
    assert int(adam.count) == int(state[0].count)
    assert notes == []


@pytest.mark.parametrize(
    ("training", "kind"),
    [
        ({"learning_rate": 0.1, "batch_size": 20}, "no_experiments"),
        (settings(1.0, optimizer=optax.sgd(optax.cosine_decay_schedule(RATE, 100))), "own_schedule"),
    ],
)
def test_what_is_too_little_for_an_experiment_is_a_note(training, kind):
    found = seen(trained(1.0)[0], Spending(0.1), training)
    assert [note.kind for note in found.notes] == [kind]
    assert (found.spent, found.probes) == (0, ())


def test_a_regression_from_its_checkpoint(monkeypatch):
    run_policy(monkeypatch, probes=("heat", "cool"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.standard_normal(300)).astype(np.float32)
    half = {"w": np.array([0.5, -1.0, 0.25], np.float32)}
    diagnosis = diagnose_model(
        lambda p, x: x @ p["w"],
        [half],
        (x[:200], y[:200]),
        test=(x[200:], y[200:]),
        objective="regression",
        training={"learning_rate": 0.01, "batch_size": 20, "steps": 200},
        cost=0.3,
        measure=HESSIAN,
    )
    outlook = diagnosis.outlook
    assert diagnosis.by_class == ()
    assert outlook.probes == ("heat", "cool")
    assert outlook.error == pytest.approx(25, abs=5)  # half of the weights: a quarter of the variance
    assert sum(term.points for term in outlook.budget) == pytest.approx(outlook.error, abs=1e-3)
    assert {"smoothing_on", "augment_on"}.isdisjoint(move.remedy for move in outlook.moves)
    assert diagnosis.improved.by == "heat"  # it is far from the best weights, and nearer by the larger rate
    assert diagnosis.improved.test_error[1] < diagnosis.improved.test_error[0] - 5


def test_the_landscape_alone_knows_nothing_of_history_settings_and_held_out_data():
    params, _, history = trained(1.0)
    alone = diagnose_model(apply, [params], TRAIN, evidence="landscape", measure=HESSIAN)
    told = settings(1.0)
    given = {"test": HELD_OUT, "training": told, "history": history, "cost": 1.0, "init": init}
    whole = diagnose_model(apply, [params], TRAIN, evidence="landscape", measure=HESSIAN, **given)
    assert (whole.cause, whole.ranking, whole.evidence) == (alone.cause, alone.ranking, alone.evidence)
    assert {k: v for k, v in whole.metrics.items() if not k.startswith("test_")} == alone.metrics
    assert (whole.outlook, whole.findings, whole.improved) == (None, (), None)


def test_the_same_network_twice_is_a_finding():
    params = trained(1.0)[0]
    diagnosis = diagnose_model(apply, [params, params], TRAIN, test=HELD_OUT, measure=HESSIAN)
    assert "same_network" in [finding.kind for finding in diagnosis.findings if finding.is_told]
    with pytest.raises(UserError, match="networks 1 and 2 have the same parameters"):
        diagnose_model(apply, [params, params], TRAIN, evidence="landscape", measure=HESSIAN)


@pytest.mark.parametrize(
    ("cost", "share", "seconds"),
    [(None, 0.1, None), (0, 0, None), ("0.25", 0.25, None), ("60s", 1, 60), ("2min", 1, 120)],
)
def test_costs(cost, share, seconds):
    spending = spending_of(cost, Training.of(settings(1.0)))
    assert (spending.share, spending.seconds) == (share, seconds)


@pytest.mark.parametrize(
    ("cost", "message"), [("a lot", "give a share"), (-1, "must be 0 to 100"), (True, "not valid")]
)
def test_costs_that_there_are_not(cost, message):
    with pytest.raises(UserError, match=message):
        spending_of(cost, Training())


def test_time_that_is_over_starts_nothing(monkeypatch):
    run_policy(monkeypatch, probes=("heat",))
    found = seen(trained(1.0)[0], Spending(1.0, seconds=1e-6), settings(1.0, epochs=4000))
    assert found.probes == ()
    assert [note.kind for note in found.notes] == ["time_over"]
    assert found.spent < 1e-3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
        ({"optimizer": 3}, "training.optimizer is a int; it must be one of sgd"),
        ({"schedule": len}, "training.schedule is a"),
        ({"momentum": 1.5}, "momentum=1.5 is out of range"),
        ({"weight_decay": -1.0}, "weight_decay=-1 is out of range"),
        ({"label_smoothing": "a"}, "training.label_smoothing='a' is not a number"),
        ({"augment": "yes"}, "training.augment='yes'"),
        ({"steps": 0}, "training.steps=0 is out of range"),
    ],
)
def test_settings_of_training_that_there_are_not(setting, message):
    with pytest.raises(UserError, match=message):
        Training.of(setting)


def test_epochs_and_steps_follow_from_each_other():
    assert Training(batch_size=20, steps=100).with_length(210).epochs == 10
    assert Training(batch_size=20, epochs=2.5).with_length(200).steps == 25
