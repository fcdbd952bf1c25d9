"""Record a finished sweep: compact tables that are included in the package, and a note on recipe and cost.

    python -m mdtree_jax.sweep +grid=digits keep=metrics_only
    python -m sweeps.record digits run=runs/digits      # writes sweeps/digits*.parquet and sweeps/digits.md

`python -m sweeps.record digits` without `run=` only rewrites the note, from the recorded tables.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from mdtree_jax import load_collection
from mdtree_jax.collection.label_stability import STABLE, label_agreement, label_stability
from mdtree_jax.collection.moves import AXES
from mdtree_jax.files import records_folder, write_text
from mdtree_jax.report.tables import markdown
from mdtree_jax.store.record import Record, read_record, write_record
from mdtree_jax.store.tables import OK

#: Training error, percent, up to which a configuration counts as interpolating its data: the first split of the
#: published trees lies at 0.146 to 1 %.
INTERPOLATES = 0.5
STAGES = {
    "training": ("train",),
    "curves": ("connectivity",),
    "Hessian and sharpness": ("hessian", "sharpness"),
    "similarity, barriers": ("similarity", "barrier", "aligned", "ensemble"),
    "probes, short runs": ("norms", "probes", "short_runs"),
}


def regimes(collection: pd.DataFrame) -> list[str]:
    """Return sentences that describe the regimes of the grid."""
    fits = collection["train_error"] <= INTERPOLATES
    widths = np.sort(collection["width"].unique())
    never = [int(w) for w in widths if not fits[collection["width"] == w].any()]
    best = collection.loc[collection.groupby(["width", "data_fraction"])["test_error"].idxmin(), "batch_size"]
    inside = best.between(collection["batch_size"].min(), collection["batch_size"].max(), inclusive="neither")
    room = collection.groupby("width")["rfi_width"].mean()
    shown = ", ".join(f"{int(w)}: {r:.1f}" for w, r in room.items())
    return [
        f"{100 * fits.mean():.0f} % of the configurations interpolate (training error <= {INTERPOLATES:g} %)"
        + (f"; none of width {', '.join(map(str, never))} does." if never else "; some do at every width."),
        f"The best batch size lies inside the axis in {inside.sum()} of {len(inside)} slices of width and data.",
        f"Mean room for improvement from a wider network, in points, by width: {shown}.",
    ]


def cost_rows(record: Record) -> list[list[str]]:
    """Return hours and share of every stage: seconds of the tables' costs, and of compiling."""
    seconds = {}
    for stage, names in STAGES.items():
        tables = (record.networks, record.pairs)
        if found := [t[f"{n}_seconds"].sum() for n in names for t in tables if f"{n}_seconds" in t]:
            seconds[stage] = sum(found)
    seconds["compiling"] = record.about["compile_seconds"]
    total = sum(seconds.values())
    return [[stage, f"{s / 3600:.2f}", f"{100 * s / total:.0f}"] for stage, s in (seconds | {"all": total}).items()]


def _machine(hardware: dict) -> str:
    named = f"{hardware['num_cpus']} cores of {hardware['cpu']}"
    return f"{named} with {hardware['instructions']}" if hardware.get("instructions") else named


def made_by(record: Record) -> str:
    """Return commits, machines, packages and dates of a record in one line."""
    sessions = record.about["sessions"]
    commits = dict.fromkeys(str(s["git_commit"])[:10] for s in sessions)
    hardware = dict.fromkeys(_machine(s["hardware"]) for s in sessions)
    dates = [s["started"][:10] for s in sessions]
    versions = ", ".join(f"{name} {sessions[0]['packages'][name]}" for name in ("jax", "flax", "optax"))
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return f"commit {', '.join(commits)}, {', '.join(hardware)}, {versions}, {days}"


def cost_section(record: Record, num_configurations: int) -> list[str]:
    """Return the lines of a note on what a record cost."""
    costs, cores = cost_rows(record), record.about["sessions"][0]["hardware"]["num_cpus"]
    hours = float(costs[-1][1])
    per_hour = f"{num_configurations / (hours * cores):.0f}" if hours else "any number of"
    return [
        "## Cost",
        "",
        f"{hours:.1f} h on {cores} cores: {per_hour} configurations per core-hour, trained and measured. Wall-clock "
        "time, including pauses of the machine.",
        "",
        markdown(["stage", "hours", "%"], costs),
    ]


def note(record: Record) -> str:
    """Return the lab note of a record."""
    collection, networks = load_collection(record.collection), record.networks
    diverged = int((networks["status"] != OK).sum())
    errors = collection["test_error_se"]
    shape = " x ".join(str(collection[axis].nunique()) for axis in AXES)
    stability = [
        [r.task, str(r.models), f"{100 * r.agreement:.1f}", f"{100 * r.stable:.1f}"]
        for r in label_stability(label_agreement(networks)).itertuples()
    ]
    return "\n".join(
        [
            f"# Record of `{record.name}`",
            "",
            f"`python -m mdtree_jax.sweep +grid={record.name} keep=metrics_only`, then `python -m sweeps.record "
            f"{record.name}`; {made_by(record)}.",
            "",
            f"{shape} = {len(collection)} configurations of width, batch size and data, "
            f"{len(networks) / len(collection):g} networks each, {diverged} of {len(networks)} diverged; test error "
            f"{collection['test_error'].min():.1f} to {collection['test_error'].max():.1f} %, its standard error "
            f"{errors.quantile(0.05):.1f} – {errors.median():.1f} – {errors.quantile(0.95):.1f} points (5, 50, 95 %).",
            "",
            *(f"- {sentence}" for sentence in regimes(collection)),
            "",
            "## Labels under a bootstrap over seeds",
            "",
            "*agreement*: share of 200 bootstrap draws that agree with the label of the means, in percent, averaged "
            f"over the models. *stable*: share of the models for which at least {100 * STABLE:g} % of the draws agree.",
            "",
            markdown(["task", "models", "agreement", "stable"], stability),
            "",
            *cost_section(record, len(collection)),
            "",
            f"`python -m mdtree_jax.sweep +grid={record.name} verify=20` retrains 20 of them and compares the results.",
            "",
        ]
    )


def main() -> None:
    """Write the record, if a run is given, and its note."""
    name, *options = sys.argv[1:]
    options = dict(option.split("=", 1) for option in options)
    record = write_record(options["run"], records_folder(), name) if "run" in options else read_record(name)
    text = note(record)
    write_text(records_folder() / f"{name}.md", text)
    print(text)


if __name__ == "__main__":
    main()
