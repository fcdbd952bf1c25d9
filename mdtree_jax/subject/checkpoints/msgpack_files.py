"""Flax's `.msgpack`: a nested mapping of names to arrays, as `flax.serialization.to_bytes` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdtree_jax.checks import UserError


def read(path: Path, model: Any, step: int | None) -> Mapping[str, Any]:
    """Return the nested mapping; raises `UserError` for a damaged file."""
    del model, step
    from flax import serialization

    try:
        content = serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f"the checkpoint '{path}' is damaged or not of Flax's msgpack format") from error
    if not isinstance(content, Mapping):
        raise UserError(f"the checkpoint '{path}' holds a {type(content).__name__}; expected names and arrays")
    return content
