"""What a subject's networks say beside their landscape: errors, norms, histories, probes and a race. JAX.

`gather` returns the evidence as a row of columns named as in a sweep's table of networks, from which
`diagnosis.outlook.outlook_of` makes the outlook. Evidence is read on the validation examples; the test examples have no
part in it. The networks given are never changed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from mdtree_jax.collection.curve_features import curve_features
from mdtree_jax.collection.learning_curve import VALUES
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.gain_reference import gain_reference
from mdtree_jax.diagnosis.improved import Improved
from mdtree_jax.diagnosis.outlook import outlook_of
from mdtree_jax.probes.run import applicable
from mdtree_jax.registry.probes import PROBES
from mdtree_jax.registry.remedies import REMEDIES
from mdtree_jax.subject.better import improved_of
from mdtree_jax.subject.data import SAMPLE_SEED
from mdtree_jax.subject.network import Examples, Subject
from mdtree_jax.subject.probing import Probing, Seen, on_device, price_of
from mdtree_jax.subject.race import Raced, race
from mdtree_jax.subject.spending import DEFAULT_SHARE, Spending
from mdtree_jax.subject.trained_as import TrainedAs, fitting_state, fresh_state, trained_as
from mdtree_jax.training import chance_error
from mdtree_jax.training.arrays import take_rows
from mdtree_jax.training.loss import chance_loss

#: Targets from which the error and loss of chance are computed.
_CHANCE_ROWS = 4000
#: Share of the epochs of a training from which probes stay comparable with those of the reference.
_LEAST_SHORTENED = 0.6


class Gathered(NamedTuple):
    """Evidence on the networks of a subject.

    Attributes:
        row: column -> value, the mean over the networks that experiments were run from.
        spent: steps trained, in units of one training.
        cost: what was allowed, in the same unit; of a time, what fitted into it.
        probes: that were run.
        raced: validation error (%) of the racer of each remedy that took part in a race.
        possible: remedies that can be made.
        improved: the best network that was found; None where nothing was compared.
        notes: what was missing, and how that was handled.
        seconds, compile_seconds: of the wall, compilation apart.
    """

    row: dict[str, float]
    spent: float
    cost: float
    probes: tuple[str, ...]
    raced: dict[str, float]
    possible: tuple[str, ...]
    improved: Improved | None
    notes: list[Fact]
    seconds: float
    compile_seconds: float


def gather(
    subject: Subject,
    data: Examples,
    training: Training,
    *,
    spending: Spending,
    histories: Sequence[pd.DataFrame | None] = (),
    initial: Sequence[Any] | None = None,
    known: Mapping[str, float] | None = None,
    max_images: int = 10_000,
) -> Gathered:
    """Return the evidence on a subject's networks.

    Args:
        subject: its networks.
        data: with validation and test examples; training examples in any order.
        training: its settings, as far as they are known.
        spending: what may be trained; it is spent from.
        histories: of each network; None where there is none.
        initial: the variables that each network started from, `{"params", "batch_stats"}`; None where not known.
        known: columns that were measured of the networks elsewhere; they count where remedies are chosen for a race.
        max_images: most validation and test examples, a random sample.

    Raises:
        UserError: `init` that gives other variables than the networks have.
    """
    begin = time.perf_counter()
    data = _used(data, max_images)
    trained, cannot = trained_as(subject, data, training)
    asks = spending.trains or (not spending.is_given and bool(training.known))
    notes = [note for note in cannot if asks or note.kind != "no_experiments"]
    if subject.init is None and initial is None:
        notes.append(fact("no_start"))
    if not (trained.is_known and len(data.y_validation)):  # without held-out examples nothing is read off
        spending.share = 0.0
    probed = _probe(subject, data, trained, training, spending, initial, notes)
    row = _mean([one.row for one in probed.seen]) | _chance(subject, data)
    row |= _of_histories(histories[: len(probed.seen)], row)
    row |= {} if training.learning_rate is None else {"learning_rate": float(training.learning_rate)}
    possible = possible_remedies(trained, data)
    raced, cost = Raced({}, [], 0.0), spending.allowed
    if spending.trains and subject.init is not None:
        outlook = outlook_of({**(known or {}), **row}, possible=possible, cost=cost)
        moves = [move.remedy for move in outlook.moves] if outlook is not None else []
        raced = race(subject, probed.program.data, trained, moves, gain_reference().policy(cost), spending)
    compiling = probed.program.compile_seconds + raced.compile_seconds
    improved = improved_of(subject, probed.seen, probed.program.names, trained.can_refresh)
    seconds = time.perf_counter() - begin - compiling
    notes += raced.notes
    names = probed.program.names
    return Gathered(row, spending.spent, cost, names, raced.errors, possible, improved, notes, seconds, compiling)


def possible_remedies(trained: TrainedAs, data: Examples) -> tuple[str, ...]:
    """Return the remedies that can be made: no smoothing without classes, no statistics without BatchNorm."""
    can = applicable(("smooth", "augment"), trained.settings, data.x_train)
    has = {
        "smoothing_on": "smooth" in can and not trained.value("label_smoothing"),
        "augment_on": "augment" in can and not trained.value("augment"),
        "refreshed": trained.can_refresh,
        "decay_down": trained.weight_decay > 0,
    }
    return tuple(name for name in REMEDIES if has.get(name, True))


class _Probed(NamedTuple):
    """The program, and what it saw of each network that it was run on."""

    program: Probing
    seen: list[Seen]


def _probe(
    subject: Subject,
    data: Examples,
    trained: TrainedAs,
    training: Training,
    spending: Spending,
    initial: Sequence[Any] | None,
    notes: list[Fact],
) -> _Probed:
    """Return what is seen of the networks: of all where nothing is trained, else of as many as may be paid."""
    number, names, states = len(subject.variables), (), None
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
            trained = _shortened(trained, (spending.share / number - (whole - warm)) / warm)
    on, has_test = on_device(data), len(data.y_test) > 0
    program = Probing(subject, on, has_test, trained, names, initial)
    if names and spending.seconds is not None:
        program.try_price(None if states is None else states[0], spending)
        if price_of(names, trained, states is not None) > spending.left:
            notes.append(fact("time_over", seconds=spending.seconds, left_out=list(names)))
            number, names, states = len(subject.variables), (), None
            program = Probing(subject, on, has_test, trained, names, initial)
    if number < len(subject.variables):
        notes.append(fact("networks_probed", number=number, of=len(subject.variables)))
    return _Probed(program, [program(place, states and states[place], spending) for place in range(number)])


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

    def drawn(x: Any, y: np.ndarray, most: int) -> tuple[Any, np.ndarray]:
        return take_rows((x, y), rng.permutation(len(y))[:most])

    held, test = (data.x_validation, data.y_validation), (data.x_test, data.y_test)
    if not len(held[1]) and len(test[1]) > 1:
        order = rng.permutation(len(test[1]))
        held, test = take_rows(test, order[::2]), take_rows(test, order[1::2])
    train = drawn(data.x_train, data.y_train, len(data.y_train))
    return Examples(*train, *drawn(test[0], test[1], max_images), *drawn(held[0], held[1], max_images))


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of every column; of standard errors that of a mean of independent ones."""
    found = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], float)
        of_error = name.endswith("_se")
        found[name] = float(np.sqrt(np.sum(values**2)) / len(values) if of_error else values.mean())
    return found


