"""The objectives: what training minimizes, and what counts as an error. No JAX.

`mdtree_jax.training.loss` binds functions to each, by role:

| role | call | return value |
|---|---|---|
| `loss` | `loss(outputs, targets)` | (batch,), its mean is minimized |
| `error` | `error(outputs, targets)` | (batch,), its mean × 100 is the training or test error, in percent |
| `loss_scale`, `error_scale` | `scale(targets, is_counted)` | by what the mean over a set is divided |
| `chance_error` | `chance_error(targets)`, NumPy | error of the best constant prediction, 1 is 100 % |

The last three may be missing. `is_counted`, (batch,) booleans, says which examples are of the set. So the mean over a
set can depend on all its targets: the loss of a language model is a mean over the tokens that count, the error of a
regression is relative to the variance of the targets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.resolve import find_entry, import_own, is_own
from mdtree_jax.registry.table import Table

#: What the outputs of a network are.
OUTPUTS = ("logits", "probabilities", "values")


class Targets(NamedTuple):
    """A kind of targets: what the arrays are, what one of them is called, and the shape of a network's outputs.

    `kinds` are those of NumPy's dtypes; `axes` how many axes an array has, the examples' included.
    """

    meaning: str
    one: str
    kinds: str
    axes: tuple[int, ...]


#: Kind of targets -> what they are.
TARGETS = {
    "class": Targets(
        "class labels, integers (n,) from 0, or probabilities of the classes (n, c)", "label", "iuf", (1, 2)
    ),
    "tokens": Targets("tokens, integers (n, time) from 0, negative where one does not count", "token", "iu", (2,)),
    "binary": Targets("labels 0 and 1, (n,) or (n, 1)", "label", "biuf", (1, 2)),
    "labels": Targets("labels 0 and 1, (n, k)", "label", "biuf", (2,)),
    "values": Targets("numbers, (n,) or (n, k)", "target", "biuf", (1, 2)),
    "any": Targets("arrays of numbers, (n, ...)", "target", "biuf", ()),
}


@dataclass(frozen=True)
class Objective:
    """One objective: of the table, or a user's own, `Objective(loss=…, error=…, name=…)`.

    Attributes:
        name: identifier.
        loss, error: the functions of one that is not in the table, see the head of this module. Without them, those of
            the objective of this name are taken: `Objective("cross_entropy", outputs="probabilities")`.
        unit: of the loss.
        outputs: what the network's outputs are, from `OUTPUTS`.
        targets: what the targets are, from `TARGETS`.
        loss_scale, error_scale, chance_error: further functions; optional.
        counts: whether `error` returns booleans, whose number over a set is then exact.
        meaning: one line for help and tables.
        error_meaning: the definition of the error.
        error_unit: of the mean error over examples.
        chance: loss and error of a network that has learned nothing.

    Raises:
        UserError: outputs or targets of an unknown kind, one of `loss` and `error` without the other.
    """

    name: str = "own"
    loss: Callable[..., Any] | None = None
    error: Callable[..., Any] | None = None
    unit: str = "1"
    outputs: str = "logits"
    targets: str = "any"
    loss_scale: Callable[..., Any] | None = None
    error_scale: Callable[..., Any] | None = None
    chance_error: Callable[..., Any] | None = None
    counts: bool = False
    meaning: str = ""
    error_meaning: str = ""
    error_unit: str = "%"
    chance: str = ""

    def __post_init__(self) -> None:
        check_choice("kind of outputs", self.outputs, OUTPUTS)
        check_choice("kind of targets", self.targets, TARGETS)
        for role, function in self.functions.items():
            if not callable(function):
                kind = type(function).__name__
                raise UserError(f"{role}= of the objective '{self.name}' is of type {kind}; it must be a function")
        if (self.loss is None) != (self.error is None):
            given, missing = ("error", "loss") if self.loss is None else ("loss", "error")
            raise UserError(f"the objective '{self.name}' has {given}=, but no {missing}=; give both functions")

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The functions that it holds itself, by role."""
        return {role: function for role in ROLES if (function := getattr(self, role)) is not None}

    @property
    def has_classes(self) -> bool:
        """Whether outputs are scores of classes, along their last axis."""
        return self.targets in ("class", "tokens")

    def output_shape(self, target_shape: tuple[int, ...], num_outputs: int) -> tuple[int, ...]:
        """Return the shape of a network's outputs for one example whose targets are of `target_shape`.

        >>> OBJECTIVES["lm"].output_shape((32,), 20), OBJECTIVES["cross_entropy"].output_shape((), 10)
        ((32, 20), (10,))
        """
        return (*target_shape, num_outputs) if self.targets == "tokens" else (num_outputs,)


