"""Checks of the options of a kernel, made when it is constructed. No JAX."""

from __future__ import annotations

import math
import numbers

from mdtree_jax.checks import UserError


def check_count(name: str, value: int, at_least: int = 1) -> int:
    """Return a whole number that is large enough.

    >>> check_count("max_probes", 0)
    Traceback (most recent call last):
    mdtree_jax.checks.UserError: max_probes 0 must be a whole number of at least 1
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
        raise UserError(f"{name} {value!r} must be a whole number of at least {at_least}")
    return int(value)


def check_positive(name: str, value: float) -> float:
    """Return a finite number above zero.

    >>> check_positive("radius", -1.0)
    Traceback (most recent call last):
    mdtree_jax.checks.UserError: radius -1.0 must be a finite number above 0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise UserError(f"{name} {value!r} must be a finite number above 0")
    return float(value)
