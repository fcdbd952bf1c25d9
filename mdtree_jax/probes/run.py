"""The probes of one network: what each changes, the steps it takes, the networks it ends with. JAX.

All functions are pure: a network, its training settings and a key give the same probes wherever they run. The given
network is never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mdtree_jax import lowering
from mdtree_jax.models import Model
from mdtree_jax.probes.outcome import refreshed
from mdtree_jax.probes.steps import (
    LEAST_WARM_UP,
    WARM_UP_SHARE,
    TrainingSettings,
    constant_trainer,
    num_steps_of,
    share_of,
    started,
    train_for,
    warm_up,
)
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.probes import CHECKPOINT, PROBES, REFRESHED, SCHEDULES, TRACED_KNOBS, Probe
from mdtree_jax.training import Hyperparameters, Trainer, TrainState, objective_functions
from mdtree_jax.training.arrays import num_rows


class Change(NamedTuple):
    """What probes change; scalars of one probe, or arrays with the probes as first axis.

    Attributes:
        rate: multiple of the learning rate.
        cosine: share of a cosine in its schedule, from 1 down to 0 over the probe's steps.
        weight_decay: its value.
        knobs: values of further traced knobs.
    """

    rate: jax.Array
    cosine: jax.Array
    weight_decay: jax.Array
    knobs: dict[str, jax.Array]


class Probed(NamedTuple):
    """The networks that probes of one network ended with.

    Attributes:
        variables: of all of them, stacked, in the order of `order_of`; running averages recomputed
            but in the checkpoint.
        num_steps: that all probes together took, and the warm-up; scalar int32.
    """

    variables: Any
    num_steps: jax.Array


def applicable(names: Sequence[str], settings: TrainingSettings, x: Any) -> tuple[str, ...]:
    """Return those of some probes that can be run: label smoothing takes classes, augmentation images.

    Args:
        names: of `PROBES`.
        settings: with the objective.
        x: inputs, which may be abstract.
    """
    has_classes = objective_functions(settings.objective).targets in ("class", "tokens")
    leaves = jax.tree.leaves(x)
    has_images = len(leaves) == 1 and leaves[0].ndim == 4 and jnp.issubdtype(leaves[0].dtype, jnp.floating)
    possible = {"label_smoothing": has_classes, "augment": has_images}
    return tuple(name for name in names if possible.get(PROBES.find(name).knob, True))


def order_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the networks that `run_probes` returns for some probes, in order.

    >>> order_of(["heat", "augment", "same"])
    ('checkpoint', 'refreshed', 'heat', 'same', 'augment')
    """
    return (CHECKPOINT, REFRESHED, *(probe.name for group in _groups(names) for probe in group))


def changes_of(probes: Sequence[Probe], settings: TrainingSettings, hparams: Hyperparameters) -> Change:
    """Return what some probes change, stacked; a traced knob that none of them moves is not among `knobs`."""
    dtype = jnp.asarray(hparams.learning_rate).dtype

    def values(knob: str, now: jax.Array) -> jax.Array:
        return jnp.stack([_moved(probe, now, KNOBS[knob].default) if probe.knob == knob else now for probe in probes])

    knobs = {}
    for name in TRACED_KNOBS[2:]:
        if name in hparams.knobs or any(probe.knob == name for probe in probes):
            knobs[name] = values(name, jnp.asarray(hparams.knobs.get(name, settings.value(name)), dtype))
    return Change(
        rate=jnp.array([probe.rate for probe in probes], dtype),
        cosine=jnp.array([SCHEDULES[probe.schedule] for probe in probes], dtype),
        weight_decay=values("weight_decay", jnp.asarray(hparams.weight_decay, dtype)),
        knobs=knobs,
    )


def _moved(probe: Probe, now: jax.Array, default: Any) -> jax.Array:
    """Return `probe.moved` of a traced value."""
    default = jnp.asarray(default, now.dtype)
    if probe.value is not None:
        return jnp.where(now == default, jnp.asarray(probe.value, now.dtype), default)
    return jnp.asarray(probe.multiple, now.dtype) * jnp.where(now > 0, now, default)


