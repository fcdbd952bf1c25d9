"""Preflight: what is wrong with a model, its data or its training, said before anything is measured. JAX and NumPy.

`preflight` gathers the `evidence` of each network in one compiled program (`look`, `units`) and asks every entry of
`mdtree_jax.registry.findings` (`inputs`, `outputs`, `layers`, `curves`, `preparation`, and `networks` for pairs).
What cannot be diagnosed is refused (`refusals`); everything else is a finding, and the diagnosis goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.diagnosis.findings import Finding
from mdtree_jax.registry.findings import FINDINGS

# Each binds its functions to their findings.
from mdtree_jax.subject.preflight import curves as _curves  # noqa: F401
from mdtree_jax.subject.preflight import inputs as _inputs  # noqa: F401
from mdtree_jax.subject.preflight import layers as _layers  # noqa: F401
from mdtree_jax.subject.preflight import networks as _networks  # noqa: F401
from mdtree_jax.subject.preflight import outputs as _outputs  # noqa: F401
from mdtree_jax.subject.preflight import preparation as _preparation  # noqa: F401
from mdtree_jax.subject.preflight.evidence import Evidence, gather
from mdtree_jax.subject.preflight.look import make_look
from mdtree_jax.subject.preflight.refusals import check_deterministic, check_targets

#: Strength from which a finding explains those that yield to its cause, and what is left of their strength.
SURE, WEAKENED = 0.9, 0.45

__all__ = ["Evidence", "find_in", "gather", "preflight"]


def preflight(
    apply: Callable[[Any, Any], Any],
    variables: Sequence[Any],
    x: Any,
    y: np.ndarray,
    *,
    wants: str = "logits",
    loss: Callable[[Any, Any], Any] | None = None,
    apply_train: Callable[[Any, Any], Any] | None = None,
    initial: Sequence[Any] | None = None,
    fresh: Any = None,
    validation: tuple[Any, np.ndarray] | None = None,
    histories: Sequence[pd.DataFrame | None] | None = None,
    training: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Return the findings about some networks, the surest first, each once: that of the network where it is strongest.

    Args:
        apply: `apply(variables, x) -> outputs (n, ..., k)` or (n,), in evaluation mode.
        variables: of each network: parameters, or a mapping of `params` and running averages.
        x: training inputs as the model takes them, a pytree of arrays (n, ...), in the order of training if it had one.
        y: training targets (n, ...): labels (integers, one-hot, 0 and 1), tokens or values.
        wants: what the loss takes: `logits`, `probabilities` or `values`.
        loss: `loss(outputs, targets) -> (n,)` as trained, or None.
        apply_train: `apply_train(variables, x) -> (outputs, variables)`, or None.
        initial: variables that each network started from, or None; weights of another seed will not do.
        fresh: variables of a fresh initialization from any seed, whose norms are looked at; or None.
        validation: held-out inputs and targets, or None.
        histories: of each network, with any of the columns epoch, step, train_loss, train_error, validation_loss,
            validation_error (%); or None.
        training: settings by name as far as known: batch_size, learning_rate, weight_decay, steps, shuffle.

    Raises:
        UserError: outputs that are not deterministic or not finite, targets that do not fit the outputs, probabilities
            where logits are wanted.
    """
    check_deterministic(apply, variables[0], x)
    look = make_look(apply, loss)
    evidence = [
        gather(
            apply,
            one,
            x,
            y,
            wants=wants,
            loss=loss,
            apply_train=apply_train,
            initial=None if initial is None else initial[i],
            fresh=fresh,
            validation=validation,
            history=None if histories is None else histories[i],
            training=training,
            look=look,
        )
        for i, one in enumerate(variables)
    ]
    for one in evidence:
        check_targets(one)
    return find_in(evidence)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def find_in(evidence: Sequence[Evidence]) -> list[Finding]:
    """Return the findings of networks whose evidence was gathered, the surest first, without those of no strength."""
    best: dict[str, Finding] = {}

    def keep(kind: str, seen: Any, networks: tuple[int, int] | None = None) -> None:
        if seen is None or seen.strength <= 0:
            return
        values = dict(seen.values) | ({"networks": list(networks)} if networks else {})
        if kind not in best or seen.strength > best[kind].strength:
            best[kind] = Finding(kind, float(seen.strength), {name: _plain(value) for name, value in values.items()})

    for kind in FINDINGS:
        if find := FINDINGS.bound(kind, "find"):
            for one in evidence:
                keep(kind, find(one))
        if compare := FINDINGS.bound(kind, "compare"):
            for (i, a), (j, b) in itertools.combinations(enumerate(evidence, 1), 2):
                keep(kind, compare(a, b), (i, j))
    weighed = [replace(finding, strength=_weighed(finding, best)) for finding in best.values()]
    return sorted(weighed, key=lambda finding: -finding.strength)


def _weighed(finding: Finding, found: Mapping[str, Finding]) -> float:
    """Return the strength of a finding, too weak to be told where a sure one of the causes that it yields to holds."""
    explained = any(
        other.cause in finding.entry.yields_to and _weighed(other, found) >= SURE for other in found.values()
    )
    return finding.strength * WEAKENED if explained else finding.strength
