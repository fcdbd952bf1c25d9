"""The preflight of a situation, through its public interface."""

from __future__ import annotations

import functools

import jax

from mdtree_jax.diagnosis.findings import Finding
from mdtree_jax.subject.preflight import preflight
from tests.faults.training import Situation


def findings_of(situation: Situation) -> list[Finding]:
    """Return what preflight finds: half of the test side is held out, the initial weights are not known."""
    x, y, x_test, y_test = situation.data
    half = len(x_test) // 2
    return preflight(
        situation.apply,
        situation.networks,
        x,
        y,
        wants=situation.spec.wants,
        loss=situation.loss,
        validation=(x_test[:half], y_test[:half]),
        histories=situation.histories,
        training=situation.settings,
        fresh=situation.init(jax.random.key(99)),
    )


@functools.cache
def told(situation_of, name: str) -> tuple[str, ...]:
    """Return the names of the findings that are told of `situation_of(name)`, the surest first."""
    return tuple(finding.kind for finding in findings_of(situation_of(name)) if finding.is_told)
