"""A field of a grid's schema with its meaning, which `--help` shows. No JAX."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import Field, field
from typing import Any

from omegaconf import MISSING


def setting(meaning: str | Callable[[], str], default: Any = MISSING) -> Any:
    """Return a dataclass field; without a default, a grid's file has to give the value.

    A meaning that follows from a table, which may have grown by then, is a function that returns it.
    """
    if isinstance(default, list):
        return field(default_factory=lambda: copy.copy(default), metadata={"meaning": meaning})
    return field(default=default, metadata={"meaning": meaning})


def meaning_of(one: Field[Any]) -> str:
    """Return the meaning of a field that `setting` made."""
    meaning = one.metadata["meaning"]
    return str(meaning() if callable(meaning) else meaning)
