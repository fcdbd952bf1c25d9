"""NumPy's `.npz`: one array a name, `layer/kernel` or `layer.weight`; pickled objects are not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mdtree_jax.checks import UserError


def read(path: Path, model: Any, step: int | None) -> dict[str, np.ndarray]:
    """Return the arrays of an archive by name; raises `UserError` for a damaged one."""
    del model, step
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive can raise nearly anything
        raise UserError(f"the checkpoint '{path}' is damaged or no .npz archive of plain arrays") from error
