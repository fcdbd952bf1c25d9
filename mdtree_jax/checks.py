"""Input checks: every user error becomes one sentence that names the argument, its value and what is accepted.

Errors that can be detected before a computation raise `UserError`. What depends on the data (a diverged network of a
population) is returned by the kernels and counted by the caller. Commands turn a `UserError` into exit code 2.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable


class UserError(ValueError):
    """Invalid input from the user; the message is one clear sentence on one line."""

    def __init__(self, message: str = ""):
        # A value, a path or a library's message may hold line breaks, and what a terminal obeys.
        super().__init__(printable(" ".join(message.splitlines())))


def printable(text: object) -> str:
    r"""Return a path or a name as text of one line in which no character moves, colours or overwrites anything.

    Control characters, marks that turn the direction of writing, and bytes of a path that are no text are shown as
    escapes. Everything that is not the program's own words is printed through this.

    >>> printable("a\x1b[2Jb\nc"), printable("café – [bold]")
    ('a\\x1b[2Jb\\nc', 'café – [bold]')
    """
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode()
        for c in str(text)
    )


class StaleState(UserError):
    """A saved intermediate state does not match this computation or is damaged; the computation can start over."""


class DamagedFile(UserError):
    """A file that this program wrote holds other bits now."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name closest to `name`, or the empty string."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def is_misspelt(name: str, meant: str) -> bool:
    """Return whether `name` is `meant` but for capitals, blanks and marks, or for an edit or two of a long name.

    An edit puts in, takes out or changes a letter, or swaps two; names that differ in a digit are two names.

    >>> is_misspelt("Batch Size", "batch_size"), is_misspelt("trian_error", "train_error")
    (True, True)
    >>> is_misspelt("depth", "width"), is_misspelt("test_acc5", "test_acc"), is_misspelt("epoch", "step")
    (False, False, False)
    """
    plain, wanted = (re.sub(r"[\W_]+", "", text.lower()) for text in (name, meant))
    if plain == wanted:
        return True
    if re.sub(r"\D", "", plain) != re.sub(r"\D", "", wanted) or min(len(plain), len(wanted)) < 5:
        return False
    return _edits(plain, wanted, 2 if min(len(plain), len(wanted)) >= 12 else 1)


def _edits(one: str, other: str, most: int) -> bool:
    """Return whether at most `most` edits lead from one text to the other."""
    if abs(len(one) - len(other)) > most:
        return False
    before, row = list(range(len(other) + 1)), list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        older, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                row[-1] = min(row[-1], older[j - 2] + 1)
        if min(row) > most:
            return False
    return row[-1] <= most


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
