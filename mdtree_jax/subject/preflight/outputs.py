"""Findings about outputs, the last activation and the loss. NumPy."""

from __future__ import annotations

import numpy as np

from mdtree_jax.registry.findings import FINDINGS
from mdtree_jax.subject.preflight.evidence import Evidence
from mdtree_jax.subject.preflight.seen import Seen, ramp

#: Last activation -> the interval that it gives out.
REACH = {
    "softmax": (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, np.inf),
    "positive": (0.0, np.inf),
    "linear": (-np.inf, np.inf),
}
_ROUNDING = 1e-4


def last_activation(evidence: Evidence) -> tuple[str, float]:
    """Return the last activation, a name of `REACH`, and how sure that is: from random parameters, else outputs.

    Random parameters reach what the function can give out, whatever this network gives. Its outputs alone may lie
    between 0 and 1 without a function that holds them there.
    """
    if evidence.possible is not None:
        return _activation(np.concatenate([evidence.possible, evidence.outputs])), 1.0
    return _activation(evidence.outputs), 0.7


def _activation(outputs: np.ndarray) -> str:
    low, high = float(outputs.min()), float(outputs.max())
    if low >= 0 and high <= 1 + _ROUNDING:
        if np.abs(outputs.sum(1) - 1).max() < _ROUNDING:
            return "softmax"
        if high > 0.9:
            return "sigmoid"
    if low >= 0:
        # Softplus and exp leave tiny numbers beside those that underflow to 0.
        is_smooth = np.mean((outputs > 0) & (outputs < 1e-9)) > 0.005
        return "relu" if np.mean(outputs == 0) > 0.01 and not is_smooth else "positive"
    if low >= -1 and high <= 1 and high - low > 1.8:
        return "tanh"
    return "linear"


def softmax_over_one_unit(evidence: Evidence) -> Seen | None:
    """Return a single output that is 1 whatever the parameters."""
    if evidence.outputs.shape[1] > 1 or np.abs(evidence.outputs - 1).max() > 1e-6:
        return None
    name, sure = last_activation(evidence)
    return Seen(sure, {}) if name == "softmax" else None


def relu_output(evidence: Evidence) -> Seen | None:
    """Return a ReLU after the last layer of a classifier, whose negative side has no gradient."""
    name, sure = last_activation(evidence)
    if evidence.task == "values" or name != "relu":
        return None
    zero = evidence.outputs == 0
    values = {
        "zero_share": float(zero.mean()),
        "dead_outputs": int(zero.all(0).sum()),
        "largest": float(evidence.outputs.max()),
        "wants": evidence.wants,
    }
    return Seen(sure, values)


def outputs_not_probabilities(evidence: Evidence) -> Seen | None:
    """Return outputs outside 0 to 1 where the loss takes probabilities; a last ReLU is a finding of its own."""
    name, _ = last_activation(evidence)
    if evidence.task == "values" or evidence.wants != "probabilities" or name == "relu":
        return None
    low, high = float(evidence.outputs.min()), float(evidence.outputs.max())
    outside = float(np.mean((evidence.outputs < -_ROUNDING) | (evidence.outputs > 1 + _ROUNDING)))
    return Seen(ramp(outside, 0.0, 0.02), {"share": outside, "lowest": low, "highest": high})


def bounded_logits(evidence: Evidence) -> Seen | None:
    """Return logits that a softmax, sigmoid or tanh confines, so that no class can get a probability near 1."""
    name, sure = last_activation(evidence)
    if evidence.task == "values" or evidence.wants != "logits" or name not in ("softmax", "sigmoid", "tanh"):
        return None
    if evidence.outputs.shape[1] == 1 and name == "softmax":  # a finding of its own
        return None
    return Seen(0.9 * sure, {"activation": name})


def targets_out_of_reach(evidence: Evidence) -> Seen | None:
    """Return targets of a regression outside the range of the last activation."""
    if evidence.task != "values":
        return None
    name, sure = last_activation(evidence)
    low, high = REACH[name]
    margin = 1e-3 * float(np.ptp(evidence.targets))
    share = float(np.mean((evidence.targets < low - margin) | (evidence.targets > high + margin)))
    values = {
        "activation": name,
        "share": share,
        "lowest_target": float(evidence.targets.min()),
        "highest_target": float(evidence.targets.max()),
    }
    return Seen(sure * ramp(share, 0.0, 0.2), values)


