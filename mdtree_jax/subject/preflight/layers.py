"""Findings about hidden units, weights and their gradient. NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mdtree_jax.registry.findings import FINDINGS
from mdtree_jax.subject.preflight.curves import unstable_loss
from mdtree_jax.subject.preflight.evidence import Evidence
from mdtree_jax.subject.preflight.seen import Seen, gains_of, kernels_of, ramp, randomness_of, root_mean_square
from mdtree_jax.subject.preflight.units import Units

#: Root mean square × root of the inputs of usual initializations, between LeCun's 1 and He's 1.4.
_USUAL_GAIN = 1.2


def dead_units(evidence: Evidence) -> Seen | None:
    """Return the layer with the most units that are 0 for all examples.

    Without traced units: components of a bias whose gradient is exactly 0, where there is a gradient at all.
    """
    shares = {f"ReLU {number}": units.dead for number, units in enumerate(_hidden(evidence, "relu"), 1)}
    if evidence.units is None and evidence.gradient is not None and _norm(evidence.gradient) > 0:
        shares = {n: float(np.mean(g == 0)) for n, g in evidence.gradient.items() if g.ndim == 1 and g.size > 3}
    if not shares:
        return None
    layer = max(shares, key=lambda name: shares[name])
    # A network that fits its examples has enough units that live.
    harm = ramp(evidence.train_error / max(evidence.chance, 1e-30), 0.02, 0.1)
    return Seen(harm * ramp(shares[layer], 0.4, 0.8), {"layer": layer, "share": shares[layer]})


def saturated_units(evidence: Evidence) -> Seen | None:
    """Return the layer whose bounded units are at the ends of their range most often, of a network that does badly.

    Training itself drives units there, which then decide like switches; a network that has learned much is not held up.
    """
    shares = {
        f"{function} {number}": units.saturated
        for function in ("tanh", "sigmoid")
        for number, units in enumerate(_hidden(evidence, function), 1)
    }
    if not shares:
        return None
    layer = max(shares, key=lambda name: shares[name])
    harm = ramp(evidence.train_error / max(evidence.chance, 1e-30), 0.5, 0.8)
    return Seen(harm * ramp(shares[layer], 0.4, 0.7), {"layer": layer, "share": shares[layer]})


def _hidden(evidence: Evidence, function: str) -> list[Units]:
    """Return the layers of one activation function, without gates and without that of the outputs."""
    units = evidence.units or ()
    return [one for one in units if one.function == function and not one.is_gate and not one.is_output]


def vanishing_gradient(evidence: Evidence) -> Seen | None:
    """Return layers whose gradients, relative to their weights, differ by orders of magnitude, of a bad network."""
    if evidence.gradient is None or evidence.chance <= 0:
        return None
    kernels = kernels_of(evidence.params)
    sizes = [_norm_of(evidence.gradient[name]) / max(_norm_of(leaf), 1e-30) for name, leaf in kernels.items()]
    if len(sizes) < 3 or min(sizes) == 0:
        return None
    ratio = min(sizes) / max(sizes)
    # Of healthy networks it is 0.01 and more.
    harm = ramp(evidence.train_error / evidence.chance, 0.4, 0.6)
    return Seen(harm * ramp(np.log10(ratio), -2.5, -4.0), {"ratio": ratio})


def identical_units(evidence: Evidence) -> Seen | None:
    """Return the kernel with the most units that have the same weights, which they keep for ever."""
    best = None
    for name, leaf in evidence.params.items():
        if leaf.ndim < 2 or leaf.shape[-1] < 4:
            continue
        columns = leaf.reshape(-1, leaf.shape[-1]).T
        size = root_mean_square(columns)
        if size == 0:
            share = 1.0
        else:
            lit = columns[np.abs(columns).max(1) > 1e-6 * size]
            rounded = np.round(lit / (1e-4 * size))
            share = 1 - len(np.unique(rounded, axis=0)) / len(lit) if len(lit) >= 4 and leaf.size > 16 else 0.0
        if best is None or share > best.values["share"]:
            best = Seen(ramp(share, 0.3, 0.7), {"parameter": name, "share": share})
    return best


def weights_too_large(evidence: Evidence) -> Seen | None:
    """Return kernels that enlarge what passes through them, from the initialization on.

    Where that is not known, they must look as if they were drawn so large, and not made so by training.
    """
    initial = _initial(evidence)
    gains = gains_of(evidence.params if initial is None else initial, evidence.outputs.shape[1])
    if not gains:
        return None
    gain = float(np.median(gains))
    drawn = 1.0 if initial is not None else randomness_of(evidence.params, evidence.outputs.shape[1])
    return Seen(ramp(np.log(max(gain, 1e-30)), np.log(4), np.log(9)) * drawn, {"gain": gain})


def weights_grown(evidence: Evidence) -> Seen | None:
    """Return kernels that a training blew up: many times as large as at initialization, to the network's harm.

    Harm is a high training error, or a loss that jumps. Without the initialization, large kernels are blown up where
    they do not look as if they were drawn so.
    """
    jumps = unstable_loss(evidence)
    harm = 0.0 if jumps is None else jumps.strength
    if evidence.chance > 0 and evidence.train_error >= 0.5 * evidence.chance:
        harm = 1.0
    ratio, trained = _growth(evidence), 1.0
    if ratio is None:
        gains = gains_of(evidence.params, evidence.outputs.shape[1])
        if _initial(evidence) is not None or not gains:
            return None
        ratio = float(np.median(gains)) / _USUAL_GAIN
        trained = 1 - randomness_of(evidence.params, evidence.outputs.shape[1])
    strength = harm * ramp(np.log(max(ratio, 1e-30)), np.log(3), np.log(6)) * trained
    return Seen(strength, {"ratio": ratio, "is_known": _initial(evidence) is not None})


def weights_shrunk(evidence: Evidence) -> Seen | None:
    """Return kernels far smaller than at initialization, of a network that does badly and has weight decay.

    Without the initialization: far below the gain of 1 that usual initializations have; then the decay must be known.
    """
    if evidence.chance <= 0 or evidence.train_error < 0.3 * evidence.chance:
        return None
    decay, ratio = evidence.setting("weight_decay"), _growth(evidence)
    if decay == 0 or (decay is None and ratio is None):
        return None
    if ratio is None:
        if _initial(evidence) is not None:
            return None
        gains = gains_of(evidence.params, evidence.outputs.shape[1])
        if not gains:
            return None
        ratio = float(np.median(gains)) / 2  # trained networks of a gain of 1 and 2 are healthy
    return Seen(ramp(ratio, 0.5, 0.1), {"ratio": ratio, "is_known": _initial(evidence) is not None})


def _initial(evidence: Evidence) -> Mapping[str, np.ndarray] | None:
    return evidence.fresh if evidence.initial is None else evidence.initial


def _growth(evidence: Evidence) -> float | None:
    """Return the norm of the kernels over that at initialization; None where that is not known or 0."""
    before = kernels_of(_initial(evidence) or {})
    if not before or _norm(before) == 0:
        return None
    return max(_norm(kernels_of(evidence.params)) / _norm(before), 1e-30)


def no_gradient(evidence: Evidence) -> Seen | None:
    """Return that the gradient is exactly 0 and examples are wrong."""
    if evidence.gradient is None or evidence.chance <= 0 or evidence.train_error < 0.2 * evidence.chance:
        return None
    return Seen(1.0, {"train_error": evidence.train_error}) if _norm(evidence.gradient) == 0 else None


def never_moved(evidence: Evidence) -> Seen | None:
    """Return that the parameters are those of the initialization."""
    if evidence.initial is None or set(evidence.initial) != set(evidence.params):
        return None
    moved = {name: leaf - evidence.initial[name] for name, leaf in evidence.params.items()}
    distance = _norm(moved) / max(_norm(evidence.initial), 1e-30)
    return Seen(ramp(np.log10(distance + 1e-30), -2.0, -4.0), {"distance": distance})


def statistics_do_not_move(evidence: Evidence) -> Seen | None:
    """Return that training mode leaves the running averages as they are."""
    return Seen(1.0, {}) if evidence.moves_statistics is False else None


def _norm(leaves: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(_norm_of(leaf) ** 2 for leaf in leaves.values())))


def _norm_of(leaf: np.ndarray) -> float:
    return float(np.linalg.norm(leaf.astype(np.float64)))


for _function in (
    dead_units,
    saturated_units,
    vanishing_gradient,
    identical_units,
    weights_too_large,
    weights_grown,
    weights_shrunk,
    no_gradient,
    never_moved,
    statistics_do_not_move,
):
    FINDINGS.bind(_function.__name__, find=_function)
