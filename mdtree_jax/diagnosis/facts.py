"""Facts that accompany a diagnosis, as data: why it abstains, what was missing, how a cost was estimated.

A fact is a kind and its values. Only `mdtree_jax.diagnosis.words.notes` turns facts into sentences, and no code parses
a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdtree_jax.checks import check_choice

#: Why a diagnosis abstains: kind -> its values.
REASONS = {
    "out_of_range": ("metrics", "reference", "suspects"),  # suspects: metric -> value that looks like no logarithm
    "unlike_any": ("reference",),
    "too_few_metrics": ("missing",),
    "contradicted": ("cause", "probability", "question", "answer", "against"),
    "unlikely": ("cause", "probability", "least"),
    "no_clear_gain": ("cause", "probability", "least"),
    "nothing_given": ("wanted",),
    "not_measured": ("error",),
    "diverged": (),
    "guessing": ("train_error", "error_of_guessing"),
}
#: What was missing, and what was done without it.
NOTES = {
    "metrics_missing": ("metrics",),
    "metrics_unused": ("metrics", "reference"),
    "question_not_asked": ("question",),
    "question_asked_of": ("question", "metrics"),
    "read_as_percent": ("metrics",),
    "shares_of_reference": (),
    "columns_unused": ("columns",),
    "label_noise": ("share",),
    "sampled_errors": ("side", "images", "of"),
    "sampled_curves": ("images", "of"),
    "one_pair": ("kernels",),
    "one_network": ("kernels",),
    "no_apply_train": ("kernels",),
    "no_averages": ("kernels", "state"),
    "no_held_out": (),
    "test_as_validation": (),
    "chance_unknown": ("columns",),
    "halved": ("side",),
    "taken_in": ("sentence",),
    "objective": ("loss", "unit", "error"),
    "no_experiments": ("missing",),
    "no_training_mode": (),
    "no_start": (),
    "own_schedule": (),
    "state_unfit": (),
    "networks_probed": ("number", "of"),
    "time_over": ("seconds", "left_out"),
    "memory_over": ("left_out",),
}
#: How a cost was estimated, or why it is unknown.
COSTS = {
    "epochs_unknown": (),
    "retraining_at_rate": ("epochs", "images"),
    "of_sweep": (),
}
KINDS: Mapping[str, tuple[str, ...]] = REASONS | NOTES | COSTS


@dataclass(frozen=True)
class Fact:
    """One fact: a kind of `KINDS`, and its values by name, plain ones as JSON holds them.

    Raises:
        UserError: an unknown kind.
        TypeError: values that are not those of the kind.
    """

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("kind of fact", self.kind, KINDS)
        if set(self.values) != set(KINDS[self.kind]):
            raise TypeError(f"a fact '{self.kind}' has the values {KINDS[self.kind]}, not {tuple(self.values)}")

    def to_dict(self) -> dict[str, Any]:
        """Return kind and values as one dictionary."""
        return {"kind": self.kind, **self.values}


def fact(kind: str, **values: Any) -> Fact:
    """Return a fact.

    >>> fact("metrics_missing", metrics=["cka"]).to_dict()
    {'kind': 'metrics_missing', 'metrics': ['cka']}
    """
    return Fact(kind, values)
