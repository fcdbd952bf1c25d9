import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.models import build_model
from mdtree_jax.training import EarlyStop, Hyperparameters, cross_entropy, evaluate, make_optimizer, make_trainer
from mdtree_jax.training.early_stop import update_early_stop
from mdtree_jax.training.knobs import shift_and_mirror
from mdtree_jax.training.train import random_order, train_single


def expected_stop(losses, min_epoch, patience, tolerance):
    """The rule as it is stated, on a whole list: (epoch kept, epochs trained), numbered from 1."""
    for epoch in range(1, len(losses) + 1):
        if not np.isfinite(losses[epoch - 1]):
            before = losses[: epoch - 1]
            return (int(np.argmin(before)) + 1 if before else epoch), epoch
        changes = np.abs(np.diff(losses[:epoch]))
        if epoch >= min_epoch and len(changes) >= patience and (changes[-patience:] <= tolerance).all():
            return epoch, epoch
    return int(np.argmin(losses)) + 1, len(losses)


CALM = [1.0, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.3]
CASES = [
    (CALM, 1, 5),  # stops at the fifth calm change
    (CALM, 9, 5),  # calm long before the first allowed epoch
    (CALM, 1, 50),  # never calm long enough: lowest loss
    ([1.0, 0.2, 0.5, 0.2, 0.9], 1, 5),  # the first of equal losses
    ([1.0, 0.2, np.nan, 0.1], 1, 5),  # diverges
    ([np.inf, 0.1], 1, 5),  # diverges at once
]


@pytest.mark.parametrize(("losses", "min_epoch", "patience"), CASES)
def test_early_stop_follows_the_stated_rule(losses, min_epoch, patience):
    record = EarlyStop.start(jnp.float32)
    kept = None
    for loss in losses:
        record, keep = update_early_stop(
            record, jnp.float32(loss), num_epochs=len(losses), min_epoch=min_epoch, patience=patience, tolerance=1e-4
        )
        kept = int(record.epoch) if keep else kept
        if record.is_done:
            break
    assert (kept, int(record.epoch)) == expected_stop(losses, min_epoch, patience, 1e-4)
    assert kept == int(record.kept_epoch)
    assert bool(record.is_finite) == bool(np.isfinite(losses[: int(record.epoch)]).all())


def test_without_early_stop_the_last_epoch_is_kept():
    record = EarlyStop.start(jnp.float32)
    for loss in (0.1, 0.5, 0.5):
        record, keep = update_early_stop(
            record, jnp.float32(loss), num_epochs=3, enabled=False, min_epoch=1, patience=1
        )
        assert keep
    assert record.is_done
    assert int(record.kept_epoch) == 3


def test_sgd_equals_pytorchs_formula():
    params, velocity = np.array([1.0, -2.0]), np.zeros(2)
    optimizer = make_optimizer("sgd", "constant", 0.9, 0.1, 0.01, 10)
    ours, state = jnp.array(params), optimizer.init(jnp.array(params))
    for step in range(5):
        gradient = np.array([0.3, 0.1]) * (step + 1)
        velocity = 0.9 * velocity + gradient + 0.01 * params
        params = params - 0.1 * velocity
        updates, state = optimizer.update(jnp.array(gradient), state, ours)
        ours = ours + updates
    np.testing.assert_allclose(ours, params, rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1, 1, 1, 1]),
        ("step", [1, 1, 0.1, 0.01]),
        ("cosine", [1, 0.8535534, 0.5, 0.1464466]),
        ("linear", [1, 0.75, 0.5, 0.25]),
    ],
)
def test_schedules(schedule, rates):
    optimizer = make_optimizer("sgd", schedule, 0.0, jnp.float32(1.0), jnp.float32(0.0), jnp.int32(4))
    state = optimizer.init(jnp.ones(1))
    steps = []
    for _ in rates:
        updates, state = optimizer.update(jnp.ones(1), state, jnp.ones(1))
        steps.append(-float(updates[0]))
    np.testing.assert_allclose(steps, rates, rtol=1e-5)


def test_warm_up_is_a_twentieth_of_the_steps():
    optimizer = make_optimizer("sgd", "warmup_cosine", 0.0, jnp.float32(1.0), jnp.float32(0.0), jnp.int32(80))
    state, rates = optimizer.init(jnp.ones(1)), []
    for _ in range(80):
        updates, state = optimizer.update(jnp.ones(1), state, jnp.ones(1))
        rates.append(-float(updates[0]))
    np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-5)
    np.testing.assert_allclose(rates[4:], 0.5 * (1 + np.cos(np.pi * np.arange(76) / 76)), rtol=1e-4, atol=1e-6)


def steps_of(optimizer, gradients, start):
    """Return the weights after every step of an optimizer with decay 0.1 and rate 0.01."""
    optimizer = make_optimizer(optimizer, "constant", 0.9, 0.01, 0.1, len(gradients))
    params = jax.tree.map(jnp.asarray, start)
    state, found = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradient), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        found.append(params)
    return found