#: The functions of an objective.
ROLES = ("loss", "error", "loss_scale", "error_scale", "chance_error")
DEFAULT_OBJECTIVE = "cross_entropy"

_VARIANCE: dict[str, Any] = {
    "error_meaning": "sum of squared residuals over sum of squared deviations of the targets from their mean",
    "chance": "the mean of the targets leaves all of their variance unexplained, 100 %",
}

OBJECTIVES: Table[Objective] = Table(
    "objective",
    [
        Objective(
            DEFAULT_OBJECTIVE,
            unit="nats",
            targets="class",
            counts=True,
            meaning="mean cross-entropy of the softmax of the logits, for one class of several",
            error_meaning="whether the largest logit is another class",
            chance="the most frequent class; of c classes of equal size, 100 (1 - 1/c) % and ln c nats",
        ),
        Objective(
            "lm",
            unit="nats a token",
            targets="tokens",
            meaning="mean cross-entropy of the tokens that count, of logits (time, vocabulary)",
            error_meaning="share of the tokens that count for which the largest logit is another token",
            chance="the most frequent token",
        ),
        Objective(
            "binary",
            unit="nats",
            targets="binary",
            counts=True,
            meaning="mean cross-entropy of the sigmoid of one logit, for two classes",
            error_meaning="whether the logit has the wrong sign",
            chance="the more frequent class; of two classes of equal size, 50 % and ln 2 nats",
        ),
        Objective(
            "multilabel",
            unit="nats a label",
            targets="labels",
            meaning="mean cross-entropy of the sigmoids of k logits, for k labels that are there or not",
            error_meaning="share of the labels whose logit has the wrong sign (Hamming)",
            chance="of every label the more frequent value",
        ),
        Objective(
            "regression",
            unit="squared units of the targets",
            outputs="values",
            targets="values",
            meaning="mean squared residual",
            **_VARIANCE,
        ),
        Objective(
            "huber",
            unit="squared units of the targets",
            outputs="values",
            targets="values",
            meaning="mean Huber loss: half the squared residual up to 1, linear beyond",
            **_VARIANCE,
        ),
    ],
)
_IN_TABLE = in_table(OBJECTIVES, needs=ROLES[:2], may_have=ROLES[2:])


def _add(entry: Objective, **functions: Callable[..., Any]) -> Objective:
    return _IN_TABLE.add(entry, **entry.functions | functions)


BINDERS[Objective] = _IN_TABLE._replace(add=_add)

#: Other name -> name.
ALIASES = {"sequence": "lm"}


def find_objective(objective: str | Objective) -> Objective:
    """Return the entry of an objective, or a user's own.

    Args:
        objective: a name of the table or another name of one, `package.module:name` of an `Objective` or of a function
            that returns one, or an `Objective`. One without functions is the entry of its name for outputs of its kind.

    Raises:
        UserError: an unknown objective.
    """
    if isinstance(objective, Objective):
        if objective.loss is not None:
            return objective
        return replace(find_objective(objective.name), outputs=objective.outputs)
    if not isinstance(objective, str):
        raise UserError(f"objective={objective!r:.60} is no objective; give a name, or Objective(loss=…, error=…)")
    return _own(objective) if is_own(objective) else find_entry(OBJECTIVES, ALIASES.get(objective, objective))


@functools.cache
def _own(name: str) -> Objective:
    """Return the user's own objective of that name; the same functions each time, so that programs stay the same."""
    module, _, attribute = name.partition(":")
    found = getattr(import_own(module, f"objective={name}"), attribute, None)
    made = found() if callable(found) else found
    if not isinstance(made, Objective):
        raise UserError(f"objective={name} is a {type(made).__name__}; expected a mdtree_jax.Objective, or a function")
    return made
