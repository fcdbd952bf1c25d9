"""The networks of many families on which expected gains are fitted, packaged. No JAX.

`python -m sweeps.gains package=true` writes the file from the records of the families that are not kept for the report.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from mdtree_jax.causes.evidence import EVIDENCE, Evidence
from mdtree_jax.causes.gain_answers import Sureness, sureness_of
from mdtree_jax.causes.gain_model import GainModel
from mdtree_jax.registry.probes import CHECKPOINT, PROBES, REFRESHED

FILE = "gains.parquet"
#: Groups of evidence that cost no training.
FREE = ("errors", "history", "norms", "landscape")
_KEY = b"mdtree_jax"


class Policy(NamedTuple):
    """What is measured at a cost, and how it is decided; chosen on the families of the reference.

    Attributes:
        groups: groups of evidence that are used.
        probes: probes that are run.
        ridge: strength of the ridge.
        within: share of the differences between families that has no part in the fit.
        racers: number of remedies that race; 0 for no race.
        share: 1/n of the steps that they are trained for.
        weight: points of predicted gain that a point of the race counts.
        narrowing: spread of the gains of racers relative to that without a race.
        cost: largest, in units of one training.
    """

    groups: tuple[str, ...] = FREE
    probes: tuple[str, ...] = ()
    ridge: float = 0.3
    within: float = 0.0
    racers: int = 0
    share: int = 16
    weight: float = 1.0
    narrowing: float = 1.0
    cost: float = 0.0

    def features(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of some features that the policy measures."""
        measured = {*self.probes, CHECKPOINT, REFRESHED}

        def is_used(entry: Evidence) -> bool:
            asked = {need.split("_")[0] for need in entry.needs} & {CHECKPOINT, *PROBES}
            return asked <= measured if entry.group == "probes" else entry.group in self.groups

        return tuple(name for name in names if is_used(EVIDENCE[name]))


@dataclass(frozen=True, eq=False)
class GainReference:
    """The model of gains with what was chosen for it.

    Attributes:
        model: of gains.
        policies: in the order of their cost.
        about: commit, families and date.
    """

    model: GainModel
    policies: tuple[Policy, ...] = (Policy(),)
    about: Mapping[str, Any] = field(default_factory=dict)

    def policy(self, cost: float) -> Policy:
        """Return the policy of the largest cost that is allowed."""
        return [one for one in self.policies if one.cost <= cost + 1e-9 or one is self.policies[0]][-1]

    @functools.cache  # noqa: B019 - of a few policies, as long as the reference lives
    def model_of(self, policy: Policy) -> GainModel:
        """Return the model as a policy fits it."""
        return replace(self.model, ridge=policy.ridge, within=policy.within)

    @functools.lru_cache(maxsize=64)  # noqa: B019 - as long as the reference lives
    def sure(self, policy: Policy, features: tuple[str, ...]) -> Mapping[str, Sureness]:
        """Return question -> how sure its answer is where these features are known."""
        return sureness_of(self.model_of(policy), features)

    def features(self, policy: Policy) -> tuple[str, ...]:
        """Return the features that a policy uses; those of pairs of networks are used wherever they are known."""
        return policy._replace(groups=(*policy.groups, "pair")).features(self.model.features)


@functools.cache
def gain_reference() -> GainReference:
    """Return the packaged reference."""
    with resources.as_file(resources.files(__name__.rpartition(".")[0]) / "reference_files" / FILE) as path:
        return read_gain_reference(path)


def read_gain_reference(path: Path) -> GainReference:
    """Return a reference from its file."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    about = json.loads((table.schema.metadata or {})[_KEY])
    policies = tuple(Policy(**one) for one in about.pop("policies"))
    policies = tuple(one._replace(groups=tuple(one.groups), probes=tuple(one.probes)) for one in policies)
    model = GainModel(table.to_pandas(), about.pop("ridge"), about.pop("within", 0.0))
    return GainReference(model, policies, about)


def write_gain_reference(reference: GainReference, path: Path) -> None:
    """Write a reference to its file; numbers are rounded to float32."""
    import pyarrow as pa
    from pyarrow import parquet

    from mdtree_jax.files import write_atomically

    frame = reference.model.table
    numbers = frame.select_dtypes("number").columns
    table = pa.Table.from_pandas(frame.assign(**{name: frame[name].astype("float32") for name in numbers}))
    about = dict(reference.about) | {
        "policies": [one._asdict() for one in reference.policies],
        "ridge": reference.model.ridge,
        "within": reference.model.within,
    }
    table = table.replace_schema_metadata({_KEY: json.dumps(about).encode()})
    write_atomically(path, lambda new: parquet.write_table(table, new, compression="zstd"))