def test_adam_and_lion_equal_their_formulas():
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal(5), list(rng.standard_normal((4, 5)))
    for name in ("adam", "lion"):
        w, m, v, expected = start.copy(), np.zeros(5), np.zeros(5), []
        for step, g in enumerate(gradients, 1):
            if name == "adam":
                g = g + 0.1 * w
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                w = w - 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            else:
                w = w - 0.01 * (np.sign(0.9 * m + 0.1 * g) + 0.1 * w)
                m = 0.99 * m + 0.01 * g
            expected.append(w)
        np.testing.assert_allclose(steps_of(name, gradients, start), expected, rtol=1e-4)


def test_muon_turns_a_matrix_by_an_orthogonal_step_of_one_size_and_other_shapes_by_adam():
    rng = np.random.default_rng(1)
    start = {"matrix": rng.standard_normal((6, 3)), "vector": np.zeros(3)}
    gradient = {"matrix": 1e-3 * rng.standard_normal((6, 3)), "vector": np.array([1.0, -2.0, 1e-3])}
    (after,) = steps_of("muon", [gradient], start)
    step = (start["matrix"] * (1 - 0.01 * 0.1) - after["matrix"]) / 0.01
    assert np.sqrt((step**2).mean()) == pytest.approx(0.2, rel=1e-2)
    u, _, vt = np.linalg.svd(gradient["matrix"], full_matrices=False)
    values = np.linalg.svd(u.T @ step @ vt.T)[1]
    assert values.max() / values.min() < 2  # of the gradient itself far more, of an orthogonal matrix 1
    assert (np.diag(u.T @ step @ vt.T) > 0).all()
    # The first step of Adam with Nesterov momentum is of one size whatever the gradient, and larger than the rate.
    sizes = after["vector"] / (-0.01 * np.sign(gradient["vector"]))
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-3)
    assert 1 <= sizes[0] < 1.5


def test_unknown_optimizer_and_schedule():
    model = build_model("mlp", 2, 3, (4, 4, 1))
    with pytest.raises(UserError, match=r"unknown optimizer 'adamm' .*available: sgd, adam, adamw, lion, muon"):
        make_trainer(model, batch_size=4, num_epochs=1, optimizer="adamm")
    with pytest.raises(UserError, match="unknown schedule 'exponential'; available: constant, step, linear, cosine"):
        make_trainer(model, batch_size=4, num_epochs=1, schedule="exponential")


def test_order_is_a_permutation_of_the_prefix_and_uniform():
    orders = jax.vmap(lambda key: random_order(key, jnp.int32(5), 8))(jax.random.split(jax.random.key(0), 4000))
    assert (np.sort(orders[:, :5], axis=1) == np.arange(5)).all()
    counts = np.stack([np.bincount(orders[:, place], minlength=5)[:5] for place in range(5)])
    deviation = np.abs(counts - 800) / np.sqrt(4000 * 0.2 * 0.8)
    assert deviation.max() < 4.5
    assert (np.abs(counts * np.linspace(0.7, 1.3, 5) - 800) / np.sqrt(640)).max() > 4.5


def test_augmentation_shifts_and_mirrors():
    x = jnp.arange(1.0, 1 + 6 * 6).reshape(1, 6, 6, 1)
    out = np.asarray(shift_and_mirror(jax.random.key(0), jnp.repeat(x, 200, axis=0), pixels=1))[..., 0]
    padded = np.pad(np.asarray(x)[0, :, :, 0], 1)
    views = [padded[i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
    views += [view[:, ::-1] for view in views]
    hits = np.array([[(image == view).all() for view in views] for image in out])
    assert (hits.sum(1) == 1).all()
    assert hits.any(0).all()


def test_evaluation_counts_the_prefix_once_whatever_the_batch():
    model = build_model("mlp", 4, 3, (2, 2, 1))
    variables = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (23, 2, 2, 1))
    y = jax.random.randint(jax.random.key(2), (23,), 0, 3)
    compiled = jax.jit(functools.partial(evaluate, model), static_argnums=4)
    for count in (1, 10, 20, 23):
        logits = np.asarray(model.apply(variables, x[:count], False)[0], np.float64)
        expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(count), y[:count]])
        np.testing.assert_allclose(cross_entropy(jnp.array(logits), y[:count]).mean(), expected, rtol=1e-5)
        for batch_size in (1, 7, 10, 100):
            loss, wrong = compiled(variables, x, y, jnp.int32(count), batch_size)
            np.testing.assert_allclose(loss, expected, rtol=1e-4)
            assert int(wrong) == np.sum(logits.argmax(1) != y[:count])


def test_training_learns_and_keeps_the_best_epoch():
    model = build_model("mlp", 8, 2, (2, 1, 1))
    rng = np.random.default_rng(0)
    x = jnp.array(rng.normal(size=(64, 2, 1, 1)), jnp.float32)
    y = jnp.array((x[:, 0, 0, 0] * x[:, 1, 0, 0] > 0), jnp.int32)
    trainer = make_trainer(model, batch_size=8, num_epochs=40)
    key = jax.random.key_data(jax.random.key(3))
    hparams = Hyperparameters(key, jnp.int32(64), jnp.float32(0.1), jnp.float32(0.0))
    state = train_single(trainer, model.init(jax.random.key(0)), hparams, x, y)
    assert int(evaluate(model, state.kept, x, y, jnp.int32(64), 64)[1]) < 16
    assert bool(state.record.is_finite)
    assert 1 <= int(state.record.kept_epoch) <= int(state.record.epoch) <= 40
