"""A race: the moves that a diagnosis ranks first, trained from scratch for a share of the steps. JAX."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.gain_reference import Policy
from mdtree_jax.measuring.kernels import Data
from mdtree_jax.measuring.trained import outcomes_of
from mdtree_jax.probes.outcome import estimate, refreshed
from mdtree_jax.probes.race import short_run
from mdtree_jax.recipe.measure_settings import MeasureConfig, MeasureSettings, resolve
from mdtree_jax.registry.remedies import REMEDIES, Remedy
from mdtree_jax.subject.experiments.probing import bytes_of
from mdtree_jax.subject.experiments.spending import Spending
from mdtree_jax.subject.experiments.trained_as import TrainedAs
from mdtree_jax.subject.network import Subject
from mdtree_jax.training import objective_functions

#: Knobs whose remedies can race with a user's own model and data.
_RACING = ("learning_rate", "batch_size", "weight_decay", "label_smoothing", "augment")
_SEED = 1


class Raced(NamedTuple):
    """What a race gave: validation error (%) by remedy, what was left out, seconds of compilation."""

    errors: dict[str, float]
    notes: list[Fact]
    compile_seconds: float


def race(
    subject: Subject,
    data: Data,
    trained: TrainedAs,
    moves: Sequence[str],
    policy: Policy,
    spending: Spending,
    memory_bytes: int | None = None,
    progress: Callable[[float, str], None] = lambda fraction, message: None,
) -> Raced:
    """Race the first moves that can, as many as the policy says and may be paid, from one fresh initialization.

    Racers that differ in learning rate, weight decay or smoothing only share a compiled program.

    Args:
        subject: with `init`.
        data: on the device, with validation examples.
        trained: how its networks were trained.
        moves: names of remedies, the best first.
        policy: how many race, and for which share of the steps.
        spending: it is spent from.
        memory_bytes: what a racer may take; one that takes more is left out. None is any.
        progress: called with the fraction done and a message.
    """
    able = [name for name in moves if _can_race(REMEDIES[name], trained)][: policy.racers]
    if len(able) < 2 or not data.has_validation:
        return Raced({}, [], 0.0)
    assert subject.init is not None  # the caller asked
    start, errors, compiling = subject.init(jax.random.key(_SEED)), {}, 0.0
    late: list[str] = []
    large: list[str] = []
    racers = {name: _racer(REMEDIES[name], trained) for name in able}
    programs: dict[Any, Any] = {}
    for name, racer in racers.items():
        price = REMEDIES[name].steps / policy.share
        if price > spending.left + 1e-6:
            late.append(name)
            continue
        progress(spending.done(0.0), f"race: {REMEDIES[name].meaning}")
        arguments = start, racer.hparams, racer.num_epochs, jnp.float32(1 / policy.share), data
        if racer.settings not in programs:
            begin = time.perf_counter()
            programs[racer.settings] = jax.jit(_program(racer)).lower(*arguments).compile()
            compiling += time.perf_counter() - begin
        if memory_bytes is not None and bytes_of(programs[racer.settings]) > memory_bytes:
            large.append(name)
            continue
        begin = time.perf_counter()
        error, num_steps = jax.device_get(programs[racer.settings](*arguments))
        share = int(num_steps) / trained.num_steps
        spending.spend(share)
        spending.learn(time.perf_counter() - begin, share)
        errors[name] = float(error)
    notes = [fact("time_over", seconds=spending.seconds, left_out=late)] if late and spending.seconds else []
    notes += [fact("memory_over", left_out=large)] if large else []
    # Alone, a racer says nothing.
    return Raced(errors if len(errors) > 1 else {}, notes, compiling)


def _can_race(remedy: Remedy, trained: TrainedAs) -> bool:
    if not remedy.races or remedy.knob not in _RACING:
        return False
    if remedy.knob == "batch_size":  # a batch has at least one example, and at most all
        return 1 <= trained.settings.batch_size * remedy.factor <= int(trained.hparams.num_samples)
    return True


def _racer(remedy: Remedy, trained: TrainedAs) -> TrainedAs:
    """Return how a racer is trained."""
    now = trained.value(remedy.knob)
    if remedy.value is not None:
        return trained.moved(remedy.knob, remedy.value)
    least = 5e-5 if remedy.knob == "weight_decay" else 0.0  # a tenth of the knob's default
    return trained.moved(remedy.knob, max(now, least) * remedy.factor)


def _settings(num_train: int) -> MeasureSettings:
    config = MeasureConfig(metrics=["short_runs"])
    config.statistics_batch_size = min(config.statistics_batch_size, num_train)
    return resolve(config)


def _program(racer: TrainedAs) -> Any:
    """Return `run(variables, hparams, num_epochs, share, data) -> (validation error in percent, steps)`."""
    objective = objective_functions(racer.settings.objective)

    def run(variables: Any, hparams: Any, num_epochs: Any, share: Any, data: Data) -> tuple[jax.Array, jax.Array]:
        settings = _settings(len(data.y_train))
        model, num = racer.model, jnp.int32(len(data.y_train))
        args = variables, hparams, num_epochs, share, data.x_train, data.y_train
        found, num_steps = short_run(model, racer.settings, *args)
        size, most = settings.statistics_batch_size, settings.probe_images
        found = refreshed(model, found, data.x_train, num, size, most)
        stacked = jax.tree.map(lambda leaf: leaf[None], found)
        outcome = outcomes_of(model, settings, objective, stacked, num, data, True)["validation"]
        return 100 * estimate(outcome.error[0], outcome.is_counted[0]).mean, num_steps

    return run
