"""Equinox's `.eqx`: the arrays of a model in its order, after an optional line of JSON. Needs the model as template."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from mdtree_jax.checks import UserError

_MAGIC = b"\x93NUMPY"


def read(path: Path, model: Any, step: int | None) -> Any:
    """Return the model, or (model, state), with the arrays of the file.

    Raises:
        UserError: Equinox is not installed, the model is none of Equinox, arrays of other shapes, a damaged file.
    """
    del step
    try:
        import equinox as eqx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"reading '{path}' needs Equinox: pip install 'mdtree-jax[equinox]'") from error
    whole = model if isinstance(model, tuple) else (model,)
    if not isinstance(whole[0], eqx.Module):
        raise UserError(
            f"'{path}' holds arrays in the order of an Equinox module, so model= must be one, not a "
            f"{type(whole[0]).__name__}"
        )
    content = path.read_bytes()
    start = content.find(_MAGIC)
    if start < 0 or (start and not content[:start].endswith(b"\n")):
        raise UserError(f"the checkpoint '{path}' is damaged or not of Equinox's format")
    first: Exception | None = None
    for like in (model, whole[0]) if len(whole) > 1 else (model,):
        stream = io.BytesIO(content[start:])
        try:
            found = eqx.tree_deserialise_leaves(stream, like)
        except Exception as error:  # a damaged file can raise nearly anything
            first = first or error
            continue
        if not stream.read(1):
            return found
        first = first or ValueError("it holds more arrays than the model")
    why = " ".join(str(first).split())[:200]
    raise UserError(f"the checkpoint '{path}' is not of this Equinox module, or damaged: {why}") from first