def continue_training(
    trainer: Trainer,
    variables: Any,
    opt_state: Any,
    hparams: Hyperparameters,
    change: Change,
    num_steps: jax.Array,
    epoch: Any,
    x: Any,
    y: Any,
) -> TrainState:
    """Return the state of one network after a probe's steps.

    Args:
        trainer: of `constant_trainer`.
        variables, opt_state: where it starts; without the optimizer's state, it is what `warm_up` makes, not None.
        hparams: of its training; the learning rate is the peak.
        change: of one probe.
        num_steps: scalar int32, may be traced.
        epoch: number, from 0, of the next epoch of training, whose order of the examples comes first.
        x, y: the training set.
    """
    hparams = hparams._replace(weight_decay=change.weight_decay, knobs=hparams.knobs | change.knobs)
    peak = hparams.learning_rate * change.rate

    def at(step: jax.Array) -> Hyperparameters:
        done = step.astype(peak.dtype) / num_steps.astype(peak.dtype)
        shape = 1 - change.cosine + change.cosine * 0.5 * (1 + jnp.cos(jnp.pi * done))
        return hparams._replace(learning_rate=peak * shape)

    state = started(trainer, variables, opt_state, hparams, num_rows(y), epoch)
    return train_for(trainer, state, at, num_steps, x, y)


def run_probes(
    model: Model,
    settings: TrainingSettings,
    names: Sequence[str],
    variables: Any,
    opt_state: Any,
    hparams: Hyperparameters,
    num_epochs: jax.Array,
    x: Any,
    y: Any,
    *,
    side_by_side: bool,
    statistics_batch_size: int = 128,
    statistics_examples: int | None = None,
) -> Probed:
    """Return the networks after the probes of one network.

    Args:
        model: the network.
        settings: how it was trained.
        names: of `PROBES`, all `applicable`.
        variables: where all of them start.
        opt_state: of the optimizer; None warms one up with the weights frozen, for 1 % of the steps of training.
        hparams: of its training; the learning rate is the peak.
        num_epochs: of its training, scalar int32.
        x, y: the training set, of which the first `hparams.num_samples` are used.
        side_by_side: whether the probes step together, by `vmap`, or one after the other.
        statistics_batch_size, statistics_examples: for BatchNorm: batch, and most examples of the subset.
    """
    trainer = constant_trainer(model, settings)
    whole = num_steps_of(trainer, hparams.num_samples, num_epochs)
    num_steps = jnp.zeros_like(whole)
    groups = _groups(names)
    if opt_state is None and groups:
        warming = share_of(whole, WARM_UP_SHARE, LEAST_WARM_UP)
        opt_state, num_steps = warm_up(trainer, variables, hparams, warming, x, y), num_steps + warming
    stacks = [jax.tree.map(lambda leaf: leaf[None], variables)]
    for group in groups:
        one = constant_trainer(model, _with_moved(settings, group[0]))
        number = share_of(whole, group[0].share)

        def probe(change: Change, trainer: Trainer = one, number: jax.Array = number) -> Any:
            return continue_training(trainer, variables, opt_state, hparams, change, number, num_epochs, x, y).variables

        stacks.append(_mapped(probe, changes_of(group, settings, hparams), side_by_side))
        num_steps = num_steps + number * len(group)
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *stacks)

    def refresh(variables: Any) -> Any:
        return refreshed(model, variables, x, hparams.num_samples, statistics_batch_size, statistics_examples)

    fresh = _mapped(refresh, stacked, side_by_side) if jax.tree.leaves(variables["batch_stats"]) else stacked
    # The checkpoint as it is, and again with its averages recomputed, under the name of that probe.
    every = jax.tree.map(lambda given, new: jnp.concatenate([given[:1], new]), stacked, fresh)
    return Probed(every, num_steps)


def _groups(names: Sequence[str]) -> list[list[Probe]]:
    """Return the probes that train in groups that share a compiled step and a number of steps."""
    groups: dict[Any, list[Probe]] = {}
    for probe in (probe for probe in map(PROBES.find, names) if probe.trains):
        groups.setdefault((probe.share, probe.name if probe.is_static else ""), []).append(probe)
    return list(groups.values())


def _with_moved(settings: TrainingSettings, probe: Probe) -> TrainingSettings:
    if not probe.is_static:
        return settings
    return settings.with_knob(probe.knob, probe.moved(settings.value(probe.knob), KNOBS[probe.knob].default))


def _mapped(function: Any, items: Any, side_by_side: bool) -> Any:
    if side_by_side:
        with lowering.side_by_side(num_rows(items)):
            return jax.vmap(function)(items)
    return lax.map(function, items)
