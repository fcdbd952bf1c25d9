"""The accuracies that Zhou et al. (ICML 2024) print, for the table that shows them beside ours."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """One case of the paper's table: accuracies in percent, mean of five seeds, as printed (some are truncated)."""

    number: int
    experiment: str
    k: int
    training_side: str
    accuracy: dict[str, float]


CASES = (
    Case(1, "q1_dataset", 8, "96 configurations: 8 random cells",
         {"hyperparameter": 49.56, "validation": 72.82, "md_tree": 87.70}),
    Case(2, "q1_scale_data", 1, "at most 5K images", {"hyperparameter": 64.74, "validation": 51.73, "md_tree": 75.89}),
    Case(3, "q1_scale_width", 2, "at most 0.011M parameters",
         {"hyperparameter": 60.12, "validation": 67.55, "md_tree": 82.56}),
    Case(4, "q2_width_dataset", 1, "167 configurations: 1 random data fraction",
         {"hyperparameter": 53.54, "validation": 55.79, "md_tree": 74.10}),
    Case(5, "q2_width_scale_data", 1, "at most 5K images",
         {"hyperparameter": 53.54, "validation": 63.61, "md_tree": 78.16}),
)  # fmt: skip
