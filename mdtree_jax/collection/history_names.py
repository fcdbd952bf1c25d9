"""What a column of a training log is: the names that libraries and people give to losses and errors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

#: The columns of a history, in order. Counts are of finished epochs and steps, errors are in percent.
COLUMNS = ("epoch", "step", "train_loss", "train_error", "validation_loss", "validation_error", "learning_rate")
#: Those of which a history must have at least one.
VALUES = ("train_loss", "train_error", "validation_loss", "validation_error")

_SIDES = {
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation", "dev"), "validation"),
    **dict.fromkeys(("train", "training", "tr"), "train"),
    "test": "test",
}
_SPANS = {"epoch": 0, "step": 2, "batch": 2, "iter": 2}
_RATES = {"lr", "learning_rate"}
_STEPS = {"step", "steps", "global_step", "trainer_global_step", "iteration", "iter"}
_ACCURACIES = {"acc", "accuracy", "acc1", "top1"}
_ERRORS = {"error", "err", "error_rate", "top1_error", "top1_err"}
#: Words that make another quantity of an accuracy or an error.
_OTHERS = {"k", "5", "top5", "acc5", "squared", "absolute", "percentage", "balanced"}


class Meaning(NamedTuple):
    """What a column holds.

    Attributes:
        column: one of `COLUMNS`, or `test_loss` or `test_error`.
        kind: `as_is`, `accuracy` or `error`; the last two are percent or fractions.
        rank: of two columns for the same, the one of lower rank is used.
    """

    column: str
    kind: str = "as_is"
    rank: int = 0


def meaning_of(name: str) -> Meaning | None:
    """Return what a column of this name holds, None for nothing that is used.

    >>> meaning_of("val_accuracy"), meaning_of("Loss/train").column, meaning_of("grad_norm")
    (Meaning(column='validation_error', kind='accuracy', rank=1), 'train_loss', None)
    """
    if name in COLUMNS:
        return Meaning(name)
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    joined = "_".join(words)
    if joined in _STEPS:
        return Meaning("step", rank=1)
    side = next((_SIDES[word] for word in words if word in _SIDES), "train")
    rank = min((_SPANS[word] for word in words if word in _SPANS), default=1)
    rest = [word for word in words if word not in _SIDES and word not in _SPANS]
    said = "_".join(rest)
    if not rest:
        return Meaning("epoch", rank=1) if "epoch" in words else None
    if said in _RATES or rest[0] == "lr":
        return Meaning("learning_rate", rank=1)
    if rest[-1] == "loss" or said in ("nll", "cross_entropy"):
        return Meaning(f"{side}_loss", rank=rank + 4 * (len(rest) - 1))
    if _OTHERS & set(rest):
        return None
    if rest[-1] in _ACCURACIES or rest[-1].endswith("accuracy"):
        return Meaning(f"{side}_error", "accuracy", rank + 4 * (len(rest) - 1))
    return Meaning(f"{side}_error", "error", rank) if said in _ERRORS else None


def chosen_columns(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return for columns of a history the name in a log that holds it, and its kind.

    What is of a test set counts as of the validation set where nothing is of that.

    >>> chosen_columns(["step", "loss_step", "loss_epoch", "val_acc"])
    {'step': ('step', 'as_is'), 'train_loss': ('loss_epoch', 'as_is'), 'validation_error': ('val_acc', 'accuracy')}
    """
    found = [(name, meaning) for name in names if (meaning := meaning_of(name)) is not None]
    if not any(meaning.column.startswith("validation") for _, meaning in found):
        found = [(name, m._replace(column=m.column.replace("test_", "validation_"))) for name, m in found]
    best: dict[str, tuple[str, Meaning]] = {}
    for name, meaning in found:
        if meaning.column not in best or meaning.rank < best[meaning.column][1].rank:
            best[meaning.column] = name, meaning
    return {column: (best[column][0], best[column][1].kind) for column in COLUMNS if column in best}
