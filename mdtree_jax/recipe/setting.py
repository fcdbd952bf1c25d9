"""A field of a grid's schema with its meaning, which `--help` shows. No JAX."""

from __future__ import annotations

import copy
from dataclasses import field
from typing import Any

from omegaconf import MISSING


def setting(meaning: str, default: Any = MISSING) -> Any:
    """Return a dataclass field; without a default, a grid's file has to give the value."""
    if isinstance(default, list):
        return field(default_factory=lambda: copy.copy(default), metadata={"meaning": meaning})
    return field(default=default, metadata={"meaning": meaning})
