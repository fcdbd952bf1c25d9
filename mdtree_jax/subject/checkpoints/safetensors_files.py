"""`.safetensors`: one file, several with an index, or the folder of a model as Hugging Face saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.files import parse_json
from mdtree_jax.models.weight_files import read_safetensors

INDEX = ".index.json"


def is_folder(path: Path) -> bool:
    """Return whether a folder holds a model's safetensors, one file or an index, as Hugging Face saves it."""
    return path.is_dir() and any((path / name).is_file() for name in _IN_FOLDER)


_IN_FOLDER = ("model.safetensors", "model.safetensors.index.json")


def read(path: Path, model: Any, step: int | None) -> dict[str, np.ndarray]:
    """Return the arrays by name; raises `UserError` for a damaged file, or parts that are missing."""
    del model, step
    if path.is_dir():
        path = next(path / name for name in _IN_FOLDER if (path / name).is_file())
    if path.name.endswith(INDEX):
        return {name: array for part in parts_of(path) for name, array in read_safetensors(part).items()}
    return read_safetensors(path)


def parts_of(index: Path) -> list[Path]:
    """Return the files that an index names; raises `UserError` for a damaged index, or a file that is not there."""
    try:
        names = sorted(set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
        parts = [index.parent / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"the index '{index}' is damaged: expected JSON with 'weight_map'") from error
    if lacking := [part for part in parts if not part.is_file()]:
        raise UserError(f"'{lacking[0]}' does not exist, which the index '{index}' names")
    return parts
