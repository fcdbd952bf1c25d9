"""The families on which predictions that are to carry over are fitted and tested: one grid each.

A family is an architecture, a data source and an optimizer with its schedule. Four of them are *report families*: they
were named here before any network of any family was trained, nothing is chosen by looking at them, their learning
rates included, and they are predicted from the others alone. Later all grids went from four learning rates and three
widths to six and two, because too hot and too cold hardly occurred together in one family that is not kept for the
report. The report families follow by the same rule, one more rate on either side. Two of them, waves_gelu and
mnist1d_batchnorm, had been trained and predicted once on the former grid by then.

    python -m sweeps.families                            # every grid, one after the other, and its record
    python -m sweeps.families grammar_lm minutes=50      # these, for at most so long
    python -m sweeps.families cost                       # what training takes, by one small cohort of every width

A grid that is finished is recorded like the others (`sweeps.record`), with a note on what its moves gain. Whatever
stops the command, it goes on where it was. The grids themselves are `python -m mdtree_jax.sweep +grid=NAME`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.cli import compose
from mdtree_jax.files import record_names, records_folder, write_text
from mdtree_jax.report.tables import markdown

#: All records of the families together must stay below this.
MOST_BYTES = 15_000_000
#: Exit codes of a sweep that is finished: some of its networks may have diverged.
FINISHED = (0, 3)


@dataclass(frozen=True)
class Family:
    """One family; its grid has the same name.

    Attributes:
        name: of the grid.
        model: architecture.
        dataset: data source.
        optimizer, schedule: as in the grid.
        extras: further settings of the grid, of the family's kind rather than its axes.
        is_report: whether it is kept for the report.
    """

    name: str
    model: str
    dataset: str
    optimizer: str
    schedule: str
    extras: Mapping[str, Any] = field(default_factory=dict)
    is_report: bool = False


FAMILIES = (
    Family("digits_vit", "vit", "digits", "adamw", "warmup_cosine"),
    Family("mnist_cnn", "cnn", "mnist5k", "sgd", "step", {"label_noise_fraction": 0.1}),
    Family("mnist_resnet", "resnet8_fine", "mnist5k", "sgd", "cosine", {"label_smoothing": 0.1}),
    Family("mnist1d_cnn", "cnn1d", "mnist1d", "adam", "cosine"),
    Family("mnist1d_layernorm", "mlp_layernorm", "mnist1d", "adamw", "constant", {"weight_decay": 0.1}),
    Family("teacher_tanh", "mlp_tanh", "teacher", "sgd", "constant", {"label_noise_fraction": 0.15}),
    Family("tabular_gelu", "mlp_gelu", "tabular", "muon", "linear"),
    Family("shapes_groupnorm", "cnn_gn", "shapes", "lion", "cosine", {"augment": True}),
    Family("friedman_relu", "mlp_relu", "friedman", "adam", "step", {"objective": "regression"}),
    Family("grammar_lm", "char_transformer", "grammar", "adamw", "warmup_cosine", {"objective": "lm"}),
    Family("gratings_batchnorm", "cnn_bn", "gratings", "sgd", "cosine", is_report=True),
    Family("shapes_vit", "vit", "shapes", "adamw", "warmup_cosine", {"label_smoothing": 0.1}, is_report=True),
    Family("waves_gelu", "mlp_gelu", "waves", "adamw", "cosine", {"objective": "regression"}, is_report=True),
    Family("mnist1d_batchnorm", "mlp", "mnist1d", "sgd", "step", {"label_noise_fraction": 0.1}, is_report=True),
)
REPORT = tuple(family.name for family in FAMILIES if family.is_report)


def named(names: Sequence[str]) -> tuple[Family, ...]:
    """Return the families of these names; raises `UserError` for one that is none."""
    known = {family.name: family for family in FAMILIES}
    return tuple(known[check_choice("family", name, known)] for name in names)


def run_grids(families: Sequence[Family], runs: Path, minutes: float | None) -> bool:
    """Run the grids that have no record yet one after the other, for at most so long; return whether all are done."""
    stop = None if minutes is None else time.perf_counter() + 60 * minutes
    missing = [family for family in families if family.name not in record_names()]
    planned = {family.name: planned_seconds(family.name, runs / family.name) for family in missing}
    taken = expected = 0.0
    for place, family in enumerate(missing):
        left = sum(planned[later.name] for later in missing[place:]) * (taken / expected if expected else 1.0)
        print(f"{family.name}: grid {place + 1} of {len(missing)} to run; about {left / 60:.0f} min left in all")
        start = time.perf_counter()
        if not run_grid(family.name, runs / family.name, stop):
            print(f"{family.name}: the time is over; the same command goes on from here")
            return False
        taken, expected = taken + time.perf_counter() - start, expected + planned[family.name]
        record(family.name, runs / family.name)
    return True


def run_grid(name: str, out: Path, stop: float | None) -> bool:
    """Run the sweep of a grid until it is finished or the clock is at `stop`; return whether it is finished.

    Raises:
        UserError: the sweep failed.
    """
    command = [sys.executable, "-m", "mdtree_jax.sweep", f"+grid={name}", "keep=metrics_only", f"out={out}"]
    with subprocess.Popen(command) as process:
        try:
            code = process.wait(None if stop is None else max(stop - time.perf_counter(), 1.0))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return False
    if code not in FINISHED:
        raise UserError(f"the sweep of '{name}' ended with exit code {code}; its messages are above")
    return True


def planned_seconds(name: str, out: Path) -> float:
    """Return what the sweep of a grid is planned to take here, without what its run folder has already."""
    from mdtree_jax.data import dataset_shape
    from mdtree_jax.recipe.axes import make_cohorts
    from mdtree_jax.recipe.schema import make_grid, resolved_config
    from mdtree_jax.runs.extend import members_by_key
    from mdtree_jax.runs.jax_backend import plan_here, set_up_jax
    from mdtree_jax.store.folder import read_parts

    config = compose("sweep", [f"+grid={name}", f"out={out}"])
    set_up_jax(config)
    shape = dataset_shape(config.grid.dataset, objective=config.grid.objective)
    cohorts = make_cohorts(make_grid(config.grid), shape.num_train)
    parts = read_parts(out, resolved_config(config.grid), members_by_key(cohorts))
    return float(plan_here(config, cohorts, shape, parts)["estimated_seconds"].sum())


def record(name: str, out: Path) -> None:
    """Write the record of a finished grid and its note; raises `UserError` if the records become too large."""
    from mdtree_jax.store.record import write_record
    from sweeps.family_note import note

    written = write_record(out, records_folder(), name)
    write_text(records_folder() / f"{name}.md", note(written))
    size = sum(p.stat().st_size for family in FAMILIES for p in records_folder().glob(f"{family.name}[.-]*parquet"))
    print(f"{name}: recorded; the records of the families take {size / 1e6:.1f} MB")
    if size > MOST_BYTES:
        raise UserError(f"the records of the families take {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f} MB")


def cost_row(family: Family) -> list[str]:
    """Return name, parameters, steps and core-minutes of training a family's grid, measured by small cohorts.

    At every width, the smallest subset and the smaller batch, for two epochs; a step's time is that of the processor,
    so that other load does not count, and is taken to be proportional to the batch.
    """
    from mdtree_jax.models import count_parameters
    from mdtree_jax.population.programs import model_of
    from mdtree_jax.population.train import train_cohort
    from mdtree_jax.runs.jax_backend import set_up_jax
    from mdtree_jax.sweep import prepare

    config = compose("sweep", [f"+grid={family.name}"])
    set_up_jax(config)
    recipe, cohorts, data, _ = prepare(config)
    smallest = min(cohort.batch_size for cohort in cohorts)
    sizes, seconds, steps, rates = [], 0.0, 0, []
    for width in sorted({cohort.width for cohort in cohorts}):
        of_width = [cohort for cohort in cohorts if cohort.width == width]
        first = next(cohort for cohort in of_width if cohort.batch_size == smallest)
        fewest = min(member.num_samples for member in first.members)
        few = tuple(member for member in first.members if member.num_samples == fewest)
        small = replace(first, train_epochs=2, members=few)
        train_cohort(recipe, small, data)  # compiles
        start = resource.getrusage(resource.RUSAGE_SELF)
        train_cohort(recipe, small, data)
        end = resource.getrusage(resource.RUSAGE_SELF)
        used = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
        rate = used / (2 * len(few) * (fewest // smallest) * smallest)
        rates.append(f"{1e3 * rate * smallest:.2f}")
        for cohort in of_width:
            done = sum(m.num_samples // cohort.batch_size for m in cohort.members) * cohort.train_epochs
            seconds, steps = seconds + rate * cohort.batch_size * done, steps + done
        sizes.append(count_parameters(model_of(recipe, first)))
    shown = f"{min(sizes)} – {max(sizes)}"
    return [family.name, shown, ", ".join(rates), f"{steps / 1e6:.2f}", f"{seconds / 60:.1f}"]


def main() -> None:
    """Run the grids that are named, or all; or show what they cost."""
    options = dict(one.split("=", 1) for one in sys.argv[1:] if "=" in one)
    names = [one for one in sys.argv[1:] if "=" not in one]
    chosen = named([name for name in names if name != "cost"]) or FAMILIES
    if "cost" in names:
        header = ["family", "parameters", "ms a step, by width", "million steps", "core-minutes"]
        rows = []
        for family in chosen:
            rows.append(cost_row(family))
            print(" ".join(rows[-1]), flush=True)
        print(markdown(header, rows))
        return
    minutes = float(options["minutes"]) if "minutes" in options else None
    sys.exit(0 if run_grids(chosen, Path("runs"), minutes) else 1)


if __name__ == "__main__":
    main()
