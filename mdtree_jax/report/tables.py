"""Results of the transfer experiments as tables: for the terminal (rich) and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mdtree_jax.causes.method_protocol import JOINT_TASKS
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.experiments.coverage import COVERAGES
from mdtree_jax.experiments.method_table import METHOD_TABLE
from mdtree_jax.experiments.one_step import STEPS
from mdtree_jax.experiments.runner import PUBLISHED_SEEDS, get_experiment
from mdtree_jax.experiments.sampling import SAMPLINGS
from mdtree_jax.experiments.suite import Tables
from mdtree_jax.files import write_text, written_aside
from mdtree_jax.report.paper import CASES
from mdtree_jax.report.statistics import over_seeds, with_interval

PUBLISHED_PAIR = ("published/F", "published/F_noise")
_REFERENCE_LABELS = {"random": "random advice", "oracle": "oracle"}


def method_label(name: str) -> str:
    """Return a method's name for people."""
    known = METHOD_TABLE.get(name)
    return known.label if known else _REFERENCE_LABELS.get(name, name)


def title_of(experiment: str) -> str:
    """Return what an experiment of transfer asks and trains on, in words.

    >>> title_of("q1_scale_width")
    'Training temperature, trained on the narrowest networks (Fig. 3c)'
    """
    about = get_experiment(experiment)
    task = JOINT_TASKS[about.task] if about.task in JOINT_TASKS else TASKS[about.task]
    shown = f" ({about.figure})" if about.figure.startswith("Fig.") else ""
    return f"{task.title}, trained on {SAMPLINGS[about.sampling].words}{shown}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all but the first column are right-aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def as_frame(header: Sequence[str], rows: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return rows as a table for a notebook, the first column as its index."""
    return pd.DataFrame(rows, columns=list(header)).set_index(header[0])


def paper_rows(results: pd.DataFrame, *, short: bool = False) -> list[list[str]]:
    """Return the paper's table beside ours; the training side stands in words unless `short`."""
    means = over_seeds(results, ["experiment", "k", "method"], "accuracy").to_dict("index")
    rows = []
    for case in CASES:
        for method, published in case.accuracy.items():
            key = (case.experiment, case.k, method)
            if ours := means.get(key):
                side = f"{case.number}. {case.experiment}, {f'k={case.k}' if short else case.training_side}"
                shown = with_interval(ours["mean"], ours["half_width"])
                rows.append([side, method_label(method), f"{published:.2f}", shown, f"{ours['mean'] - published:+.2f}"])
    return rows


PAPER_HEADER = ["case", "method", "paper", "ours", "difference"]


def curve_rows(results: pd.DataFrame, experiment: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of one experiment: a row a sample size, a column a method, accuracy in percent."""
    part = results[results["experiment"] == experiment]
    means = over_seeds(part, ["k", "method"], "accuracy").to_dict("index")
    methods = list(dict.fromkeys(part["method"]))
    sizes = part.groupby("k", sort=False)["n_train"].mean()
    rows = []
    for k, n_train in sizes.items():
        cells = [means.get((k, m)) for m in methods]
        shown = [with_interval(c["mean"], c["half_width"]) if c else "–" for c in cells]
        rows.append([str(k), f"{n_train:.6g}", *shown])
    average = part.groupby("method")["accuracy"].mean()
    rows.append(["mean", "", *(f"{average[m]:.2f}" for m in methods)])
    return ["k", "training models", *map(method_label, methods)], rows


def one_step_rows(one_step: pd.DataFrame, task: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the gains of one task: clipped as published, and with losses included."""
    part = one_step[one_step["task"] == task]
    columns = {kind: over_seeds(part, ["method", "step"], kind).to_dict("index") for kind in ("gain", "gain_unclipped")}
    rows = []
    for method in dict.fromkeys(part["method"]):
        cells = [method_label(method)]
        for table in columns.values():
            means = [table[method, step] for step in STEPS]
            cells += [with_interval(found["mean"], found["half_width"], 3) for found in means]
        oracle = columns["gain"]["oracle", "optimal"]["mean"] if "oracle" in set(part["method"]) else np.nan
        share = 100 * columns["gain"][method, "optimal"]["mean"] / oracle if oracle else np.nan
        rows.append([*cells, f"{share:.1f}"])
    header = ["method", *STEPS, *(f"{step}, losses included" for step in STEPS), "% of the oracle, optimal"]
    return header, rows


COVERAGE_HEADER = ["task", "method", *(f"{c} %" for c in COVERAGES), "calibration error"]


def coverage_rows(coverage: pd.DataFrame, *, intervals: bool = True) -> list[list[str]]:
    """Return accuracy on the surest models: a row a task and method, a column a coverage, percent."""
    rows = []
    for (task, method), part in coverage.groupby(["task", "method"], sort=False):
        ends = [f" ({r.low:.1f} … {r.high:.1f})" if intervals else "" for r in part.itertuples()]
        cells = [f"{r.accuracy:.1f}{end}" for r, end in zip(part.itertuples(), ends, strict=True)]
        rows.append([str(task), method_label(str(method)), *cells, f"{part.calibration_error.iloc[0]:.1f}"])
    return rows


def tables_markdown(measured: Tables, *, train: str, test: str, seeds: Sequence[int], notes: Sequence[str]) -> str:
    """Return the text of `tables.md`: the paper's table beside ours, every curve, one-step gains, what was skipped."""
    results, one_step = measured.results, measured.one_step
    where = f"trained on {train}, tested on {test}"
    parts = [
        "# Transfer of diagnostic trees",
        f"{where[0].upper()}{where[1:]}. Seeds ({len(seeds)}): {_seed_text(seeds)}.",
        "Values are means over the seeds; ± is half the 95 % interval of the mean (Student's t), omitted if every seed "
        "gives the same value or there is one seed.",
    ]
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    paper = paper_rows(results) if (train, test) == PUBLISHED_PAIR else []
    if paper:
        parts += ["## The paper's table beside ours", "Accuracy on F′ in percent."]
        if tuple(seeds) != PUBLISHED_SEEDS:
            parts.append(
                f"The paper's are means over its five seeds {_seed_text(PUBLISHED_SEEDS)}, ours over the seeds above."
            )
        parts.append(markdown(PAPER_HEADER, paper))
    for name in dict.fromkeys(results["experiment"]):
        experiment = get_experiment(name)
        unit = SAMPLINGS[experiment.sampling].unit
        parts += [f"## {title_of(name)}", f"`{name}`, task `{experiment.task}`; k: {unit}. Accuracy in percent."]
        parts.append(markdown(*curve_rows(results, name)))
    for task in dict.fromkeys(one_step["task"]):
        parts.append(f"## One step, task {task}")
        parts.append("Gain in points of test accuracy from one step in the advised direction, clipped at 0 as "
                     "published and with losses included.")  # fmt: skip
        parts.append(markdown(*one_step_rows(one_step, task)))
    if len(measured.coverage):
        parts.append("## Accuracy against coverage")
        parts.append(
            "Fitted on all of the training side; accuracy in percent of the most confident answers on the test side "
            "(95 % bootstrap interval over its cells); calibration error in points, 10 equal-count bins."
        )
        parts.append(markdown(COVERAGE_HEADER, coverage_rows(measured.coverage)))
    return "\n\n".join(parts) + "\n"


def write_results(out: Path, measured: Tables, **about) -> list[str]:
    """Write results, one_step, thresholds and coverage (those with rows) as .csv and tables.md; return the names.

    `about` is what `tables_markdown` takes beside the tables.
    """
    files = {f"{name}.csv": table for name, table in measured._asdict().items()}
    for name in [name for name, table in files.items() if not len(table)]:
        del files[name]
        (out / name).unlink(missing_ok=True)  # of an earlier run into the same folder
    for name, table in files.items():
        with written_aside(out / name) as aside:
            table.to_csv(aside, index=False)
    write_text(out / "tables.md", tables_markdown(measured, **about))
    return [*files, "tables.md"]


def _seed_text(seeds: Sequence[int]) -> str:
    seeds = list(seeds)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} … {seeds[-1]}"
    return ", ".join(map(str, seeds))


