"""How much does a diagnosis lose if only a sample of the training data is evaluated?

    python -m mdtree_jax.sweep +grid=digits grid.width=[8,14,24] grid.batch_size=[8,48,208] \\
        grid.data_fraction=[0.5,1.0] stages=[train] out=runs/sample
    python -m sweeps.sample run=runs/sample out=sweeps/sample.md

Every configuration of the run is measured from its checkpoints as `diagnose` does by default, errors and points between
networks on a random sample of so many of its training images (`max_images`) and on all of them, and diagnosed with a
reference fitted on the recorded `digits` without the configurations of the run. Reported are how far metrics and
probabilities move, how often the cause stays the same, and how often it is right by the record's labels. Interrupted,
it goes on where it was.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from mdtree_jax import diagnose_metrics, fit_reference, load_collection
from mdtree_jax.causes.labels import CAUSES, cause_labels
from mdtree_jax.collection.grid import make_grid
from mdtree_jax.collection.moves import AXES
from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.files import write_text, written_aside
from mdtree_jax.report.tables import markdown
from sweeps.provenance import provenance

SIZES = (100, 300, 1000)
METRICS = {
    "train_error": "training error, points",
    "log_hessian_trace": "ln trace",
    "log_hessian_max_eigenvalue": "ln top eigenvalue",
    "mode_connectivity_peak": "connectivity peak, points",
    "cka": "CKA",
}


def measured_metrics(run: Path, table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the metrics of every configuration and number of images; kept in the run's `sample.parquet`."""
    from mdtree_jax.recipe.measure_settings import resolve
    from mdtree_jax.runs.jax_backend import set_up_devices
    from mdtree_jax.subject.measure import measure_subject
    from mdtree_jax.subject.run_folder import load_configuration
    from mdtree_jax.subject.settings import default_measure

    set_up_devices()
    settings = resolve(default_measure(columns))
    path = run / "sample.parquet"
    rows = pd.read_parquet(path).to_dict("records") if path.is_file() else []
    done = {(row["configuration"], row["images"]) for row in rows}
    for place, (_, row) in enumerate(table.iterrows()):
        count = int(row["num_samples"])
        left = [n for n in (*SIZES, count) if n <= count and (row["configuration"], n) not in done]
        if not left:
            continue
        subject, data = load_configuration(run, row)
        for images in left:
            start = time.perf_counter()
            found = measure_subject(subject, data, settings, max_images=images, in_random_order=True)
            keys = {"configuration": row["configuration"], "images": images, "is_all": images == count}
            rows.append(keys | {"seconds": found.seconds, **found.row})
            with written_aside(path) as aside:
                pd.DataFrame(rows).to_parquet(aside)
            print(f"{place + 1}/{len(table)} {images} images: {time.perf_counter() - start:.0f} s", flush=True)
    return pd.DataFrame(rows)


def fit_without(record: pd.DataFrame, table: pd.DataFrame) -> tuple[Reference, list[int]]:
    """Return a reference that has seen no metric of the table's configurations, and their rows in the record."""
    rows = {tuple(row): place for place, row in enumerate(record[list(AXES)].to_numpy(float).round(9))}
    places = [rows[tuple(row)] for row in table[list(AXES)].to_numpy(float).round(9)]
    hidden = record.copy()
    hidden.loc[places, list(METRICS)] = np.nan
    return fit_reference(hidden, measure=False, name="digits"), places


def diagnose_all(metrics: pd.DataFrame, reference: Reference) -> pd.DataFrame:
    """Return the metrics with the diagnosis of every row beside: `cause`, `abstains` and a probability per cause."""
    drop = ["configuration", "images", "is_all", "seconds", "test_error"]
    found = diagnose_metrics(metrics.drop(columns=drop), reference, "percent", evidence="landscape")
    answers = [{"cause": d.cause, "abstains": d.abstains} | {f"p_{c}": d.ranking[c] for c in CAUSES} for d in found]
    return metrics.join(pd.DataFrame(answers, index=metrics.index))


def compare(found: pd.DataFrame, everything: pd.DataFrame) -> list[str]:
    """Return the cells of one number of images, beside all images of the same configurations."""
    both = found.merge(everything, on="configuration", suffixes=("", "_all"))
    cells = []
    for name in METRICS:
        moved = both[name] - both[f"{name}_all"]
        cells.append(f"{moved.mean():+.2f}, {np.sqrt((moved**2).mean()):.2f}")
    moved = np.stack([both[f"p_{c}"] - both[f"p_{c}_all"] for c in CAUSES])
    cells.append(f"{np.sqrt((moved**2).sum(axis=0).mean()):.2f}")
    shares = both["cause"] == both["cause_all"], both["cause"] == both["label"], both["abstains"]
    return [*cells, *(f"{100 * share.mean():.0f}" for share in shares), f"{both['seconds'].mean():.1f}"]


def main() -> None:
    """Measure and write."""
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    run = Path(options["run"])
    start = time.perf_counter()
    table = pd.read_parquet(run / "collection.parquet").reset_index(names="configuration")
    record = load_collection("digits")
    reference, places = fit_without(record, table)
    labels = cause_labels(make_grid(record)).to_numpy()[places]
    metrics = measured_metrics(run, table, list(reference.columns))
    answers = diagnose_all(metrics, reference)
    answers = answers.merge(table[["configuration"]].assign(label=labels), on="configuration")
    everything = answers[answers["is_all"]]
    rows = [[str(n), *compare(answers[~answers["is_all"] & (answers["images"] == n)], everything)] for n in SIZES]
    rows.append(["all", *compare(everything, everything)])
    header = ["images", *METRICS.values(), "probabilities", "same cause, %", "right, %", "abstains, %", "seconds"]
    text = "\n".join(
        [
            "# Effect of evaluating a sample of the training data",
            "",
            f"{provenance(start)} {len(table)} configurations of `digits`, "
            "three networks each, with 1600 or 3200 training images, diagnosed without their own rows of the record. "
            "*images*: number of images on which errors and points between networks are evaluated; curves are trained "
            "on all images. Metrics: mean and root mean square of the change compared with all images. "
            "*probabilities*: root mean square distance of the five probabilities. *right*: according to "
            "`label_joint_step` of the record.",
            "",
            markdown(header, rows),
            "",
        ]
    )
    write_text(Path(options.get("out", "sample.md")), text)
    print(text)


if __name__ == "__main__":
    main()
