"""Findings about the history of a training. NumPy and pandas."""

from __future__ import annotations

import numpy as np

from mdtree_jax.registry.findings import FINDINGS
from mdtree_jax.subject.preflight.evidence import Evidence
from mdtree_jax.subject.preflight.seen import Seen, ramp

#: Fewer points than this have no shape.
FEWEST = 4
#: Steps from which a straight line is a rate too low, not a training too short.
_LONG = 200


def _curve(evidence: Evidence) -> tuple[np.ndarray, np.ndarray] | None:
    """Return steps (epochs where steps are not known) and training losses; None for fewer than `FEWEST` points.

    A row without a training loss is one of another kind (logs hold such), but for the last rows without any loss:
    training ended there with a loss that is not a number.
    """
    history = evidence.history
    if history is None or "train_loss" not in history:
        return None
    axis = next((name for name in ("step", "epoch") if name in history and history[name].notna().all()), None)
    losses = [name for name in ("train_loss", "validation_loss") if name in history]
    is_lost = history[losses].isna().all(axis=1)[::-1].cummin()[::-1].astype(bool)
    known = history[history["train_loss"].notna() | is_lost]
    if len(known) < FEWEST:
        return None
    steps = np.arange(1, len(known) + 1) if axis is None else known[axis].to_numpy(np.float64)
    return steps.astype(np.float64), known["train_loss"].to_numpy(np.float64)


def num_steps(evidence: Evidence) -> float | None:
    """Return the steps of the training: a setting, the history's last, or epochs over batches."""
    steps = evidence.setting("steps")
    if steps is None and evidence.history is not None and "step" in evidence.history and len(evidence.history):
        steps = evidence.history["step"].max()
    return None if steps is None or not np.isfinite(steps) else float(steps)


def _relative_error(evidence: Evidence) -> float:
    """Return the training error over chance; that of the history where the sample's is not known."""
    return evidence.train_error / evidence.chance if evidence.chance > 0 else 0.0


