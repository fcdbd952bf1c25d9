"""PyTorch's pickles: `.pt`, `.pth`, `.pth.tar`, `.ckpt`, `.bin`, one file or several with an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdtree_jax.models.weight_files import read_pickle
from mdtree_jax.subject.checkpoints.safetensors_files import INDEX, parts_of


def read(path: Path, model: Any, step: int | None) -> Any:
    """Return the content with tensors as arrays, bfloat16 as float32; raises `UserError` for a damaged file."""
    del model, step
    parts = parts_of(path) if path.name.endswith(INDEX) else [path]
    contents = [read_pickle(part) for part in parts]
    if len(contents) == 1:
        return contents[0]
    return {name: array for content in contents for name, array in content.items()}
