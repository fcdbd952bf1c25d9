"""The held-out error of every class of a classifier. No JAX."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ClassError(NamedTuple):
    """The held-out error of one class.

    Attributes:
        label: of the class.
        examples: of it, held out.
        error: percent of them, the mean over networks.
        standard_error: of `error`, over the examples.
    """

    label: int
    examples: int
    error: float
    standard_error: float


def errors_by_class(labels: np.ndarray, errors: np.ndarray) -> tuple[ClassError, ...]:
    """Return the error of every class that there is an example of, in the order of the labels.

    Args:
        labels: (examples,) integers.
        errors: (networks, examples), shares in [0, 1].

    >>> for one in errors_by_class(np.array([0, 0, 2, 2]), np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])):
    ...     print(one)
    ClassError(label=0, examples=2, error=75.0, standard_error=25.0)
    ClassError(label=2, examples=2, error=0.0, standard_error=0.0)
    """
    of_example, found = 100 * np.asarray(errors, float).mean(0), []
    for label in np.unique(labels):
        own = of_example[labels == label]
        spread = own.std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.nan
        found.append(ClassError(int(label), len(own), float(own.mean()), float(spread)))
    return tuple(found)
