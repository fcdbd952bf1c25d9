"""What a preflight saw of a network, as data; `mdtree_jax.diagnosis.words.findings` says it. No JAX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdtree_jax.registry.findings import FINDINGS, FindingKind

#: From this strength on a finding is told; weaker ones are kept as evidence.
TOLD = 0.5


@dataclass(frozen=True)
class Finding:
    """One finding: its kind, how sure it is, and the measured values.

    Attributes:
        kind: a name of `FINDINGS`.
        strength: how sure, in [0, 1]; told from `TOLD` on.
        values: by name, plain ones as JSON holds them.

    Raises:
        UserError: an unknown kind.
        TypeError: values that are not those of the kind.
    """

    kind: str
    strength: float
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.values) != set(self.entry.values):
            raise TypeError(f"a finding '{self.kind}' has the values {self.entry.values}, not {tuple(self.values)}")

    @property
    def entry(self) -> FindingKind:
        """Its entry of the table."""
        return FINDINGS.find(self.kind)

    @property
    def cause(self) -> str | None:
        """The cause that it becomes, None for a symptom."""
        return self.entry.cause

    @property
    def is_told(self) -> bool:
        """Whether it is sure enough to be told."""
        return self.strength >= TOLD

    def to_dict(self) -> dict[str, Any]:
        """Return kind, strength, cause and values as one dictionary."""
        return {"kind": self.kind, "strength": self.strength, "cause": self.cause, **self.values}


def causes_of(findings: list[Finding]) -> dict[str, float]:
    """Return cause -> the largest strength of the findings that become it, of those that are told, the surest first."""
    strengths: dict[str, float] = {}
    for finding in findings:
        if finding.is_told and finding.cause is not None:
            strengths[finding.cause] = max(finding.strength, strengths.get(finding.cause, 0.0))
    return dict(sorted(strengths.items(), key=lambda item: -item[1]))
