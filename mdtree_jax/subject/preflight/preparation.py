"""The finding of inputs that are not prepared as in training: usual preparations are tried. NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mdtree_jax.registry.findings import FINDINGS
from mdtree_jax.subject.preflight.evidence import Evidence
from mdtree_jax.subject.preflight.seen import Seen, ramp

#: ImageNet's mean and standard deviation by channel, of pixels in 0 to 1.
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)


def _channels_last(x: np.ndarray) -> bool:
    return x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3)


def _unit(x: np.ndarray) -> np.ndarray:
    """Return pixels in 0 to 1, from 0 to 255 where they look like that."""
    return x / np.float32(255) if x.max() > 2 else x


def _standardized(x: np.ndarray) -> np.ndarray:
    axes = (0, 2, 3) if x.ndim == 4 and not _channels_last(x) else tuple(range(x.ndim - 1))
    return (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-7)


def _imagenet(x: np.ndarray) -> np.ndarray:
    shape = (1, 1, 1, 3) if _channels_last(x) else (1, 3, 1, 1)
    return (_unit(x) - IMAGENET[0].reshape(shape)) / IMAGENET[1].reshape(shape)


def _moved(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1) if _channels_last(x) else np.moveaxis(x, 1, -1)


def _reversed(x: np.ndarray) -> np.ndarray:
    return x[..., ::-1] if _channels_last(x) else x[:, ::-1]


#: What was done -> the function and whether it makes sense for these inputs (float32).
PREPARATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], bool]]] = {
    "divide by 255": (lambda x: x / np.float32(255), lambda x: bool(x.max() > 2)),
    "multiply by 255": (lambda x: x * np.float32(255), lambda x: bool(x.min() >= 0 and x.max() <= 2)),
    "scale to −1 to 1": (lambda x: 2 * _unit(x) - 1, lambda x: bool(x.min() >= 0)),
    "standardize by channel": (_standardized, lambda x: True),
    "subtract ImageNet's mean and divide by its deviation": (_imagenet, lambda x: x.ndim == 4 and 3 in x.shape[1:]),
    "reverse the order of the channels (RGB, BGR)": (_reversed, lambda x: x.ndim == 4 and 3 in x.shape[1:]),
    "invert the pixels": (lambda x: x.max() - x, lambda x: bool(x.min() >= 0)),
}


def preprocessing_differs(evidence: Evidence) -> Seen | None:
    """Return the preparation of the inputs with which a network that does no better than chance does well.

    It is looked for where the error is near chance, or far above the one that the history ends with.
    """
    x, chance, error = evidence.inputs, evidence.chance, evidence.train_error
    if evidence.try_inputs is None or not isinstance(x, np.ndarray) or chance <= 0 or x.ndim < 2:
        return None
    recorded = _recorded_error(evidence)
    unlike_recorded = recorded is not None and error > max(2 * recorded, recorded + 0.3 * chance)
    if not (error > 0.85 * chance or unlike_recorded):
        return None
    found = {name: tried for name, tried in _tried(evidence, x.astype(np.float32)).items() if np.isfinite(tried)}
    best = min(found, key=lambda name: found[name], default=None)
    values = {"train_error": error, "chance": chance, "preparation": None, "prepared_error": None}
    if best is None or found[best] > 0.6 * min(chance, error):
        return Seen(0.7, values) if unlike_recorded else None
    return Seen(ramp(found[best] / chance, 0.8, 0.4), values | {"preparation": best, "prepared_error": found[best]})


def _recorded_error(evidence: Evidence) -> float | None:
    """Return the training error that the history ends with, in %."""
    if evidence.history is None or "train_error" not in evidence.history:
        return None
    known = evidence.history["train_error"].dropna()
    return float(known.iloc[-1]) if len(known) else None


def _tried(evidence: Evidence, x: np.ndarray) -> dict[str, float]:
    """Return the error with each preparation, and with it after the channels were moved, where the model takes that."""
    orders: dict[str, np.ndarray] = {"": x}
    if x.ndim == 4:
        orders["move the channels to the other end"] = _moved(x)
    found: dict[str, float] = {}
    for order, moved in orders.items():
        candidates: dict[str, Any] = {order: moved} if order else {}
        for name, (prepare, suits) in PREPARATIONS.items():
            if suits(moved):
                candidates[" and ".join(filter(None, (order, name)))] = prepare(moved)
        for name, candidate in candidates.items():
            try:
                found[name] = evidence.try_inputs(candidate)  # type: ignore[misc]
            except Exception:  # a user's model may raise anything for a shape that it does not take
                continue
    return found


FINDINGS.bind("preprocessing_differs", find=preprocessing_differs)
