"""Does the diagnosis carry? What it gains on families that it has not seen, beside what users have, at equal cost.

    python -m sweeps.gains                           # every recorded family; writes sweeps/gains.md
    python -m sweeps.gains a b c out=some.md         # these
    python -m sweeps.gains package=true              # and the model that a diagnosis comes with

The report families are predicted from the others and stand in tables of their own; everything else is measured with
one data source left out at a time, and every choice made on the sources that are left
(`mdtree_jax.experiments.carry`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.causes.gain_model import GainModel
from mdtree_jax.causes.repaired import SURE_BY
from mdtree_jax.diagnosis import gain_reference
from mdtree_jax.experiments.carry import networks as of
from mdtree_jax.experiments.carry import rivals, scores
from mdtree_jax.experiments.carry.networks import Networks
from mdtree_jax.experiments.carry.policies import LEVELS, advised
from mdtree_jax.experiments.carry.predict import REPORT, Carried, carry, fitted_policy
from mdtree_jax.files import record_names, records_folder, write_text
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.probes import CHECKPOINT, DEFAULT_PROBES, REFRESHED
from mdtree_jax.registry.remedies import COMPARISONS
from mdtree_jax.report.tables import markdown
from sweeps.families import FAMILIES
from sweeps.networks import family_networks
from sweeps.provenance import provenance

#: The level at which causes are compared.
JOINT_LEVEL = 0.25
#: About so many test examples do the families have, by which the standard error of a test error is judged.
NUM_TEST = 3000


def load(names: Sequence[str], folder: Path | None = None) -> Networks:
    """Return the networks of recorded families; the source of those that are kept for the report is `REPORT`."""
    kept = {family.name for family in FAMILIES if family.is_report}
    tables = [family_networks(name, folder) for name in names]
    table = pd.concat(tables, ignore_index=True)
    is_kept = table["family"].isin(kept)
    by = {name: table[name].where(~is_kept, REPORT) for name in ("source", "architecture")}
    return of.as_networks(table.assign(**by, by_family=table["family"].where(~is_kept, REPORT)))


def optimizer_question(networks: Networks, predicted: np.ndarray) -> tuple[float, pd.Series, pd.Series]:
    """Return the balanced accuracy on hard cases; the accuracy by family, and the number of hard cases."""
    hard, truth = of.hard_rows(networks, of.standard_errors(networks))
    told = of.temperature(networks, np.where(np.isfinite(networks.gain), predicted, np.nan)) > 0
    family = networks.table["family"].to_numpy()
    by = {one: (told == truth)[hard & (family == one)] for one in pd.unique(family)}
    accuracy = pd.Series({one: part.mean() if len(part) else np.nan for one, part in by.items()})
    return scores.balanced(truth[hard], told[hard]), accuracy, pd.Series({one: len(part) for one, part in by.items()})


def joint(networks: Networks, values: np.ndarray) -> tuple[float, float, float]:
    """Return the accuracy of the joint label, of its surest half, and of the label with free remedies first."""
    worth = np.nanmax(networks.gain, axis=1) >= 1
    right = of.cause_of(networks, values) == of.cause_of(networks, networks.gain)
    sure = scores.surest(networks, values)
    half = sure >= np.median(sure[worth])
    free = of.cause_of(networks, values, True) == of.cause_of(networks, networks.gain, True)
    return right[worth].mean(), right[worth & half].mean(), free[worth].mean()


def only(carried: Carried, rows: np.ndarray) -> Carried:
    """Return the predictions of some rows."""
    arrays = {name: value[rows] for name, value in carried._asdict().items() if isinstance(value, np.ndarray)}
    tables = {
        name: {key: value[rows] for key, value in getattr(carried, name).items()}
        for name in ("causes", "answers", "sure")
    }
    return carried._replace(**arrays, **tables)


def interval(found: scores.Interval, sign: bool = False) -> str:
    """Return a mean with its interval."""
    form = "+.2f" if sign else ".2f"
    return f"{found.mean:{form}} ({found.low:{form}} to {found.high:{form}})"


def main_row(networks: Networks, cost: float, found: Carried) -> list[str]:
    """Return the row of a level of cost in the main table."""
    gained = of.gain_of(networks, advised(found.scores))
    balanced, by_family, number = optimizer_question(networks, found.predicted)
    least = by_family[number >= 10]
    worst = f"least {least.min():.2f}, {least.idxmin()}; {number.sum()} networks" if len(least) else "few networks"
    accuracy, surest, free = joint(networks, found.scores)
    told = scores.answering(networks, found.answers, found.sure)
    cover = scores.coverage(networks, found.low, found.high)
    return [
        f"{100 * cost:.0f} %",
        f"{found.cost.mean():.2f}",
        interval(scores.bootstrap(networks, gained)),
        f"{balanced:.2f} ({worst})",
        f"{accuracy:.2f}, {surest:.2f}, {free:.2f}",
        f"{100 * told.answered:.0f} %, {100 * told.right:.0f} %",
        f"{told.calibration:.0f}",
        f"{100 * cover.mean():.0f} %, {100 * cover.min():.0f} % ({cover.idxmin()})",
    ]


MAIN = [
    "cost allowed", "cost", "share of the best gain", "optimizer question, hard, balanced",
    "joint label: all, surest half, free first", "answered, of these right", "calibration error, points",
    "80 % intervals hold: mean, least family",
]  # fmt: skip


def rival_rows(networks: Networks, rows: np.ndarray, cost: float, found: Carried) -> list[list[str]]:
    """Return the rows of the rivals at a level of cost: share, and how far the diagnosis is ahead, paired."""
    part = networks[rows]
    ours = of.gain_of(part, advised(found.scores[rows]))
    raced, race_price = rivals.plain_race(part, cost)
    halved, halving_price = rivals.successive_halving(part, cost)
    nothing = np.zeros(len(ours))
    listed = {
        "always the best fixed move": (rivals.best_fixed(networks)[rows], nothing),
        "forest on errors": (rivals.forest_on_errors(networks)[rows], nothing),
        "a person with the learning curve": (rivals.practitioner(part), nothing),
        "learning rate alone": (
            rivals.temperature_alone(part, found.predicted[rows], ("rate_up", "rate_down")),
            nothing,
        ),
        "batch size alone": (
            rivals.temperature_alone(part, found.predicted[rows], ("batch_up", "batch_down")),
            nothing,
        ),
        "race of all moves, one round": (raced, race_price),
        "successive halving": (halved, halving_price),
    }
    out = []
    for name, (choice, price) in listed.items():
        gained = of.gain_of(part, choice)
        ahead = scores.bootstrap(part, ours, gained)
        shown = [interval(scores.bootstrap(part, gained)), interval(ahead, sign=True)]
        out.append([f"{100 * cost:.0f} %", name, f"{price.mean():.2f}", *shown])
    return out


RIVALS = ["cost allowed", "advice", "cost", "share of the best gain", "the diagnosis is ahead by"]


def by_family(networks: Networks, found: Sequence[Carried]) -> list[list[str]]:
    """Return a row per family: its best gain, and the share that the diagnosis gains at every level."""
    best = pd.Series(of.best_gain(networks)).groupby(networks.table["family"].to_numpy()).mean()
    naive = (
        pd.Series(np.maximum(np.nanmax(networks.gain, axis=1), 0)).groupby(networks.table["family"].to_numpy()).mean()
    )
    parts = [of.shares(networks, of.gain_of(networks, advised(one.scores))) for one in found]
    _, accuracy, number = optimizer_question(networks, found[-1].predicted)
    return [
        [
            name,
            f"{best[name]:.1f}",
            f"{naive[name]:.1f}",
            *(f"{part[name]:.2f}" for part in parts),
            f"{accuracy[name]:.2f}",
            str(number[name]),
        ]
        for name in best.index
    ]


def confusion(networks: Networks, found: Carried) -> list[list[str]]:
    """Return the confusion of causes, true ones as rows, with precision and recall."""
    worth = np.nanmax(networks.gain, axis=1) >= 1
    _, names = of.causes(networks)
    true, told = of.cause_of(networks, networks.gain)[worth], of.cause_of(networks, found.scores)[worth]
    table = np.zeros((len(names), len(names)), int)
    np.add.at(table, (true, told), 1)
    right, all_true, all_told = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    return [
        [
            CAUSES[name].short,
            *map(str, table[place]),
            _ratio(right[place], all_true[place]),
            _ratio(right[place], all_told[place]),
        ]
        for place, name in enumerate(names)
    ]


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "–"


def tables_of(networks: Networks, rows: np.ndarray, found: Sequence[Carried]) -> list[str]:
    """Return the tables of some networks as lines."""
    part, levels = networks[rows], [only(one, rows) for one in found]
    main = [main_row(part, cost, one) for cost, one in zip(LEVELS, levels, strict=True)]
    raced = [
        row for cost, one in zip(LEVELS[1:], found[1:], strict=True) for row in rival_rows(networks, rows, cost, one)
    ]
    families = by_family(part, levels)
    _, causes = of.causes(part)
    header = [
        "family",
        "best gain, points",
        "naive",
        *(f"share at {100 * cost:.0f} %" for cost in LEVELS),
        "optimizer question",
        "hard cases",
    ]
    confused = ["gains most", *(f"told: {CAUSES[name].short}" for name in causes), "recall", "precision"]
    return [
        markdown(MAIN, main), "",
        f"By family; the optimizer question at {100 * LEVELS[-1]:.0f} %:", "", markdown(header, families), "",
        "Beside it:", "", markdown(RIVALS, raced), "",
        f"Causes at {100 * JOINT_LEVEL:.0f} %, networks that can gain a point:", "",
        markdown(confused, confusion(part, levels[LEVELS.index(JOINT_LEVEL)])), "",
    ]  # fmt: skip


def improved_rows(networks: Networks) -> list[list[str]]:
    """Return how often the best network that probes ended with is better than the given one, on the test examples.

    It is chosen among those whose validation error is surely lower (`causes.repaired.SURE_BY`).
    """
    table, rows = networks.table, []
    weight = 1 / table["family"].map(table["family"].value_counts()).to_numpy()
    policies = {cost: gain_reference.gain_reference().policy(cost).probes for cost in LEVELS[1:3]}
    sets = {f"{100 * cost:.0f} %": (REFRESHED, *probes) for cost, probes in policies.items()}
    sets["all probes"] = tuple(name for name in DEFAULT_PROBES if f"{name}_test_error" in table)
    for cost, names in sets.items():
        spread, after = (
            table[[f"{name}_{column}" for name in names]].to_numpy(float)
            for column in ("validation_error_change_se", "test_error")
        )
        change = table[[f"{name}_validation_error" for name in names]].to_numpy(float)
        change -= table[[f"{CHECKPOINT}_validation_error"]].to_numpy(float)
        with np.errstate(invalid="ignore"):
            sure = np.where(change < -SURE_BY * spread, change, np.inf)
        best = sure.argmin(axis=1)
        is_offered = np.isfinite(sure.min(axis=1))
        gained = table[f"{CHECKPOINT}_test_error"].to_numpy(float) - after[np.arange(len(best)), best]
        error = np.clip(table[f"{CHECKPOINT}_test_error"].to_numpy(float), 0.5, 99.5) / 100
        two = 200 * np.sqrt(error * (1 - error) / NUM_TEST)
        found = (is_offered, is_offered & (gained >= 1), is_offered & (gained <= -two))
        shares = [f"{100 * np.average(one, weights=weight):.1f} %" for one in found]
        rows.append([cost, ", ".join(names), *shares, f"{np.average(is_offered * gained, weights=weight):.1f}"])
    return rows


def without_history(networks: Networks) -> list[list[str]]:
    """Return the rows of the main table for networks whose training history is not known."""
    unknown = [name for name in networks.table if str(name).startswith("history_")]
    fewer = of.as_networks(networks.table.drop(columns=unknown))
    return [main_row(fewer, cost, carry(fewer, cost)) for cost in LEVELS[:2]]


def policy_rows(found: Sequence[Carried]) -> list[list[str]]:
    """Return what was chosen when each source was left out."""
    return [
        [f"{100 * cost:.0f} %", left_out, ", ".join(p.groups), ", ".join(p.probes) or "–", f"{p.ridge:g}, {p.within:g}",
         f"{p.racers} for 1/{p.share}, weight {p.weight:g}" if p.racers else "–"]
        for cost, one in zip(LEVELS, found, strict=True) for left_out, p in one.policies.items()
    ]  # fmt: skip


def package(networks: Networks, names: Sequence[str]) -> None:
    """Write the model that a diagnosis comes with, from the families that are not kept for the report."""
    inside = networks[(networks.table["source"] != REPORT).to_numpy()]
    policies = [fitted_policy(inside, cost, "source")._replace(cost=cost) for cost in LEVELS]
    model = GainModel.fit(inside.table, "source", policies[0].ridge, policies[0].within)
    about: dict[str, Any] = {"families": [name for name in names if name in set(inside.table["family"])]}
    reference = gain_reference.GainReference(model, tuple(policies), about)
    path = records_folder().parent / "mdtree_jax" / "diagnosis" / "reference_files" / gain_reference.FILE
    gain_reference.write_gain_reference(reference, path)
    print(f"{path.name}: {len(model.table)} networks, {path.stat().st_size / 1e6:.2f} MB, {policies}")


def main() -> None:
    """Measure and write."""
    options = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
    asked = [a for a in sys.argv[1:] if "=" not in a]
    folder = Path(options["folder"]) if "folder" in options else None
    names = asked or [f.name for f in FAMILIES if folder or f.name in record_names()]
    start = time.perf_counter()
    networks = load(names, folder)
    if "package" in options:
        package(networks, names)
        return
    found = [carry(networks, cost) for cost in LEVELS]
    is_kept = (networks.table["source"] == REPORT).to_numpy()
    lines = ["# What the diagnosis gains", "", provenance(start), "", "## Sources left out one at a time", ""]
    lines += tables_of(networks, ~is_kept, found)
    if is_kept.any():
        lines += [
            "## Families kept for the report, predicted from those above",
            "",
            *tables_of(networks, is_kept, found),
        ]
    for by, title in (("by_family", "families"), ("architecture", "architectures")):
        rows = [main_row(networks[~is_kept], cost, only(carry(networks, cost, by), ~is_kept)) for cost in LEVELS[:3]]
        lines += [f"## One of the {title} left out at a time", "", markdown(MAIN, rows), ""]
    extra = [
        main_row(networks[~is_kept], cost, only(carry(networks, cost, extra=("pair",)), ~is_kept))
        for cost in LEVELS[:2]
    ]
    lines += ["## With a second network", "", markdown(MAIN, extra), ""]
    lines += ["## Without the training history", "", markdown(MAIN, without_history(networks[~is_kept])), ""]
    header = ["cost", "probes", "another network is offered", "better by a point or more",
              "worse by two standard errors", "points gained, mean of all"]  # fmt: skip
    lines += ["## The improved network", "", markdown(header, improved_rows(networks)), ""]
    chosen = ["cost", "left out", "evidence", "probes", "ridge, within", "race"]
    lines += ["## What was chosen", "", markdown(chosen, policy_rows(found)), ""]
    asks = "; ".join(f"**{one.name}**: {one.sentence}" for one in COMPARISONS.values())
    lines += [f"Questions: {asks}", ""]
    text = "\n".join(lines)
    write_text(Path(options.get("out", records_folder() / "gains.md")), text)
    print(text)


if __name__ == "__main__":
    main()
