"""The causes: what may hold a trained network back, and how it is described. No JAX.

A cause is addressed by changing a knob (`mdtree_jax.registry.knobs`: `Knob.up`, `Knob.down`). `none` means that no
change helps.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table


@dataclass(frozen=True)
class Cause:
    """One cause.

    Attributes:
        name: identifier, as used in tables and JSON.
        sentence: the answer in words, as a reply to "Why?"; `{knobs}` is replaced by the compared knobs.
        short: two or three words for tables and plots.
        colour: of marks and bars, a hex code; the built-in colours (Okabe and Ito's palette and others) are at least
            16.9 apart in CIELAB for the three kinds of colour blindness.
    """

    name: str
    sentence: str
    short: str
    colour: str = "#999999"


NONE = "none"

CAUSES: Table[Cause] = Table(
    "cause",
    [
        Cause(
            "temperature_too_low",
            "it was trained too cold: too little noise in the optimizer",
            "trained too cold",
            "#0072b2",
        ),
        Cause(
            "temperature_too_high",
            "it was trained too hot: too much noise in the optimizer",
            "trained too hot",
            "#d55e00",
        ),
        Cause("model_too_small", "the model is too small for its data", "model too small", "#009e73"),
        Cause("too_little_data", "there is too little training data", "too little data", "#e69f00"),
        Cause("trained_too_short", "training was stopped too early", "trained too short", "#cc55ee"),
        Cause(
            "too_little_regularization",
            "it has too little regularization",
            "too little regularization",
            "#00cc88",
        ),
        Cause("too_much_regularization", "it has too much regularization", "too much regularization", "#880000"),
        Cause(
            NONE,
            "changing {knobs} is not expected to gain a point of test accuracy",
            "nothing to gain",
            "#5f6670",
        ),
    ],
)
BINDERS[Cause] = in_table(CAUSES)
