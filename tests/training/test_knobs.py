"""What knobs do in a training step, beside formulas; a knob that is off is in no program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.models import build_model
from mdtree_jax.training import Hyperparameters, cross_entropy, make_trainer
from mdtree_jax.training.knobs import smooth_labels


def test_smoothed_labels_are_soft_targets():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    log_probability = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for share in (0.0, 0.1, 0.9):
        targets = (1 - share) * np.eye(4)[labels] + share / 4
        losses = cross_entropy(jnp.array(logits), jnp.array(labels))
        found = smooth_labels(losses, jnp.array(logits), jnp.array(labels), share)
        np.testing.assert_allclose(found, -(targets * log_probability).sum(1), rtol=1e-5)


def step_program(batched=(), **static):
    """Return the traced program of a training step as text."""
    model = build_model("mlp", 2, 3, (2, 2, 1))
    trainer = make_trainer(model, batch_size=4, num_epochs=2, **static)
    number = jnp.float32(0.1)
    hparams = Hyperparameters(jnp.zeros(2, jnp.uint32), jnp.int32(8), number, number, dict.fromkeys(batched, number))
    state = trainer.start(model.init(jax.random.key(0)), hparams, 8)
    return str(jax.make_jaxpr(trainer.step)(state, hparams, jnp.zeros((8, 2, 2, 1)), jnp.zeros(8, jnp.int32)))


def test_a_static_knob_at_its_default_leaves_the_program_as_it_is():
    plain = step_program()
    assert step_program(augment=False, label_smoothing=0.0) == plain
    assert step_program(augment=True) != plain
    assert step_program(label_smoothing=0.1) != plain
    assert step_program(batched=["label_smoothing"]) != plain


def test_an_unknown_knob_is_named():
    with pytest.raises(UserError, match=r"unknown knob 'augmnt' \(did you mean 'augment'\?\)"):
        step_program(augmnt=True)
