"""The entries of measurements that need to know how a network was trained, and of those of two networks. No JAX.

A part of the table `mdtree_jax.registry.measurements.MEASUREMENTS`: norms, outcomes of probes and of short runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mdtree_jax.registry.measurement_type import Measurement, Words
from mdtree_jax.registry.probes import CHECKPOINT, PROBES, SHORT_RUNS, Probe

#: What is evaluated: end of a column -> unit, words, direction.
_OUTCOMES = {
    "train_loss": ("nats", "training loss", "unfit"),
    "train_error": ("%", "training error", "unfit"),
    "validation_loss": ("nats", "loss on held-out data", "worse"),
    "validation_error": ("%", "error on held-out data", "worse"),
    "test_loss": ("nats", "loss on the test set", "worse"),
    "test_error": ("%", "error on the test set", "worse"),
}
#: Sides of which changes are told, with their paired standard errors.
_CHANGES = tuple(name for name in _OUTCOMES if not name.startswith("test"))
_POSITIVE = (0.0, np.inf)


def _sizes() -> Iterator[Measurement]:
    for name, meaning in (
        ("num_samples", "ln of the size of the training subset"),
        ("num_parameters", "ln of the number of parameters"),
    ):
        yield Measurement(
            f"log_{name}", "ln", meaning, direction="large", sources=(name,), formula=np.log, is_shown=False
        )


def _norms() -> Iterator[Measurement]:
    for name, unit, meaning, direction, bounds in (
        ("weight_norm", "1", "Euclidean norm of all parameters", "large", _POSITIVE),
        ("weight_norm_initial", "1", "`weight_norm` before training", "large", _POSITIVE),
        ("weight_growth", "ln", "ln of `weight_norm` over the same before training", "large", None),
        (
            "layer_growth",
            "ln",
            "mean over weight matrices of ln(norm / norm before training); no change where a scale moves between two",
            "large",
            None,
        ),
        (
            "gradient_norm",
            "nats",
            "norm of the gradient of the training loss, BatchNorm in evaluation mode",
            "unfit",
            _POSITIVE,
        ),
        ("gradient_ratio", "ln", "ln of `gradient_norm` over `weight_norm`", "unfit", None),
        (
            "scaled_gradient_norm",
            "nats",
            "root of the sum over parameter arrays of (gradient norm x weight norm)^2; no change where a scale is free",
            "unfit",
            _POSITIVE,
        ),
        (
            "distance_from_initial",
            "1",
            "distance of the parameters from their initial values over the initial norm",
            "apart",
            _POSITIVE,
        ),
    ):
        label = Words("distance from the initialization", at_most="it is still close to its initialization",
                      above="it has moved far from its initialization")  # fmt: skip
        yield Measurement(
            name,
            unit,
            meaning,
            kernel="norms",
            direction=direction,
            words=label if name == "distance_from_initial" else None,
            bounds=bounds or (-np.inf, np.inf),
            is_shown=False,
        )


def _outcomes(prefix: str, kernel: str, when: str) -> Iterator[Measurement]:
    for end, (unit, words, direction) in _OUTCOMES.items():
        name, meaning = f"{prefix}_{end}", f"{words} {when}"
        yield Measurement(name, unit, meaning, kernel, direction=direction, bounds=_POSITIVE, is_shown=False)


def _changes(probe: Probe) -> Iterator[Measurement]:
    against = "the checkpoint" if probe.against == CHECKPOINT else f"`{probe.against}`"
    for end in _CHANGES:
        unit, words, _ = _OUTCOMES[end]
        yield Measurement(
            f"{probe.name}_{end}_change",
            "points" if unit == "%" else unit,
            f"change of the {words} by the probe `{probe.name}`, against {against}",
            "probes",
            direction=probe.direction,
            is_shown=False,
        )


def _probes() -> Iterator[Measurement]:
    yield Measurement(
        "probes_steps", "steps", "training steps of all probes", "probes", direction="large", is_shown=False
    )
    yield from _outcomes(CHECKPOINT, "probes", "of the network as it is, on the examples of the probes")
    for probe in PROBES.values():
        yield from _outcomes(probe.name, "probes", f"after the probe `{probe.name}`")
        yield from _changes(probe)
        if probe.trains:
            name = probe.name
            moved, lost = f"way of the weights in the probe `{name}` over their norm", f"1 if `{name}` diverged, else 0"
            yield Measurement(
                f"{name}_movement", "1", moved, "probes", direction="apart", bounds=_POSITIVE, is_shown=False
            )
            yield Measurement(
                f"{name}_diverged", "1", lost, "probes", direction="hot", bounds=(0.0, 1.0), is_shown=False
            )


def _short_runs() -> Iterator[Measurement]:
    yield Measurement(
        "short_runs_steps", "steps", "training steps of all short runs", "short_runs", direction="large", is_shown=False
    )
    for name, share in SHORT_RUNS.items():
        yield from _outcomes(name, "short_runs", f"of the network trained anew for 1/{1 / share:g} of its steps")


def _pairs() -> Iterator[Measurement]:
    for name, unit, meaning, direction in (
        ("distance_ratio", "1", "distance between two networks over the geometric mean of their norms", "apart"),
        ("disagreement", "%", "error of one network on held-out data with the predictions of another as targets", ""),
        ("disagreement_ratio", "1", "`disagreement` over the mean error of both, plus half an example", ""),
        ("ensemble_gain", "points", "error of the averaged outputs minus the mean error of both, held-out data", ""),
    ):
        yield Measurement(name, unit, meaning, "ensemble", direction=direction, is_shown=False)


#: The entries, in the order of the kernels.
TRAINED_MEASUREMENTS: tuple[Measurement, ...] = (
    *_sizes(),
    *_pairs(),
    *_norms(),
    *_probes(),
    *_short_runs(),
    Measurement(
        "log_rate_times_eigenvalue",
        "ln",
        "ln of learning rate x top eigenvalue: above ln 2, plain gradient descent is not stable",
        needs=("network", "training_settings"),
        direction="hot",
        sources=("learning_rate", "log_hessian_max_eigenvalue"),
        formula=lambda rate, eigenvalue: np.log(rate) + eigenvalue,
        is_shown=False,
    ),
)
