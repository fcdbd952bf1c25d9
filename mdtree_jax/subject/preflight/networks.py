"""Findings about two networks: are they what a list of seeds should hold? NumPy."""

from __future__ import annotations

import numpy as np

from mdtree_jax.registry.findings import FINDINGS
from mdtree_jax.subject.preflight.evidence import Evidence
from mdtree_jax.subject.preflight.seen import Seen, kernels_of, ramp

#: Fewer weights than this can agree by chance.
_FEWEST = 50


def same_network(first: Evidence, second: Evidence) -> Seen | None:
    """Return that all parameters are equal to within rounding."""
    same = all(np.allclose(leaf, second.params[name], rtol=1e-6, atol=1e-12) for name, leaf in first.params.items())
    return Seen(1.0, {"networks": None}) if same else None


def epochs_of_one_run(first: Evidence, second: Evidence) -> Seen | None:
    """Return that the kernels are nearly parallel, as no two random initializations are.

    Kernels of independent seeds have a cosine of about 0, and half of their signs agree. The last layer, and a network
    of one layer, may be the same from every seed (a convex problem): hidden layers alone are compared.
    """
    if same_network(first, second) is not None:
        return None
    k = first.outputs.shape[1]
    names = [name for name, leaf in kernels_of(first.params).items() if leaf.shape[-1] != k]
    a = np.concatenate([first.params[name].ravel() for name in names] or [np.empty(0)]).astype(np.float64)
    b = np.concatenate([second.params[name].ravel() for name in names] or [np.empty(0)]).astype(np.float64)
    if len(a) < _FEWEST or not a.any() or not b.any() or a.std() == 0:
        return None
    cosine = float(a @ b / np.sqrt((a @ a) * (b @ b)))
    signs = float(np.mean(np.sign(a) == np.sign(b)))
    strength = ramp(cosine, 0.5, 0.9) * ramp(signs, 0.55, 0.75)
    return Seen(strength, {"networks": None, "cosine": cosine, "signs": signs})


for _function in (same_network, epochs_of_one_run):
    FINDINGS.bind(_function.__name__, compare=_function)