def print_results(console, measured: Tables, *, paper: bool) -> None:
    """Print the results as rich tables: a row a method, a few sample sizes across."""
    from rich.table import Table

    results, one_step = measured.results, measured.one_step
    for name in dict.fromkeys(results["experiment"]):
        part = results[results["experiment"] == name]
        sizes = list(dict.fromkeys(part["k"]))
        chosen = sorted({sizes[round(i * (len(sizes) - 1) / 5)] for i in range(6)}, key=sizes.index)
        means = over_seeds(part, ["method", "k"], "accuracy")
        experiment = get_experiment(name)
        title = f"{title_of(name)}: accuracy in % ({name}, task {experiment.task})"
        console.print(title, style="bold", highlight=False)
        table = Table()
        table.add_column("method")
        for k in chosen:
            table.add_column(f"k={k}", justify="right")
        table.add_column("mean over all k", justify="right")
        overall = part.groupby("method")["accuracy"].mean()
        best = overall.idxmax()
        for method in dict.fromkeys(part["method"]):
            cells = [means.loc[(method, k)] if (method, k) in means.index else None for k in chosen]
            shown = [with_interval(c["mean"], c["half_width"], 1) if c is not None else "–" for c in cells]
            table.add_row(
                method_label(method), *shown, f"{overall[method]:.1f}", style="bold" if method == best else ""
            )
        console.print(table)
    for task in dict.fromkeys(one_step["task"]):
        means = one_step[one_step["task"] == task].groupby(["method", "step"], sort=False).mean(numeric_only=True)
        methods = list(dict.fromkeys(means.index.get_level_values("method")))
        best = means.loc[("oracle", "optimal"), "gain"]
        rows = []
        for m in methods:
            gains = [f"{means.loc[(m, step), 'gain']:.3f}" for step in STEPS]
            optimal = means.loc[(m, "optimal")]
            rows.append(
                [method_label(m), *gains, f"{optimal['gain_unclipped']:.3f}", f"{100 * optimal['gain'] / best:.1f}"]
            )
        title = f"one step – task {task}, mean gain in points of test accuracy, losses clipped at 0 as published"
        _print_rows(console, title, ["method", *STEPS, "optimal, losses in", "% of the oracle's"], rows)
    if len(measured.coverage):
        title = "accuracy in % of the most confident answers on the test side; calibration error in points"
        _print_rows(console, title, COVERAGE_HEADER, coverage_rows(measured.coverage, intervals=False))
    rows = paper_rows(results, short=True) if paper else []
    if rows:
        _print_rows(console, "the paper's table beside ours, accuracy in %", PAPER_HEADER, rows)


def _print_rows(console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    console.print(title, style="bold", highlight=False)
    table = Table()
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i and name != "method" else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
