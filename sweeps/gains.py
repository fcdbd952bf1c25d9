"""Does the diagnosis carry? What it gains on families that it has not seen, beside what users have, at equal cost.

    python -m sweeps.gains                       # every recorded family; writes sweeps/gains.md
    python -m sweeps.gains a b c out=some.md     # these

The report families are predicted from the others and stand in a column of their own; everything else is measured with
one data source left out at a time, and every choice made on the sources that are left
(`mdtree_jax.experiments.carry`).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from mdtree_jax.experiments import carry
from mdtree_jax.files import record_names, write_text
from mdtree_jax.report.tables import markdown
from sweeps.families import FAMILIES
from sweeps.networks import family_networks
from sweeps.provenance import provenance


def load(names: list[str], folder: Path | None = None) -> carry.Networks:
    """Return the networks of recorded families."""
    return carry.as_networks(pd.concat([family_networks(name, folder) for name in names], ignore_index=True))


def optimizer_question(networks: carry.Networks, predicted: np.ndarray) -> tuple[float, pd.Series, float]:
    """Return the balanced accuracy on hard cases, mean over families; by family; the share of rows that are hard."""
    hard, truth = carry.hard_rows(networks, carry.standard_errors(networks))
    told = carry.temperature(networks, np.where(np.isfinite(networks.gain), predicted, np.nan)) > 0
    family = networks.table["family"].to_numpy()
    by = {one: carry.balanced(truth[r], told[r]) for one in pd.unique(family) if (r := hard & (family == one)).any()}
    return carry.balanced(truth[hard], told[hard]), pd.Series(by), float(hard.mean())


def joint(networks: carry.Networks, scores: np.ndarray) -> tuple[float, float, float]:
    """Return accuracy of the joint label, of its surest half, and of the label with free remedies first."""
    worth = np.nanmax(networks.gain, axis=1) >= 1
    right = carry.cause_of(networks, scores) == carry.cause_of(networks, networks.gain)
    sure = carry.surest(networks, scores)
    half = sure >= np.median(sure[worth])
    free = carry.cause_of(networks, scores, True) == carry.cause_of(networks, networks.gain, True)
    return right[worth].mean(), right[worth & half].mean(), free[worth].mean()


def rows_of(networks: carry.Networks) -> list[list[str]]:
    """Return the rows of the main table."""
    rows = []
    fixed = carry.gain_of(networks, carry.best_fixed(networks))
    for cost in carry.LEVELS:
        found = carry.carry(networks, cost)
        gained = carry.gain_of(networks, carry.advised(found.scores))
        share = carry.bootstrap(networks, gained)
        balanced, by_family, hard = optimizer_question(networks, found.predicted)
        accuracy, surest, free = joint(networks, found.scores)
        raced, price = carry.plain_race(networks, max(cost, 0.05))
        race = carry.bootstrap(networks, carry.gain_of(networks, raced))
        ahead = carry.bootstrap(networks, gained, fixed)
        rows.append(
            [
                f"{100 * cost:.0f} %",
                f"{found.cost.mean():.2f}",
                f"{share.mean:.2f} ({share.low:.2f} to {share.high:.2f})",
                f"{ahead.mean:+.2f} ({ahead.low:+.2f} to {ahead.high:+.2f})",
                f"{race.mean:.2f} at {price.mean():.2f}",
                f"{balanced:.2f} (least {by_family.min():.2f}, {by_family.idxmin()}; {100 * hard:.0f} %)",
                f"{accuracy:.2f}, {surest:.2f}",
                f"{free:.2f}",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
        print(
            "   ",
            {k: (p.groups[-1], p.probes, p.ridge, p.racers, p.share, p.weight) for k, p in found.policies.items()},
        )
        print("   ", carry.shares(networks, gained).round(2).to_dict())
    return rows


HEADER = [
    "cost allowed", "cost", "share of the best gain", "ahead of the best fixed move", "plain race",
    "optimizer question, hard, balanced", "joint label, all and surest half", "free first",
]  # fmt: skip


def main() -> None:
    """Measure and write."""
    options = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
    asked = [a for a in sys.argv[1:] if "=" not in a]
    folder = Path(options["folder"]) if "folder" in options else None
    known = [f.name for f in FAMILIES if folder or f.name in record_names()]
    names = asked or known
    report = {family.name for family in FAMILIES if family.is_report}
    start = time.perf_counter()
    networks = load([name for name in names if name not in report], folder)
    rows = rows_of(networks)
    text = "\n".join(["# What the diagnosis gains", "", provenance(start), "", markdown(HEADER, rows), ""])
    if "out" in options:
        write_text(Path(options["out"]), text)
    print(text)


if __name__ == "__main__":
    main()
