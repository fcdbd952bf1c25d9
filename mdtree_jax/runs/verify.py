"""Retrain and remeasure a sample of a record's configurations, and compare. No JAX.

On the kind of machine that created the record (processor, number of devices, versions of JAX), every number must be
identical to the last bit, because the results for a network depend only on its configuration, its seed and how its
cohort was executed. On other machines, sums are rounded in a different order and training diverges from the same start,
so the means over the seeds are compared: |a - b| <= 3 joint standard errors in at least 95 % of the values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.table import Table

from mdtree_jax.checks import UserError
from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.store.manifest import check_same_config
from mdtree_jax.store.record import Record
from mdtree_jax.store.tables import CONFIGURATION_COLUMNS, collect, further_knobs

#: Standard errors within which two means agree, and the share of the means that must.
JOINT_ERRORS, LEAST_SHARE = 3.0, 0.95
_COSTS = ("_seconds", "_flops")
_KEYS = {"networks": ["configuration", "seed"], "pairs": ["configuration", "seed_a", "seed_b"]}
_PACKAGES = ("jax", "jaxlib")


class Verification(NamedTuple):
    """How a sample of a record came out again.

    `metrics` has a row a metric: `values` and `identical` (numbers of networks or pairs), `expected` (those of them
    that must be identical, because a machine of this kind made them) and `found` (those of these that are), `means`,
    `within` (numbers of configurations) and `largest` (joint standard errors between the two means). `differs` says in
    what this machine is of another kind than those that made the rest, "" if there is no rest.
    """

    metrics: pd.DataFrame
    differs: str

    @property
    def share_identical(self) -> float:
        """Share of the values of networks and pairs that are the same to the last bit."""
        return self.metrics["identical"].sum() / self.metrics["values"].sum()

    @property
    def share_within(self) -> float:
        """Share of the means of configurations that lie within `JOINT_ERRORS` joint standard errors."""
        return self.metrics["within"].sum() / self.metrics["means"].sum()

    @property
    def same_kind(self) -> bool:
        """Whether all that was compared was recorded on a machine of this kind."""
        return not self.differs

    @property
    def passed(self) -> bool:
        """Whether the record is reproduced, by the rule for this kind of machine."""
        all_found = self.metrics["found"].sum() == self.metrics["expected"].sum()
        return bool(all_found and (self.same_kind or self.share_within >= LEAST_SHARE))


def sample_cohorts(cohorts: Sequence[Cohort], number: int, seed: int) -> tuple[Cohort, ...]:
    """Return the cohorts with the members of `number` random configurations only; raises `UserError` for a bad number.

    >>> from mdtree_jax.recipe.axes import Grid, make_cohorts
    >>> cohorts = make_cohorts(Grid((2, 4), (16,), data_fraction=(0.5, 1.0), num_seeds=3), 100)
    >>> [(c.key, len(c.members)) for c in sample_cohorts(cohorts, 1, seed=0)]
    [('w4-b16-e50', 3)]
    """
    there = sorted({member.index for cohort in cohorts for member in cohort.members})
    if not 1 <= number <= len(there):
        raise UserError(f"verify={number} is out of range; it must be 1 to {len(there)} configurations")
    chosen = set(np.random.default_rng(seed).choice(there, number, replace=False).tolist())
    parts = (dataclasses.replace(c, members=tuple(m for m in c.members if m.index in chosen)) for c in cohorts)
    return tuple(cohort for cohort in parts if cohort.members)


def check_same_recipe(record: Record, config: dict[str, Any], measure: dict[str, Any]) -> None:
    """Raise `UserError` naming every setting in which the record was made otherwise."""
    check_same_config(f"the record of '{record.name}'", record.about["config"], config)
    check_same_config(f"the record of '{record.name}'", record.about["measure"], measure)


def recorded_choice(record: Record, decode: Callable, choose: Callable) -> Callable:
    """Return how to choose a cohort's executor: as recorded, and anew where this machine cannot do that."""

    def chosen(recipe, cohort):
        recorded = record.executor(cohort.key)
        return (recorded and decode(recorded)) or choose(recipe, cohort)

    return chosen