def biased_outputs(evidence: Evidence) -> Seen | None:
    """Return residuals with a mean far from 0 where no parameter shifts the outputs by itself."""
    k = evidence.outputs.shape[1]
    if evidence.task != "values" or any(leaf.shape == (k,) for leaf in evidence.params.values()):
        return None
    residual = evidence.targets - evidence.outputs
    mean, deviation = residual.mean(0), residual.std(0)
    worst = int(np.argmax(np.abs(mean) / np.maximum(deviation, 1e-30)))
    ratio = abs(mean[worst]) / max(deviation[worst], 1e-30)
    values = {"mean_residual": float(mean[worst]), "residual_deviation": float(deviation[worst])}
    return Seen(ramp(ratio, 0.2, 0.8), values)


def constant_outputs(evidence: Evidence) -> Seen | None:
    """Return outputs that hardly differ between examples, or one label for all of them."""
    chance, error = evidence.chance, evidence.train_error
    deviation = evidence.outputs.std(0)
    if evidence.task == "values":
        wanted = float(np.sqrt(np.mean(evidence.targets.var(0))))
        spread = float(np.sqrt(np.mean(deviation**2))) / max(wanted, 1e-30)
        strength = ramp(np.log10(spread + 1e-30), -1.0, -2.0)
    else:
        spread = float(deviation.max() / max(1.0, np.abs(evidence.outputs).max()))
        strength = ramp(np.log10(spread + 1e-30), -2.0, -3.0)
        if _one_label(evidence) and chance > 10:
            strength = max(strength, 0.8)
    if error < 0.8 * chance or chance == 0:
        return None
    return Seen(strength, {"spread": spread, "error": error, "chance": chance})


def _one_label(evidence: Evidence) -> bool:
    said = evidence.outputs.argmax(1) if evidence.task == "classes" else evidence.outputs > 0.5
    return bool((said == said[:1]).mean() > 0.995) and len(said) > 20


def loss_settles_at_majority(evidence: Evidence) -> Seen | None:
    """Return a loss that, of constant probabilities, is least at the most frequent label: the absolute error.

    The loss itself is tried: at the frequencies of the labels, at the most frequent label and between. Where outputs
    are not confined to 0 to 1 (a margin loss), such a loss separates the labels all the same.
    """
    if evidence.task == "values" or evidence.loss is None or evidence.raw_targets is None or evidence.chance <= 0:
        return None
    name, _ = last_activation(evidence)
    if name not in ("softmax", "sigmoid"):
        return None
    targets = evidence.targets
    k = evidence.outputs.shape[1]
    indicators = np.eye(k)[targets] if evidence.task == "classes" else targets
    frequent = indicators.mean(0)
    majority = np.eye(k)[frequent.argmax()] if evidence.task == "classes" else (frequent > 0.5).astype(float)
    losses = [_constant_loss(evidence, (1 - t) * frequent + t * majority) for t in (0.0, 0.5, 0.98)]
    if not np.isfinite(losses).all():
        return None
    at, between, top = losses
    values = {"loss_at_frequencies": at, "loss_at_majority": top}
    gained = (at - top) / max(abs(at), 1e-30)
    return Seen(ramp(gained, 0.0, 0.05) * (top <= between), values)


def _constant_loss(evidence: Evidence, constant: np.ndarray) -> float:
    """Return the mean loss of the sample with one output for all examples."""
    shape = evidence.output_shape
    outputs = np.broadcast_to(constant if len(shape) > 1 else constant[0], shape).astype(np.float32)
    return float(np.mean(np.asarray(evidence.loss(outputs, evidence.raw_targets))))  # type: ignore[misc]


for _function in (
    softmax_over_one_unit,
    relu_output,
    outputs_not_probabilities,
    bounded_logits,
    targets_out_of_reach,
    biased_outputs,
    constant_outputs,
    loss_settles_at_majority,
):
    FINDINGS.bind(_function.__name__, find=_function)
