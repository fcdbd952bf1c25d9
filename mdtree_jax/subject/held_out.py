"""The user's data as `Examples`: training data, and held-out data with their roles. No JAX of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE, Objective
from mdtree_jax.subject.data import MOST_BYTES, SAMPLE_SEED, Side, as_sides, bytes_of, halves, num_rows, read_side, take
from mdtree_jax.subject.network import Examples, examples


def examples_of(
    train: Any,
    y_train: Any = None,
    validation: Any = None,
    test: Any = None,
    x_test: Any = None,
    y_test: Any = None,
    objective: str | Objective = DEFAULT_OBJECTIVE,
) -> tuple[Examples, list[Fact]]:
    """Return checked data, and facts on samples and on how held-out data are used.

    With both held-out sets, evidence is read on `validation` and errors are of `test`; a single one is split in halves.

    Args:
        train: in a form of `subject.data`, or the inputs alone; one that holds several sides gives those not given.
        y_train: the labels, if `train` holds inputs alone.
        validation, test: held-out data, in a form of `subject.data`.
        x_test, y_test: a test set as two arrays, which is not split.
        objective: what the targets are for.

    Raises:
        UserError: data of no known form, or that do not match.
    """
    if y_train is None and (sides := as_sides(train, "train")) is not None:
        train = sides.get("train")
        validation = sides.get("validation") if validation is None else validation
        test = sides.get("test") if test is None else test
    if test is not None and (x_test is not None or y_test is not None):
        raise UserError("the test set is given twice, as test= and as x_test=")
    first = Side(train, y_train) if y_train is not None else read_side(train, "train")
    read = {"train": first}
    read |= {name: read_side(data, name, name) for name, data in _given(validation, test).items()}
    facts = []
    if len(read) == 2:
        (name,) = set(read) - {"train"}
        read["validation"], read["test"] = halves(read[name])
        facts.append(fact("halved", side=name))
    elif len(read) == 1 and x_test is None:
        facts.append(fact("no_held_out"))
    bounded = {name: _bounded(side, name) for name, side in read.items()}
    facts += [fact("taken_in", sentence=note) for note in dict.fromkeys(side.note for side in bounded.values()) if note]
    test_side = bounded.get("test", Side(x_test, y_test))
    held = bounded.get("validation", Side(None, None))
    train_side = bounded["train"]
    found = examples(
        train_side.x,
        train_side.y,
        test_side.x,
        test_side.y,
        x_validation=held.x,
        y_validation=held.y,
        objective=objective,
    )
    return found, facts


def _given(validation: Any, test: Any) -> dict[str, Any]:
    return {name: data for name, data in (("validation", validation), ("test", test)) if data is not None}


def _bounded(side: Side, name: str) -> Side:
    """Return a set as it is, or a random sample of it that fits into memory."""
    size = bytes_of(side.x)
    if size <= MOST_BYTES or not hasattr(side.y, "__len__"):
        return side
    count = num_rows(side.x)
    most = max(1, count * MOST_BYTES // size)
    rows = np.sort(np.random.default_rng(SAMPLE_SEED).permutation(count)[:most])
    note = f"{name}: a random sample of {most} of {count} examples was read"
    return Side(take(side.x, rows), take(side.y, rows), note)
