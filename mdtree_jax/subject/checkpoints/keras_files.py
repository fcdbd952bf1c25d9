"""Keras's `.keras`, `.weights.h5` and `.h5`: read into the model, whose own weights are put back. Needs the model.

Of a `.keras` file only the weights are read, not the architecture, which could name code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mdtree_jax.checks import UserError


def read(path: Path, model: Any, step: int | None) -> list[np.ndarray]:
    """Return the arrays of all variables in the model's order.

    Raises:
        UserError: the model is none of Keras, arrays of other shapes, a damaged file.
    """
    del step
    if not hasattr(model, "load_weights"):
        raise UserError(f"'{path}' holds a Keras model's weights, so model= must be one, not a {type(model).__name__}")
    before = [np.asarray(variable) for variable in model.variables]
    try:
        model.load_weights(str(path))
        return [np.asarray(variable) for variable in model.variables]
    except Exception as error:  # a damaged file can raise nearly anything
        why = " ".join(str(error).split())[:200]
        raise UserError(f"the checkpoint '{path}' is not of this Keras model, or damaged: {why}") from error
    finally:
        for variable, array in zip(model.variables, before, strict=True):
            variable.assign(array)
