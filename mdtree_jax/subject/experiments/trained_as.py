"""How a subject's networks were trained, as probes and short runs go on with it. JAX."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.models import Model, count_activations, count_parameters
from mdtree_jax.population.executor import CPU_LANE_BYTES
from mdtree_jax.probes.steps import TrainingSettings, constant_trainer, scaled_transform
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.subject.adapted import unlike_averages
from mdtree_jax.subject.frameworks.base import is_floating
from mdtree_jax.subject.network import Examples, Subject, tried_inputs
from mdtree_jax.training import Hyperparameters, objective_functions
from mdtree_jax.training.arrays import one_row
from mdtree_jax.training.train import Array

#: What must be known of a training before a step of it can be taken.
NEEDED = ("learning_rate", "batch_size", "epochs")
#: Batch of a program that takes no steps.
_ANY_BATCH = 128
_SEED = 0


class TrainedAs(NamedTuple):
    """How the networks of a subject were trained.

    Attributes:
        model: the networks as training takes them, dropout drawn anew at every step.
        settings: what is the same at every step.
        hparams: learning rate (the peak), weight decay and knobs; `num_samples` is the training set.
        num_epochs: of `num_samples` each; together the steps of the training.
        num_steps: of the whole training.
        weight_decay: that of the optimizer, also where a transformation holds it and `hparams` have none.
        side_by_side: whether a step is so small, or the device such, that probes step together.
        is_known: whether steps can be taken: else it serves programs without any.
        can_refresh: whether there are running averages, which can be recomputed.
    """

    model: Model
    settings: TrainingSettings
    hparams: Hyperparameters
    num_epochs: np.int32
    num_steps: int
    weight_decay: float
    side_by_side: bool
    is_known: bool
    can_refresh: bool

    def moved(self, knob: str, value: Any) -> TrainedAs:
        """Return the same training with one knob at another value."""
        if knob == "learning_rate":
            return self._replace(hparams=self.hparams._replace(learning_rate=_number(value)))
        if knob == "weight_decay":
            inside = self.weight_decay if callable(self.settings.optimizer) else 0.0  # it stays in the transformation
            return self._replace(hparams=self.hparams._replace(weight_decay=_number(value - inside)))
        if knob == "label_smoothing":
            knobs = self.hparams.knobs | {knob: _number(value)}
            return self._replace(hparams=self.hparams._replace(knobs=knobs))
        if knob == "batch_size":
            size = int(np.clip(round(value), 1, int(self.hparams.num_samples)))
            return self._replace(settings=dataclasses.replace(self.settings, batch_size=size))
        return self._replace(settings=self.settings.with_knob(knob, KNOBS[knob].kind(value)))

    def value(self, knob: str) -> Any:
        """Return the value of a knob."""
        if knob == "learning_rate":
            return float(self.hparams.learning_rate)
        if knob == "weight_decay":
            return self.weight_decay
        if knob == "batch_size":
            return self.settings.batch_size
        if knob in self.hparams.knobs:
            return float(self.hparams.knobs[knob])
        return self.settings.value(knob)


def trained_as(subject: Subject, data: Examples, training: Training) -> tuple[TrainedAs, list[Fact]]:
    """Return how a subject's networks were trained, and facts on why no step of it can be taken, or how one is."""
    notes: list[Fact] = []
    training, num = training.with_length(len(data.y_train)), len(data.y_train)
    can_train, has_state = _can_train(subject, data), bool(jax.tree.leaves(subject.variables[0]["batch_stats"]))
    missing = [name for name in NEEDED if getattr(training, name) is None]
    if missing:
        notes.append(fact("no_experiments", missing=[_words(name) for name in missing]))
    elif not can_train:
        notes.append(fact("no_training_mode"))
    elif _has_schedule(training.optimizer, subject):
        notes.append(fact("own_schedule"))
    batch = int(np.clip(round(training.batch_size or _ANY_BATCH), 1, num))
    epochs = training.epochs or 1.0
    # Less than an epoch is one of fewer examples.
    used = num if epochs >= 1 else max(batch, round(epochs * num))
    num_epochs = max(1, round(epochs))
    settings, decay = _settings(subject, training, batch)
    model = _training_model(subject) if can_train else _evaluation_model(subject)
    smoothing: dict[str, Array] = (
        {} if not training.label_smoothing else {"label_smoothing": _number(training.label_smoothing)}
    )
    hparams = Hyperparameters(
        key=np.asarray(jax.random.key_data(jax.random.key(_SEED, impl="threefry2x32"))),
        num_samples=np.asarray(used, np.int32),
        learning_rate=_number(training.learning_rate or 1.0),
        weight_decay=_number(0.0 if callable(settings.optimizer) else decay),
        knobs=smoothing,
    )
    is_small = jax.default_backend() != "cpu" or _step_bytes(subject, data, batch) <= CPU_LANE_BYTES
    num_steps = max(1, used // batch * num_epochs)
    length = np.int32(num_epochs), num_steps
    return TrainedAs(model, settings, hparams, *length, decay, is_small, not notes, has_state and can_train), notes


def fitting_state(trained: TrainedAs, params: Any, opt_state: Any) -> Any:
    """Return an optimizer's state in the structure of the trainer's own for these parameters, None if it is another.

    Of a named optimizer the moments are taken in order, whatever chain of transformations they come from; where it
    counted no steps, all of the training's count.
    """
    trainer = constant_trainer(trained.model, trained.settings)
    variables = {"params": params, "batch_stats": {}}
    wanted = jax.eval_shape(lambda v: trainer.start(v, trained.hparams, 1).opt_state, variables)
    moments = [np.asarray(leaf) for leaf in jax.tree.leaves(opt_state) if is_floating(leaf)]
    counts = [int(np.max(leaf)) for leaf in jax.tree.leaves(opt_state) if not is_floating(leaf)]
    shapes = jax.tree.leaves(wanted)
    if [leaf.shape for leaf in moments] != [leaf.shape for leaf in shapes if is_floating(leaf)]:
        return None
    left, count = iter(moments), max(counts, default=trained.num_steps)
    leaves = [
        next(left).astype(leaf.dtype) if is_floating(leaf) else np.full(leaf.shape, count, leaf.dtype)
        for leaf in shapes
    ]
    return jax.tree.structure(wanted).unflatten(leaves)


def fresh_state(trained: TrainedAs, variables: Any) -> Any:
    """Return an optimizer's state before its first step, on the host."""
    trainer = constant_trainer(trained.model, trained.settings)
    return jax.device_get(trainer.start(variables, trained.hparams, 1).opt_state)


def _number(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


def _words(name: str) -> str:
    return {"epochs": "epochs or steps"}.get(name, name.replace("_", " "))


def _settings(subject: Subject, training: Training, batch: int) -> tuple[TrainingSettings, float]:
    """Return the settings of a training, and its weight decay."""
    optimizer = "sgd" if training.optimizer is None else training.optimizer
    if not isinstance(optimizer, str):
        optimizer = scaled_transform(optimizer, float(training.learning_rate or 1.0))
    settings = TrainingSettings(
        batch,
        optimizer=optimizer,
        schedule=training.schedule or KNOBS["schedule"].default,
        momentum=KNOBS["momentum"].default if training.momentum is None else float(training.momentum),
        objective=objective_functions(subject.objective),
        knobs=(("augment", True),) if training.augment else (),
    )
    return settings, float(training.weight_decay or 0.0)


def _can_train(subject: Subject, data: Examples) -> bool:
    """Return whether training mode updates the state as running averages, or there is no state."""
    return subject.can_recompute and not unlike_averages(subject, tried_inputs(data))


def _has_schedule(optimizer: Any, subject: Subject) -> bool:
    """Return whether a transformation counts steps for a schedule of its own."""
    if optimizer is None or isinstance(optimizer, str):
        return False
    state = jax.eval_shape(optimizer.init, subject.variables[0]["params"])

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    return any(is_schedule(node) for node in jax.tree.leaves(state, is_leaf=is_schedule))


def _training_model(subject: Subject) -> Model:
    """Return the networks with dropout drawn anew at every step, from a key made of its parameters and inputs."""
    apply_train = subject.apply_train
    if apply_train is None:
        return subject.model

    def apply(variables: Any, x: Any, train: bool) -> tuple[Any, dict, Any]:
        if not train:
            return subject.model.apply(variables, x, False)
        outputs, state = apply_train(variables, x, _key_of(variables["params"], x))
        return outputs, {}, state

    return Model(subject.model.init, apply)


def _evaluation_model(subject: Subject) -> Model:
    """Return networks whose state nothing changes, where it cannot be made anew."""
    return Model(subject.model.init, lambda variables, x, train: subject.model.apply(variables, x, False))


def _key_of(params: Any, x: Any) -> jax.Array:
    numbers = (jax.tree.leaves(params)[0], jax.tree.leaves(x)[0])
    bits = [jax.lax.bitcast_convert_type(jnp.sum(a, dtype=jnp.float32), jnp.uint32) for a in numbers]
    return jax.random.fold_in(jax.random.key(_SEED), bits[0] ^ bits[1])


def _step_bytes(subject: Subject, data: Examples, batch: int) -> int:
    """Return the size of a training step, as `population.executor.step_bytes` does."""
    activations = count_activations(subject.model, one_row(data.x_train), batch, "float32")
    return (6 * count_parameters(subject.model) + 2 * activations) * 4