def _chance(subject: Subject, data: Examples) -> dict[str, float]:
    """Return error (%) and loss of the best constant prediction of the training targets."""
    targets = data.y_train[:_CHANCE_ROWS]
    error = chance_error(subject.objective, targets)
    if subject.objective == "cross_entropy" and targets.ndim == 1:  # in closed form: the entropy of the labels
        shares = np.bincount(targets) / len(targets)
        loss = float(-np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
    else:
        few = take_rows(data.x_train, slice(2))
        outputs = jax.eval_shape(lambda v, x: subject.model.apply(v, x, False)[0], subject.variables[0], few)
        loss = chance_loss(subject.objective, targets, outputs.shape[-1] if outputs.ndim > 1 else 1)
    return {"chance_error": 100.0 if error is None else error, "chance_loss": loss}


def _of_histories(histories: Sequence[pd.DataFrame | None], row: Mapping[str, float]) -> dict[str, float]:
    """Return the features of histories, the mean over networks; those that nothing can be said about are left out."""
    chance = {name: row[name] if row[name] > 0 else None for name in ("chance_loss", "chance_error")}
    frames = [one for one in histories if one is not None and set(VALUES[:4]) & set(one.columns) and len(one)]
    if not frames:
        return {}
    features = pd.concat([curve_features(one, **chance) for one in frames], ignore_index=True).mean()
    return {str(name): float(value) for name, value in features.items() if np.isfinite(value)}
