"""What makes a check fail: `fail_on=` of the command line, `Diagnosis.failures` in Python. No JAX.

A diagnosis that abstains has no cause: it fails on `cannot_tell` only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.registry.causes import CAUSES, NONE

if TYPE_CHECKING:
    from mdtree_jax.diagnosis.result import Diagnosis

#: Every cause but `none`, and no answer at all.
ANY, CANNOT_TELL = "any", "cannot_tell"


def parse_fail_on(fail_on: Any) -> dict[str, float | None]:
    """Return the causes that a check fails on, each with the probability from which it does.

    Args:
        fail_on: a cause, `any` or `cannot_tell`; a list of these, each alone or as `cause:0.8`; a mapping of causes to
            probabilities; or None for nothing. None as probability stands for "it is an answer of the diagnosis".

    Raises:
        UserError: an unknown cause, a probability outside [0, 1].

    >>> parse_fail_on(["model_too_small", "any:0.8"])
    {'model_too_small': None, 'any': 0.8}
    """
    if fail_on is None:
        return {}
    if isinstance(fail_on, Mapping):
        pairs = [(str(name), value) for name, value in fail_on.items()]
    elif isinstance(fail_on, str) or not isinstance(fail_on, Sequence):
        return parse_fail_on([fail_on])
    else:
        pairs = [_parted(item) for item in fail_on]
    if not pairs:
        raise UserError("fail_on=[] names no cause; leave it out to fail on nothing")
    known = [ANY, CANNOT_TELL, *(cause for cause in CAUSES if cause != NONE)]
    wanted = {}
    for name, value in pairs:
        check_choice("cause in fail_on", name, known)
        wanted[name] = _probability(name, value)
    return wanted


def failures(diagnosis: Diagnosis, fail_on: Any) -> dict[str, float]:
    """Return the causes that a check fails on, with their probabilities; empty if it passes.

    Args:
        diagnosis: its `cause` and all of its `causes`, which hold at once, are answers.
        fail_on: as for `parse_fail_on`.

    Raises:
        UserError: as `parse_fail_on`.
    """
    wanted = parse_fail_on(fail_on)
    if diagnosis.abstains:
        return {CANNOT_TELL: 1.0} if CANNOT_TELL in wanted else {}
    answers = {diagnosis.cause, *(cause for cause, _ in diagnosis.causes)}
    found = {}
    for cause, probability in (diagnosis.ranking | dict(diagnosis.causes)).items():
        least = [wanted[name] for name in (cause, ANY) if name in wanted]
        holds = any(cause in answers if one is None else probability >= one for one in least)
        if cause != NONE and holds:
            found[cause] = float(probability)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _parted(item: Any) -> tuple[str, Any]:
    """Return name and probability of `cause:0.8`, None where there is none."""
    name, colon, value = str(item).partition(":")
    return name.strip(), value.strip() if colon else None


def _probability(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if name == CANNOT_TELL:
        raise UserError(f"fail_on: {CANNOT_TELL} takes no probability; write {CANNOT_TELL} alone")
    try:
        number = float(value) if isinstance(value, (str, Real)) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise UserError(f"fail_on: the probability of {name} is {value!r}; it must be a number from 0 to 1")
    return number
