"""Formatting of numbers, times and texts for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

NOT_KNOWN = "not known"


def capital(text: str) -> str:
    """Return a text with its first letter capitalized."""
    return text[:1].upper() + text[1:]


def percent(share: float) -> str:
    """Return a share as whole percent; only exact 0 and 1 become 0 % and 100 %.

    >>> percent(0.634), percent(0.997), percent(0.001), percent(1.0)
    ('63 %', '> 99 %', '< 1 %', '100 %')
    """
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def number(value: float, error: float | None = None) -> str:
    """Return a value with three significant digits, and its standard error if there is one.

    >>> number(-0.0), number(4.5767, 0.42), number(1690.0, 120.0), number(999.7)
    ('0', '4.58 ± 0.42', '1690 ± 120', '1000')
    """
    shown = _digits(value + 0.0, 3).replace("-", "−")  # no minus before a zero
    return f"{shown} ± {_digits(error, 2)}" if error else shown


def _digits(value: float, count: int) -> str:
    """Return a value with `count` significant digits, without an exponent below a million."""
    return f"{value:.0f}" if 10**count - 0.5 <= abs(value) < 1e6 else f"{value:.{count}g}"


def points(value: float) -> str:
    """Return signed points of test accuracy.

    >>> points(3.14159), points(-0.2), points(-0.01)
    ('+3.1', '−0.2', '0.0')
    """
    shown = f"{value:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown.replace("-", "−")


def duration(seconds: float | None) -> str:
    """Return seconds in readable units.

    >>> duration(0.02), duration(42), duration(700), duration(9000), duration(None)
    ('0.02 s', '42 s', '12 min', '2.5 h', 'not known')
    """
    if seconds is None:
        return NOT_KNOWN
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            value = seconds / size
            return f"{value:.2g} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{number(seconds / 86400)} days"


def operations(flops: float | None) -> str:
    """Return a number of floating-point operations in readable units.

    >>> operations(3.2e13), operations(None)
    ('32 TFLOP', 'not known')
    """
    if flops is None:
        return NOT_KNOWN
    for exponent, letter in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if flops >= 10**exponent:
            return f"{number(flops / 10**exponent)} {letter}FLOP"
    return f"{number(flops)} FLOP"


def listed(names: Sequence[str], last: str = "and") -> str:
    """Return names joined by commas and "and".

    >>> listed(["a"]), listed(["a", "b", "c"]), listed(["a", "b"], "or")
    ('a', 'a, b and c', 'a or b')
    """
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def below(share: float, limit: float) -> str:
    """Return a share below a limit as percent, never rounded up to the limit.

    >>> below(0.43, 0.5), below(0.49996, 0.5)
    ('43 %', '49.9 %')
    """
    return percent(share) if share < limit - 0.005 else f"{math.floor(1000 * share) / 10:.1f} %"
