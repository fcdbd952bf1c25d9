"""The table of measurements: one complete entry for every number measured on a trained network. No JAX.

Columns and their standard errors, `grid.measure.metrics`, help, tables, sentences, the rows of a report and the joint
model follow from it. `mdtree_jax.register(Measurement(…), kernel=function)` adds an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.registry.kernels import KERNELS, Kernel, add_kernel, function_of
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.measurement_type import Measurement, Scale, Words
from mdtree_jax.registry.register import BINDERS, Binder
from mdtree_jax.registry.table import Table
from mdtree_jax.registry.trained_measurements import TRAINED_MEASUREMENTS

#: Loss added before taking a logarithm, nats: interpolating networks reach 1e-5, which is below the noise.
LEAST_LOSS = 1e-3


def percent_complement(values: Any) -> Any:
    """Return accuracies (%) as errors; raises `UserError` if they are fractions."""
    if values.max() <= 1.0:
        raise UserError(
            f"accuracies must be percentages, but column '{values.name}' has no value above {values.max():g} and seems "
            "to hold fractions; multiply it by 100"
        )
    return 100.0 - values


def _same(values: Any) -> Any:
    return values


def _relative_to_loss(log_sharpness: Any, train_loss: Any) -> Any:
    return log_sharpness - np.log(train_loss + LEAST_LOSS)


_HELD_OUT: dict[str, Any] = {"needs": ("network", "test_data"), "direction": "worse", "is_shown": False}

#: Spreads of scales are those of published/F, rounded.
MEASUREMENTS: Table[Measurement] = Table(
    "measurement",
    [
        Measurement(
            "num_samples",
            "samples",
            "size of the training subset",
            needs=("training_settings",),
            direction="large",
            aliases={"data_amount": None},
            is_shown=False,
        ),
        Measurement(
            "num_parameters",
            "parameters",
            "trainable parameters of the network",
            needs=("training_settings",),
            direction="large",
            aliases={"para_amount": None},
            is_shown=False,
        ),
        Measurement(
            "train_error",
            "%",
            "training error, evaluation-mode BatchNorm",
            needs=("network",),
            direction="unfit",
            words=Words("training error"),
            aliases={"train_acc": percent_complement},
            scale=Scale(lambda v: np.log(0.05 + v), 2.7),
            log_offset=0.05,
            bounds=(0.0, 100.0),
        ),
        Measurement(
            "test_error",
            "%",
            "test error",
            needs=("network", "test_data"),
            direction="worse",
            aliases={"test_acc": percent_complement},
            bounds=(0.0, 100.0),
        ),
        Measurement(
            "train_loss",
            "nats",
            "mean loss on the training subset, for classes the cross-entropy",
            needs=("network",),
            direction="unfit",
            words=Words(
                "training loss",
                at_most="it is at the bottom of its loss valley",
                above="it could still lower its training loss",
            ),
            scale=Scale(lambda v: np.log(np.maximum(v, 1e-12)), 3.0),
            log_offset=0.0,
            bounds=(0.0, np.inf),
        ),
        Measurement(
            "test_loss",
            "nats",
            "mean loss on the test set, for classes the cross-entropy",
            bounds=(0.0, np.inf),
            **_HELD_OUT,
        ),
        Measurement("validation_error", "%", "error on the validation set", bounds=(0.0, 100.0), **_HELD_OUT),
        Measurement(
            "validation_loss",
            "nats",
            "mean loss on the validation set, for classes the cross-entropy",
            bounds=(0.0, np.inf),
            **_HELD_OUT,
        ),
        Measurement(
            "log_hessian_trace",
            "ln",
            "ln of the Hessian trace, mean over networks (sharpness)",
            direction="sharp",
            words=Words("sharpness", "sharpness, ln of the Hessian trace"),
            aliases={"hessian_t": None},
            logarithm_of="hessian_trace",
            scale=Scale(_same, 1.3),
        ),
        Measurement(
            "log_hessian_max_eigenvalue",
            "ln",
            "ln of the magnitude of the dominant Hessian eigenvalue",
            direction="sharp",
            words=Words("sharpest direction", "sharpest direction, ln of the top eigenvalue"),
            aliases={"hessian_e": None},
            logarithm_of="hessian_max_eigenvalue",
            of_size=True,  # a dominant eigenvalue may be negative and is not small for it
        ),
        Measurement(
            "log_effective_rank",
            "ln",
            "ln of trace / top eigenvalue: how many eigenvalues as large as the top one add up to the trace",
            words=Words(
                "spread of the sharpness",
                "spread of the sharpness, ln of trace / top eigenvalue",
                "few directions are as sharp as the sharpest",
                "many directions are as sharp as the sharpest",
            ),
            sources=("log_hessian_trace", "log_hessian_max_eigenvalue"),
            formula=np.subtract,
            scale=Scale(_same, 0.35),
        ),
        Measurement(
            "log_relative_eigenvalue",
            "ln",
            # The Hessian of a cross-entropy shrinks with the loss, so that sharpness falls where networks interpolate;
            # the quotient goes on rising with the batch size.
            "ln of top eigenvalue / training loss: sharpness relative to the loss",
            direction="sharp",
            words=Words(
                "sharpness relative to the loss",
                "sharpness relative to the loss, ln of top eigenvalue / training loss",
                "its valley is flat relative to its loss",
                "its valley is sharp relative to its loss",
            ),
            sources=("log_hessian_max_eigenvalue", "train_loss"),
            formula=_relative_to_loss,
        ),
        Measurement(
            "mode_connectivity",
            "%",
            "mean error of the curve's endpoints minus the error where the curve deviates most from it",
            kernel="connectivity",
            direction="joined",
            words=Words(
                "connectivity relative to the endpoints",
                above="the path between two such networks has lower error than its endpoints",
            ),
            scale=Scale(lambda v: np.arcsinh(v / 3.0), 1.5),
        ),
        Measurement(
            "mode_connectivity_peak",
            "-%",
            "minus the largest training error on the curve at t = .25, .5, .75; 0 is a path without error",
            kernel="connectivity",
            direction="joined",
            words=Words("connectivity", "connectivity, % (0: a path without error)"),
            scale=Scale(lambda v: np.log(0.3 + np.maximum(-v, 0.0)), 2.0),
            log_offset=0.3,
            bounds=(-100.0, 0.0),
        ),
        Measurement(
            "cka",
            "1",
            "linear CKA of the softmax outputs of two networks on mixup images",
            kernel="similarity",
            direction="alike",
            words=Words("similarity", "similarity of two networks (CKA)"),
            aliases={"CKA": None},
            scale=Scale(_same, 0.14),
            bounds=(0.0, 1.0),
            tolerance=1e-6,
        ),
        Measurement(
            "agreement",
            "1",
            "share of mixup images on which two networks predict the same class, or of labels and tokens the same",
            kernel="similarity",
            direction="alike",
            bounds=(0.0, 1.0),
            is_shown=False,
        ),
        Measurement(
            "l2_distance",
            "1",
            "Euclidean distance between the parameters of two networks",
            kernel="similarity",
            direction="apart",
            bounds=(0.0, np.inf),
            is_shown=False,
        ),
        Measurement(
            "barrier",
            "points",
            "largest rise of the training error on the straight line between two networks, above its endpoints",
            kernel="barrier",
            direction="apart",
            is_shown=False,
        ),
        Measurement(
            "barrier_loss",
            "nats",
            "the same for the training loss",
            kernel="barrier",
            direction="apart",
            is_shown=False,
        ),
        Measurement(
            "aligned_barrier",
            "points",
            "`barrier` after permuting the units of the second network to match the first",
            kernel="aligned",
            direction="apart",
            is_shown=False,
        ),
        Measurement(
            "aligned_barrier_loss",
            "nats",
            "`barrier_loss` after the same permutation",
            kernel="aligned",
            direction="apart",
            is_shown=False,
        ),
        Measurement(
            "hessian_trace",
            "nats",
            "Hessian trace of the training loss, mean over networks; may be negative",
            kernel="hessian",
            direction="sharp",
            is_shown=False,
        ),
        Measurement(
            "hessian_max_eigenvalue",
            "nats",
            "eigenvalue of the Hessian largest in magnitude, with its sign",
            kernel="hessian",
            direction="sharp",
            is_shown=False,
        ),
        Measurement(
            "scale_invariant_trace",
            "nats",
            "sum over the parameters w of w^2 times the diagonal of the Hessian",
            kernel="hessian",
            direction="sharp",
            is_shown=False,
        ),
        Measurement(
            "log_scale_invariant_trace",
            "ln",
            "ln of `scale_invariant_trace`",
            direction="sharp",
            logarithm_of="scale_invariant_trace",
            is_shown=False,
        ),
        Measurement(
            "ball_sharpness",
            "nats",
            "worst-case increase of the training loss within 0.5 % of the parameters' norm",
            kernel="sharpness",
            direction="sharp",
            is_shown=False,
        ),
        *TRAINED_MEASUREMENTS,
    ],
)


def of_kernel(kernel: str) -> tuple[str, ...]:
    """Return the measurements that a kernel computes, by its name.

    >>> of_kernel("connectivity")
    ('mode_connectivity', 'mode_connectivity_peak')
    """
    return tuple(m.name for m in MEASUREMENTS.values() if m.kernel == kernel)


def kernels_of(name: str) -> tuple[str, ...]:
    """Return the choices of `grid.measure.metrics` that a measurement needs; for a derived one, those of its sources.

    >>> kernels_of("log_effective_rank"), kernels_of("aligned_barrier"), kernels_of("train_error")
    (('hessian',), ('barrier',), ())
    """
    entry = MEASUREMENTS.get(name)
    if entry is None:
        return ()
    if entry.kernel is not None:
        return (KERNELS[entry.kernel].program,)
    followed = (*entry.sources, *((entry.logarithm_of,) if entry.logarithm_of else ()))
    return tuple(dict.fromkeys(kernel for source in followed for kernel in kernels_of(source)))


def needs_of(name: str) -> tuple[str, ...]:
    """Return what a measurement needs, from `kernels.NEEDS`: its own needs, or else those of its kernel or sources.

    >>> needs_of("cka"), needs_of("log_hessian_trace"), needs_of("log_num_samples")
    (('pair',), ('network',), ('training_settings',))
    """
    entry = MEASUREMENTS[name]
    if entry.needs or not (entry.kernel or entry.sources or entry.logarithm_of):
        return entry.needs
    if entry.kernel is not None:
        return KERNELS[entry.kernel].needs
    followed = (*entry.sources, *((entry.logarithm_of,) if entry.logarithm_of else ()))
    return tuple(dict.fromkeys(need for source in followed for need in needs_of(source)))


def label(name: str) -> str:
    """Return the display name of a column: a measurement's label, or else its name with spaces."""
    return MEASUREMENTS[name].label if name in MEASUREMENTS else name.replace("_", " ")


