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
        is_fault: whether it is a fault of the model, its data or its loss, which a finding shows
            (`mdtree_jax.registry.findings`); faults have no place in a ranking and share a colour.
    """

    name: str
    sentence: str
    short: str
    colour: str = "#999999"
    is_fault: bool = False


NONE = "none"
FAULT_COLOUR = "#333333"


def _fault(name: str, sentence: str, short: str) -> Cause:
    return Cause(name, sentence, short, FAULT_COLOUR, is_fault=True)


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
            "stale_statistics",
            "its BatchNorm statistics do not belong to its weights",
            "stale statistics",
            "#180048",
        ),
        _fault("wrong_last_activation", "its last layer cannot give out what it should", "wrong last layer"),
        _fault("wrong_loss", "its loss does not fit the task", "wrong loss"),
        _fault("inputs_not_scaled", "its inputs were never scaled", "inputs not scaled"),
        _fault("dead_or_saturated_units", "many of its hidden units are dead or saturated", "dead units"),
        _fault("bad_initialization", "its weights started from values that training cannot mend", "bad initialization"),
        _fault("wrong_labels", "its targets do not belong to its inputs", "wrong labels"),
        _fault("not_shuffled", "its training examples came in order of their labels", "not shuffled"),
        _fault("wrong_preprocessing", "its inputs are not prepared as in training", "wrong preparation"),
        Cause(
            NONE,
            "changing {knobs} is not expected to gain a point of test accuracy",
            "nothing to gain",
            "#5f6670",
        ),
    ],
)
BINDERS[Cause] = in_table(CAUSES)
