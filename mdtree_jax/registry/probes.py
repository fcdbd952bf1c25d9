"""The probes: small experiments that start from a trained network with one knob moved. No JAX.

A probe goes on with the training of a network for a share of its steps, or recomputes its BatchNorm statistics. Its
outcome, loss and error before and after on the same examples, says what moving the knob would do without training
anew. `mdtree_jax.probes` runs them; the kernel `probes` (`mdtree_jax.registry.kernels`) does so for every network of a
sweep. A *short run* trains the same network from a fresh initialization for a share of its steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table

#: Schedule of a probe -> share c of a cosine in its learning rate: (1 - c) + c (1 + cos(pi done)) / 2.
SCHEDULES: Mapping[str, float] = MappingProxyType({"constant": 0.0, "cosine": 1.0})
#: What a probe's outcome can be compared with beside another probe: the network as it is.
CHECKPOINT = "checkpoint"
#: The probe without steps, with which all others are compared, so that stale statistics have no part in a change.
REFRESHED = "refreshed"
#: Knobs whose values are traced, so that one compiled step serves all probes that move them.
TRACED_KNOBS = ("learning_rate", "weight_decay", "label_smoothing")


@dataclass(frozen=True)
class Probe:
    """One probe.

    Attributes:
        name: identifier; the prefix of its columns.
        meaning: one line for help and tables.
        tells: what its outcome says.
        words: the experiment as a noun phrase, for sentences.
        knob: the knob that it moves, '' for none.
        multiple: of the knob's value; of the default where the knob is 0. 1 leaves it.
        value: the value that the knob is set to instead, or its default where it has a value already; None for none.
        rate: multiple of the peak learning rate of training.
        share: of the steps of training that it takes; 0 for a probe that trains nothing.
        schedule: of its learning rate, of `SCHEDULES`.
        against: the probe, or `CHECKPOINT`, that its outcome is compared with.
        direction: what a larger change of the loss or error means, of `measurement_type.DIRECTIONS`.

    Raises:
        UserError: an unknown schedule, a share outside [0, 1], a multiple that is not above 0.
    """

    name: str
    meaning: str
    tells: str
    words: str
    knob: str = ""
    multiple: float = 1.0
    value: Any = None
    rate: float = 1.0
    share: float = 0.1
    schedule: str = "constant"
    against: str = REFRESHED
    direction: str = ""

    def __post_init__(self) -> None:
        check_choice(f"schedule of the probe '{self.name}'", self.schedule, SCHEDULES)
        if self.share == 0 and self.name != REFRESHED:
            raise UserError(f"probe '{self.name}': share=0 trains nothing, and only '{REFRESHED}' is such a probe")
        if not 0.0 <= self.share <= 1.0:
            raise UserError(f"probe '{self.name}': share={self.share:g} is out of range; it must be in [0, 1]")
        for name, multiple in (("multiple", self.multiple), ("rate", self.rate)):
            if not 0.0 < multiple < math.inf:
                raise UserError(f"probe '{self.name}': {name}={multiple:g} is out of range; it must be above 0, finite")

    @property
    def trains(self) -> bool:
        """Whether it takes steps."""
        return self.share > 0

    @property
    def is_static(self) -> bool:
        """Whether it moves a knob that needs a compiled step of its own."""
        return self.value is not None and self.knob not in TRACED_KNOBS

    def moved(self, value: Any, default: Any) -> Any:
        """Return what the knob is set to where it is at `value`, and `default` is the knob's default.

        >>> PROBES["decay"].moved(1e-4, 5e-4), PROBES["decay"].moved(0.0, 5e-4)
        (0.001, 0.005)
        >>> PROBES["smooth"].moved(0.0, 0.0), PROBES["smooth"].moved(0.1, 0.0), PROBES["augment"].moved(True, False)
        (0.1, 0.0, False)
        """
        if self.value is not None:
            return self.value if value == default else default
        return self.multiple * (value if value > 0 else default)


PROBES: Table[Probe] = Table(
    "probe",
    [
        Probe(
            REFRESHED,
            "statistics of BatchNorm recomputed over the training subset, no steps",
            "an error that falls was that of stale statistics: the move is free",
            "its BatchNorm statistics, recomputed",
            share=0.0,
            against=CHECKPOINT,
        ),
        Probe(
            "same",
            "10 % of the steps at the peak learning rate, constant",
            "an error that falls says that training was not finished",
            "a tenth more steps at the same learning rate",
            knob="train_epochs",
            multiple=1.1,
        ),
        Probe(
            "heat",
            "10 % of the steps at 4 times the peak learning rate, constant",
            "a loss that rises little, or falls, says that training was too cold; one that rises much, too hot",
            "a tenth more steps at four times the learning rate",
            knob="learning_rate",
            multiple=4.0,
            rate=4.0,
            direction="hot",
        ),
        Probe(
            "cool",
            "10 % of the steps from a tenth of the peak learning rate to 0 by cosine",
            "what it gains over `same` is the noise of the optimizer",
            "a tenth more steps with the learning rate lowered to 0",
            knob="learning_rate",
            multiple=0.1,
            rate=0.1,
            schedule="cosine",
            against="same",
            direction="cold",
        ),
        Probe(
            "scorch",
            "10 % of the steps at 32 times the peak learning rate, constant",
            "a network that survives was trained far too cold",
            "a tenth more steps at 32 times the learning rate",
            knob="learning_rate",
            multiple=32.0,
            rate=32.0,
            direction="hot",
        ),
        Probe(
            "decay",
            "10 % of the steps with 10 times the weight decay, at the peak learning rate",
            "against `same`: an error that falls asks for more weight decay",
            "a tenth more steps with ten times the weight decay",
            knob="weight_decay",
            multiple=10.0,
            against="same",
        ),
        Probe(
            "smooth",
            "10 % of the steps with label smoothing 0.1, or without where there is some, at the peak learning rate",
            "against `same`: an error that falls asks for label smoothing, or for none",
            "a tenth more steps with label smoothing changed",
            knob="label_smoothing",
            value=0.1,
            against="same",
        ),
        Probe(
            "augment",
            "10 % of the steps with data augmentation, or without where there is some, at the peak learning rate",
            "against `same`: an error that falls asks for data augmentation, or for none",
            "a tenth more steps with data augmentation changed",
            knob="augment",
            value=True,
            against="same",
        ),
    ],
)
BINDERS[Probe] = in_table(PROBES)

#: Those of a sweep that names none. Augmentation needs a step of its own to be compiled, and images.
DEFAULT_PROBES = (REFRESHED, "same", "heat", "cool", "scorch", "decay", "smooth")

#: Prefix of the columns of a short run -> its share of the steps of training.
SHORT_RUNS: Mapping[str, float] = MappingProxyType({"short16": 1 / 16, "short8": 1 / 8, "short4": 1 / 4})
