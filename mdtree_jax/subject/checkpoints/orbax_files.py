"""Orbax: a folder of one checkpoint, or of a manager with a folder for each step. JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdtree_jax.store.checkpoint import load_content


def read(path: Path, model: Any, step: int | None) -> Any:
    """Return the pytree as nested mappings of NumPy arrays; raises `UserError` for a damaged folder, or no such step.

    Where the arrays were written, on how many devices and of which kind, does not matter.
    """
    del model
    return load_content(path, step)
