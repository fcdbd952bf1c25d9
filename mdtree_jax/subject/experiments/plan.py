"""Which experiments will be run of a subject, what they will take, and whether they may. JAX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.gain_reference import gain_reference
from mdtree_jax.probes.run import applicable, order_of
from mdtree_jax.registry.probes import PROBES
from mdtree_jax.runs.jax_backend import this_machine
from mdtree_jax.subject.data import SAMPLE_SEED
from mdtree_jax.subject.experiments.probing import Probing, as_sides, price_of
from mdtree_jax.subject.experiments.spending import DEFAULT_SHARE, Spending
from mdtree_jax.subject.experiments.trained_as import TrainedAs, fitting_state, fresh_state, trained_as
from mdtree_jax.subject.limits import Limits, cost_of
from mdtree_jax.subject.network import Examples, Subject
from mdtree_jax.training.arrays import take_rows

#: Share of the epochs of a training from which probes stay comparable with those of the reference.
_LEAST_SHORTENED = 0.6
#: Of the program of probes, and of those of a race.
_COMPILE_SECONDS = 30.0


class Plan(NamedTuple):
    """What will be run.

    Attributes:
        subject, training, spending, initial: as given to `plan_experiments`.
        data: with training examples in random order, and samples of the held-out ones.
        trained: how the networks were trained; the program's is a bit shorter where the warm-up would cost too much.
        program: of the experiments from the checkpoints.
        number: of networks that they are run from, the first ones.
        states: of the optimizer, of each; None if they are to be warmed up.
        notes: why no experiment can be run, or how.
    """

    subject: Subject
    data: Examples
    training: Training
    spending: Spending
    initial: Sequence[Any] | None
    trained: TrainedAs
    program: Probing
    number: int
    states: list[Any] | None
    notes: list[Fact]

    def without_probes(self) -> Plan:
        """Return the plan that only looks at all networks as they are."""
        sides, has_test = as_sides(self.data), len(self.data.y_test) > 0
        program = Probing(self.subject, sides, has_test, self.trained, (), self.initial)
        return self._replace(program=program, number=len(self.subject.variables), states=None)


def plan_experiments(
    subject: Subject,
    data: Examples,
    training: Training,
    *,
    spending: Spending,
    initial: Sequence[Any] | None = None,
    max_images: int = 10_000,
) -> Plan:
    """Return what will be run: from all networks where nothing is trained, else from as many as may be paid.

    Args:
        subject: networks.
        data: with validation and test examples; training examples in any order.
        training: its settings, as far as they are known.
        spending: what may be trained.
        initial: the variables that each network started from, `{"params", "batch_stats"}`; None where not known.
        max_images: most validation and test examples, a random sample.

    Raises:
        UserError: `init` that gives other variables than the networks have.
    """
    data = _used(data, max_images)
    trained, cannot = trained_as(subject, data, training)
    asks = spending.trains or (not spending.is_given and bool(training.known))
    notes = [note for note in cannot if asks or note.kind != "no_experiments"]
    if subject.init is None and initial is None:
        notes.append(fact("no_start"))
    if not (trained.is_known and len(data.y_validation)):  # without held-out examples nothing is read off
        spending.share = 0.0
    number, names, states, as_probed = len(subject.variables), (), None, trained
    if spending.trains:
        share = spending.share if spending.seconds is None else DEFAULT_SHARE
        policy = gain_reference().policy(share)
        names = tuple(name for name in PROBES if name in policy.probes and PROBES[name].trains)
        names = applicable(names, trained.settings, data.x_train)
    if names:
        number = _num_paid(names, spending.share, number)
        states = _states(trained, subject, training, number, notes)
        if spending.seconds is None:
            warm, whole = price_of(names, trained, is_warm=True), price_of(names, trained, states is not None)
            if spending.share / number - (whole - warm) < _LEAST_SHORTENED * warm:  # the warm-up would take most of it
                states, whole = [fresh_state(trained, one) for one in subject.variables[:number]], warm
            as_probed = _shortened(trained, (spending.share / number - (whole - warm)) / warm)
    program = Probing(subject, as_sides(data), len(data.y_test) > 0, as_probed, names, initial)
    return Plan(subject, data, training, spending, initial, trained, program, number, states, notes)


def check_experiments(plan: Plan, limits: Limits, minutes: float = 0.0) -> None:
    """Raise `UserError`, which says what would fit, if experiments are planned to take more than their limits.

    Args:
        plan: what will be run.
        limits: what it may take.
        minutes: what measuring takes of them.
    """
    if limits.memory_gb is not None:
        _check_memory(plan, limits.memory_bytes())
    if limits.max_minutes is not None:
        _check_time(plan, limits.max_minutes, minutes)


def _check_memory(plan: Plan, budget: int) -> None:
    """The program is compiled for it: the compiler knows, and it is needed anyway."""
    needed = plan.program.memory_bytes(plan.states and plan.states[0])
    if needed <= budget:
        return
    says = (
        f"experiments from the checkpoint take {needed / 1e9:.3g} GB of memory, and {budget / 1e9:.3g} GB may be used"
    )
    if plan.program.names and plan.without_probes().program.memory_bytes(None) <= budget:
        raise UserError(f"{says}: allow more (memory_gb=), or run none: cost=0 would fit")
    raise UserError(f"{says}: allow more (memory_gb=), or look at fewer examples (max_images=)")


def _check_time(plan: Plan, max_minutes: float, measuring: float) -> None:
    spending, cost = plan.spending, cost_of(plan.subject, plan.data)
    machine = this_machine("float32")
    one_training = plan.trained.num_steps * machine.step(cost, plan.trained.settings.batch_size) / 60
    networks = plan.number * len(order_of(plan.program.names))
    examples = sum(map(len, (plan.data.y_train, plan.data.y_validation, plan.data.y_test)))
    fixed = (networks * examples * machine.step(cost, 128) / (3 * 128) + _COMPILE_SECONDS) / 60
    trained = spending.share * one_training if spending.seconds is None else spending.seconds / 60
    if measuring + fixed + trained <= max_minutes:
        return
    left = max_minutes - measuring - fixed
    fits = math.floor(1000 * left / one_training) / 1000
    if spending.trains and left >= 0:
        hint = f"cost={fits:g} would fit" if fits >= 0.01 else "cost=0 would fit"  # less gives no probe a step
    else:
        hint = "evidence=landscape runs none"
    raise UserError(
        f"experiments take about {fixed + trained:.2g} minutes here, measuring about {measuring:.2g}, and "
        f"max_minutes={max_minutes:g}: allow more, or run fewer: {hint}"
    )


def _num_paid(names: Sequence[str], share: float, most: int) -> int:
    """Return from how many networks probes are run; the warm-up does not keep one from it."""
    return int(np.clip(1.01 * share // sum(PROBES[name].share for name in names), 1, most))


def _shortened(trained: TrainedAs, factor: float) -> TrainedAs:
    """Return a training whose shares are a bit shorter, so that the warm-up stays within what may be spent."""
    epochs = int(trained.num_epochs * factor)
    if factor >= 1 or epochs < _LEAST_SHORTENED * trained.num_epochs:
        return trained
    return trained._replace(num_epochs=np.int32(epochs))


def _states(
    trained: TrainedAs, subject: Subject, training: Training, number: int, notes: list[Fact]
) -> list[Any] | None:
    """Return the optimizer's state of every network, None if they are to be warmed up: one program serves all."""
    given = training.opt_state
    listed = given if isinstance(given, list) else [given]
    if given is None or len(listed) < number:
        return None
    pairs = zip(subject.variables[:number], listed, strict=False)
    found = [fitting_state(trained, one["params"], state) for one, state in pairs]
    if any(one is None for one in found):
        notes.append(fact("state_unfit"))
        return None
    return found