def _memorizes(evidence: Evidence) -> bool:
    """Return whether the held-out loss of the second half does not follow the training loss: longer does not help."""
    history = evidence.history
    if history is None or not {"train_loss", "validation_loss"} <= set(history):
        return False
    known = history[["train_loss", "validation_loss"]].dropna().to_numpy(np.float64)
    if len(known) < FEWEST or not np.isfinite(known).all():
        return False
    train, held_out = known[len(known) // 2] - known[-1]
    return bool(train > 0 and held_out < 0.2 * train)


def straight_loss(evidence: Evidence) -> Seen | None:
    """Return a loss that falls by the same amount all the time: each step is much smaller than the way to go."""
    curve = _curve(evidence)
    if curve is None or (num_steps(evidence) or _LONG) < _LONG or _relative_error(evidence) < 0.2:
        return None
    if _memorizes(evidence):
        return None
    steps, losses = curve
    if not np.isfinite(losses).all():
        return None
    middle = float(np.interp((steps[0] + steps[-1]) / 2, steps, losses))
    first, second = losses[0] - middle, middle - losses[-1]
    noise = float(np.std(np.diff(losses, 2))) / np.sqrt(6)
    # The fall must stand out of noise and rounding, and the way that is left must be long.
    if first <= 0 or second <= 0 or first + second < max(6 * noise, 2e-3 * abs(losses[0])):
        return None
    ratio = second / first
    straight = 1 - np.var(losses - np.polyval(np.polyfit(steps, losses, 1), steps)) / max(np.var(losses), 1e-30)
    strength = ramp(abs(np.log(ratio)), np.log(2.0), np.log(1.4)) * ramp(float(straight), 0.95, 0.985)
    return Seen(strength, {"first_half": first, "second_half": second, "steps": num_steps(evidence)})


def falling_at_end(evidence: Evidence) -> Seen | None:
    """Return a loss that still falls by a large share in the last third of the steps, of a network that does badly."""
    curve = _curve(evidence)
    if curve is None or not np.isfinite(curve[1]).all() or _memorizes(evidence):
        return None
    steps, losses = curve
    before = float(np.interp(steps[-1] - (steps[-1] - min(steps[0], 0)) / 3, steps, losses))
    rising = float(np.maximum(np.diff(losses[len(losses) // 2 :]), 0).sum())
    fall = (before - losses[-1] - rising) / max(abs(before), 1e-30)
    strength = ramp(fall, 0.05, 0.35) * ramp(_relative_error(evidence), 0.1, 0.25)
    values = {"fall": fall, "train_error": evidence.train_error, "steps": num_steps(evidence)}
    return Seen(strength, values)


def few_steps(evidence: Evidence) -> Seen | None:
    """Return a training of so few steps that hardly any rate gets there."""
    steps = num_steps(evidence)
    curve = _curve(evidence)
    if steps is None or (curve is not None and np.ptp(curve[1]) < 0.005 * abs(curve[1][0])):
        return None  # more of what moves nothing will not help
    strength = ramp(np.log(max(steps, 1)), np.log(400), np.log(100)) * ramp(_relative_error(evidence), 0.05, 0.2)
    values = {"steps": steps, "train_error": evidence.train_error, "batch_size": evidence.setting("batch_size")}
    return Seen(strength, values)


def unstable_loss(evidence: Evidence) -> Seen | None:
    """Return a loss that is not finite, or rises by much of its start's size more than once after its first third."""
    curve = _curve(evidence)
    if curve is None:
        return None
    losses = curve[1]
    if not np.isfinite(losses).all():
        return Seen(1.0, {"rises": int(np.sum(~np.isfinite(losses))), "points": len(losses)})
    late = losses[len(losses) // 3 :]
    scale = float(np.median(losses[: max(len(losses) // 3, 1)]))
    rises = np.diff(late)
    # A rise counts as far as it stands out of both the start and where it rose from.
    counted = int(np.sum((rises > 0.1 * scale) & (rises > 0.15 * late[:-1])))
    ended = float(losses[-1] - losses[:-1].min()) / max(scale, 1e-30)
    strength = max(ramp(counted / max(len(rises), 1), 0.0, 0.25) * (counted > 1), ramp(ended, 0.15, 0.6))
    return Seen(strength, {"rises": counted, "points": len(losses)})


def unstable_error(evidence: Evidence) -> Seen | None:
    """Return an error that jumps with the loss, so that the training had been better before than it mostly is now.

    A loss may jump where it does not matter; what was lost again in points of error would be kept at a lower rate.
    """
    jumps, history = unstable_loss(evidence), evidence.history
    if jumps is None or history is None:
        return None
    column = next((name for name in ("validation_error", "train_error") if name in history), None)
    errors = np.array([]) if column is None else history[column].dropna().to_numpy(np.float64)
    if len(errors) < FEWEST or not np.isfinite(errors).all():
        return None
    usual, best = float(np.median(errors[len(errors) // 2 :])), float(errors.min())
    lost = usual - best
    strength = jumps.strength * ramp(lost / max(usual, 1e-30), 0.1, 0.25) * ramp(lost, 0.5, 1.5)
    return Seen(strength, {"usual": usual, "best": best})


def flat_loss(evidence: Evidence) -> Seen | None:
    """Return a loss that has not fallen and is near that of chance."""
    curve = _curve(evidence)
    if curve is None or not np.isfinite(curve[1]).all() or _relative_error(evidence) < 0.8:
        return None
    losses = curve[1]
    fall, moved = ((losses[0] - losses[-1]), np.ptp(losses)) / np.maximum(abs(losses[0]), 1e-30)
    return Seen(ramp(float(moved), 0.02, 0.005), {"fall": float(fall)})


def wide_gap(evidence: Evidence) -> Seen | None:
    """Return a held-out error far above the training error."""
    held_out, train = evidence.validation_error, evidence.train_error
    if held_out is None or evidence.chance <= 0 or held_out - train < 0.5 * held_out:
        return None
    strength = ramp((held_out - train) / evidence.chance, 0.1, 0.4)
    return Seen(strength, {"train_error": train, "validation_error": held_out})


for _function in (straight_loss, falling_at_end, few_steps, unstable_loss, unstable_error, flat_loss, wide_gap):
    FINDINGS.bind(_function.__name__, find=_function)