def bounds_of(name: str) -> tuple[float, float]:
    """Return the smallest and the largest allowed value of a column, infinite if unbounded."""
    return MEASUREMENTS[name].bounds if name in MEASUREMENTS else (-np.inf, np.inf)


def markdown_table() -> str:
    """Return the measurements as a Markdown table, for the documentation."""
    lines = ["| measurement | unit | `grid.measure.metrics` | needs | small, large | meaning |", "|---" * 6 + "|"]
    for m in MEASUREMENTS.values():
        kernels = ", ".join(f"`{kernel}`" for kernel in kernels_of(m.name))
        needs = ", ".join(need.replace("_", " ") for need in needs_of(m.name))
        name = f"`{m.name}`" + ("" if m.label == m.name.replace("_", " ") else f" ({m.label})")
        lines.append(f"| {name} | {m.unit} | {kernels} | {needs} | {'; '.join(m.sides)} | {m.meaning} |")
    return "\n".join(lines)


def _add_measurement(entry: Measurement, kernel: Callable[..., Any] | None = None) -> Measurement:
    """Add a measurement, and with a function a kernel of the same name that computes it alone."""
    if kernel is not None:
        if entry.kernel not in (None, entry.name):
            raise UserError(f"'{entry.name}' already has the kernel '{entry.kernel}'; omit either kernel=… or the name")
        entry = replace(entry, kernel=entry.name)
    elif entry.kernel is not None and entry.kernel not in KERNELS:
        raise UserError(f"'{entry.name}' names the kernel '{entry.kernel}', which does not exist; register it first")
    for source in (*entry.sources, *((entry.logarithm_of,) if entry.logarithm_of else ())):
        if source not in MEASUREMENTS:
            raise UserError(f"'{entry.name}' is derived from '{source}', which does not exist; register that first")
    taken = {alias: m.name for m in MEASUREMENTS.values() if m.name != entry.name for alias in (m.name, *m.aliases)}
    taken |= {name: name for name in KNOBS}
    for name in (entry.name, *entry.aliases):
        if name in taken:
            raise UserError(f"the name '{name}' is taken by the column '{taken[name]}'; choose another")
    MEASUREMENTS.check(entry)
    if kernel is not None:
        add_kernel(Kernel(entry.name, entry.meaning, entry.needs or ("network",), entry.cost), kernel)
    return MEASUREMENTS.register(entry)


def _remove_measurement(name: str) -> None:
    if MEASUREMENTS[name].kernel == name and function_of(name) is not None:
        KERNELS.unregister(name)
    MEASUREMENTS.unregister(name)


BINDERS[Measurement] = Binder(_add_measurement, _remove_measurement, ("kernel",))
