"""Display names of metrics and kernels."""

from __future__ import annotations

from collections.abc import Sequence

from mdtree_jax.collection.columns import COLUMN
from mdtree_jax.diagnosis.words.formats import listed
from mdtree_jax.registry.measurements import MEASUREMENTS, label


def axis(metric: str) -> str:
    """Return the display name of a metric with its unit, for axes and tables.

    >>> axis("train_error"), axis("ball_sharpness")
    ('training error, %', 'ball sharpness, nats')
    """
    if metric in MEASUREMENTS:
        return MEASUREMENTS[metric].axis
    unit = COLUMN[metric].unit if metric in COLUMN else "1"
    return label(metric) + ("" if unit == "1" else f", {unit}")


def named(metrics: Sequence[str]) -> str:
    """Return the display names of metrics, joined as in a sentence.

    >>> named(["cka", "train_error"])
    'similarity and training error'
    """
    return listed([label(metric) for metric in metrics])
