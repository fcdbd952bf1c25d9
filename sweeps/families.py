"""The families on which predictions that are to carry over are fitted and tested: one grid each.

A family is an architecture, a data source and an optimizer with its schedule. Four of them are *report families*: they
were named here before any network of any family was trained, nothing is chosen by looking at them, their learning
rates included, and they are predicted from the others alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One family; its grid has the same name.

    Attributes:
        name: of the grid.
        model: architecture.
        dataset: data source.
        optimizer, schedule: as in the grid.
        extras: further settings of the grid, of the family's kind rather than its axes.
        is_report: whether it is kept for the report.
    """

    name: str
    model: str
    dataset: str
    optimizer: str
    schedule: str
    extras: Mapping[str, Any] = field(default_factory=dict)
    is_report: bool = False


FAMILIES = (
    Family("digits_vit", "vit", "digits", "adamw", "warmup_cosine"),
    Family("mnist_cnn", "cnn", "mnist5k", "sgd", "step", {"label_noise_fraction": 0.1}),
    Family("mnist_resnet", "resnet8_fine", "mnist5k", "sgd", "cosine", {"label_smoothing": 0.1}),
    Family("mnist1d_cnn", "cnn1d", "mnist1d", "adam", "cosine"),
    Family("mnist1d_layernorm", "mlp_layernorm", "mnist1d", "adamw", "constant", {"weight_decay": 0.1}),
    Family("teacher_tanh", "mlp_tanh", "teacher", "sgd", "constant", {"label_noise_fraction": 0.15}),
    Family("tabular_gelu", "mlp_gelu", "tabular", "muon", "linear"),
    Family("shapes_groupnorm", "cnn_gn", "shapes", "lion", "cosine", {"augment": True}),
    Family("friedman_relu", "mlp_relu", "friedman", "adam", "step", {"objective": "regression"}),
    Family("grammar_lm", "char_transformer", "grammar", "adamw", "warmup_cosine", {"objective": "lm"}),
    Family("gratings_batchnorm", "cnn_bn", "gratings", "sgd", "cosine", is_report=True),
    Family("shapes_vit", "vit", "shapes", "adamw", "warmup_cosine", {"label_smoothing": 0.1}, is_report=True),
    Family("waves_gelu", "mlp_gelu", "waves", "adamw", "cosine", {"objective": "regression"}, is_report=True),
    Family("mnist1d_batchnorm", "mlp", "mnist1d", "sgd", "step", {"label_noise_fraction": 0.1}, is_report=True),
)
REPORT = tuple(family.name for family in FAMILIES if family.is_report)
