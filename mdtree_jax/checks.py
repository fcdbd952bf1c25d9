"""Input checks: every user error becomes one sentence that names the argument, its value and what is accepted.

Errors that can be detected before a computation raise `UserError`. What depends on the data (a diverged network of a
population) is returned by the kernels and counted by the caller. Commands turn a `UserError` into exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Invalid input from the user; the message is one clear sentence on one line."""

    def __init__(self, message: str = ""):
        super().__init__(" ".join(message.splitlines()))  # a value or a library's message may hold line breaks


class StaleState(UserError):
    """A saved intermediate state does not match this computation or is damaged; the computation can start over."""


class DamagedFile(UserError):
    """A file that this program wrote holds other bits now."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name closest to `name`, or the empty string."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def check_choice(what: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`; raise `UserError` that lists what exists otherwise.

    >>> check_choice("mode", "datset", ["dataset", "scale"])
    Traceback (most recent call last):
    mdtree_jax.checks.UserError: unknown mode 'datset' (did you mean 'dataset'?); available: dataset, scale
    """
    known = list(known)
    if value not in known:
        listed = ", ".join(str(k) for k in known)
        raise UserError(f"unknown {what} '{value}'{nearest(value, known)}; available: {listed}")
    return value