def _used(data: Examples, max_images: int) -> Examples:
    """Return the data with training examples in random order, and a sample of the held-out ones.

    Where there is one held-out side only, it is split in halves.
    """
    rng = np.random.default_rng(SAMPLE_SEED)
    held, test = _sides(data, rng)

    def drawn(x: Any, y: np.ndarray, most: int) -> tuple[Any, np.ndarray]:
        return take_rows((x, y), rng.permutation(len(y))[:most])

    train = drawn(data.x_train, data.y_train, len(data.y_train))
    return Examples(*train, *drawn(test[0], test[1], max_images), *drawn(held[0], held[1], max_images))


def _sides(data: Examples, rng: np.random.Generator) -> tuple[tuple[Any, np.ndarray], tuple[Any, np.ndarray]]:
    """Return inputs and targets on which evidence is read, and those of errors; one side alone is split in halves."""
    held, test = (data.x_validation, data.y_validation), (data.x_test, data.y_test)
    if not len(held[1]) and len(test[1]) > 1:
        order = rng.permutation(len(test[1]))
        held, test = take_rows(test, order[::2]), take_rows(test, order[1::2])
    return held, test


def of_evidence(data: Examples) -> tuple[Any, np.ndarray] | None:
    """Return the held-out inputs and targets on which evidence is read, None where there are none."""
    held, _ = _sides(data, np.random.default_rng(SAMPLE_SEED))
    return held if len(held[1]) else None
