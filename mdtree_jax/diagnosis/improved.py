"""The best network that an experiment found, as data. No JAX."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.files import write_atomically


@dataclass(frozen=True, eq=False)
class Improved:
    """A network that is surely better than the given one, or the given one where none is.

    Chosen by the error on the validation half of the held-out data; what it gained is read on the other half.

    Attributes:
        by: what made it: a name of `registry.probes.PROBES`, or `checkpoint` for the given network.
        network: number of the given network that it was made from, from 1.
        variables: the network, in the form in which the given ones came where that is a pytree.
        validation_error: (before, after) in percent, on the data by which it was chosen.
        test_error: (before, after) in percent, on data that had no part in the choice.
        change: of the validation error, points; below 0 it is better.
        standard_error: of `change`, over the same examples before and after, points.
        arrays: name -> array of the network, as `save` writes them.
    """

    by: str
    network: int
    variables: Any = field(repr=False)
    validation_error: tuple[float, float]
    test_error: tuple[float, float]
    change: float
    standard_error: float
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def is_better(self) -> bool:
        """Whether it is another network than the given one."""
        return self.by != "checkpoint"

    def to_dict(self) -> dict[str, Any]:
        """Return what is said of it as plain values, without the network."""
        return {
            "by": self.by,
            "network": self.network,
            "validation_error": list(self.validation_error),
            "test_error": list(self.test_error),
            "change": self.change,
            "standard_error": self.standard_error,
        }

    def save(self, path: str | os.PathLike) -> Path:
        """Write the network as an `.npz` file of its arrays by name and return its path, its suffix added.

        Raises:
            UserError: the file cannot be written.
        """
        path = Path(path).expanduser()
        path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")

        def write(new: Path) -> None:
            with open(new, "wb") as file:
                np.savez(file, **cast(Any, dict(self.arrays)))

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, write)
        except OSError as error:
            raise UserError(f"improved={path} cannot be written: {error.strerror or error}") from error
        return path