def compare(record: Record, networks: pd.DataFrame, pairs: pd.DataFrame, session: dict[str, Any]) -> Verification:
    """Compare networks and pairs, trained and measured again in `session`, with those of the record."""
    differs = _differences(record, session)
    cohorts = record.networks.set_index("configuration")["cohort"].to_dict()
    again = {"networks": networks, "pairs": pairs}
    counts: dict[str, dict[str, Any]] = {}
    for table, frame in again.items():
        there = getattr(record, table)
        known = {*_KEYS[table], *CONFIGURATION_COLUMNS, *further_knobs(networks)}
        metrics = [c for c in there if c in frame and c not in known]
        # Rounded in the record, so compared as rounded; costs differ from run to run.
        metrics = [c for c in metrics if not c.endswith((*_COSTS, "_se")) and c != "cohort"]
        both = frame.merge(there, "left", on=_KEYS[table], suffixes=("", "_record"))
        for metric in metrics:
            same = [_is_same(a, b) for a, b in zip(both[metric], both[f"{metric}_record"], strict=True)]
            must = [cohorts[c] not in differs for c in both["configuration"]]
            counts[metric] = {"values": len(same), "identical": sum(same), "expected": sum(must)}
            counts[metric] |= {"found": sum(map(bool.__and__, same, must)), "means": 0, "within": 0, "largest": 0.0}
    chosen = record.networks["configuration"].isin(networks["configuration"])
    of_pairs = record.pairs["configuration"].isin(networks["configuration"])
    means, there = collect(networks, pairs), collect(record.networks[chosen], record.pairs[of_pairs])
    for metric in [m for m in counts if f"{m}_se" in there and m in means]:
        away = np.asarray(np.abs(means[metric] - there[metric]))
        error = np.asarray(np.hypot(means[f"{metric}_se"], there[f"{metric}_se"]))
        same = (away == 0) | (means[metric].isna() & there[metric].isna()).to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            joint = np.where(same, 0.0, np.where(np.isnan(away), np.inf, away / error))
        joint = joint[~np.isnan(joint)]  # means of too few networks or pairs to know their error
        if not len(joint):
            continue
        counts[metric] |= {"means": len(joint), "within": int((joint <= JOINT_ERRORS).sum()), "largest": joint.max()}
    table = pd.DataFrame.from_dict(counts, orient="index").rename_axis("metric").reset_index()
    compared = {cohorts[c] for c in networks["configuration"]}
    return Verification(table, next((why for cohort, why in differs.items() if cohort in compared), ""))


def _is_same(a: Any, b: Any) -> bool:
    nothing = [value is None or (isinstance(value, float) and np.isnan(value)) for value in (a, b)]
    if any(nothing) or isinstance(a, str):
        return all(nothing) or (not any(nothing) and a == b)
    return bool(np.array_equal(a, b, equal_nan=True))


def kind(session: dict[str, Any]) -> dict[str, Any]:
    """Return that of a session on which the last bits depend: processor, devices, versions of JAX."""
    hardware, packages = session["hardware"], session["packages"]
    devices = ", ".join(hardware["devices"])
    cpu = {name: hardware.get(name) for name in ("cpu", "instructions", "generation")}  # older records lack some
    return cpu | {"devices": devices} | {name: packages.get(name) for name in _PACKAGES}


def _differences(record: Record, session: dict[str, Any]) -> dict[str, str]:
    """Return, for every cohort that was not all made as a machine of this kind makes it now, what is different here."""
    here, found = kind(session), {}
    for made_by in record.about["sessions"]:
        there = kind(made_by)
        if here != there:
            unlike = [key for key in here if here[key] != there[key]]
            why = "; ".join(f"{key} {there[key] or 'not recorded'} there, {here[key]} here" for key in unlike)
            found |= dict.fromkeys(made_by["cohorts"], why)
    cohorts = record.networks["cohort"].unique()
    mixed = [cohort for cohort in cohorts if len(record.executors(cohort)) > 1]
    return dict.fromkeys(mixed, "executor of what was added to a cohort later") | found


def verification_table(found: Verification, title: str) -> Table:
    """Return the comparison as a table, a row a metric."""
    about = f"n: networks or pairs; near: within {JOINT_ERRORS:g} joint standard errors; most: the largest of these"
    table = Table(title=title, title_justify="left", caption=about, caption_justify="left")
    headings = ("metric", "n", "identical", "means", "near", "most")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "metric" else "right", no_wrap=True)
    for row in found.metrics.to_dict("records"):
        cells = [row["metric"], str(row["values"]), f"{100 * row['identical'] / row['values']:.4g} %"]
        cells += [str(row["means"]), str(row["within"]), f"{row['largest']:.2g}"] if row["means"] else ["", "", ""]
        table.add_row(*cells)
    return table


def verdict(found: Verification) -> str:
    """Return the outcome in one sentence."""
    kind = (
        "of the kind that created the record"
        if found.same_kind
        else f"in a part of another kind than the record's ({found.differs})"
    )
    rule = "all must be identical" if found.same_kind else f"{100 * LEAST_SHARE:g} % of the means must be within"
    return (
        f"{'reproduced' if found.passed else 'NOT reproduced'}: {100 * found.share_identical:.2f} % of the values are "
        f"identical, {100 * found.share_within:.2f} % of the means within {JOINT_ERRORS:g} joint standard errors; this "
        f"machine is {kind}, where {rule}"
    )
