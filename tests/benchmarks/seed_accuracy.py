"""What fewer seeds and fewer pairs cost: every metric of a recorded collection, and the answers that follow from it.

    python -m tests.benchmarks.seed_accuracy --record digits

The record's networks (three of every configuration) and pairs (all three of them) are cut: to the first one or two
networks with the pair that they form, and to the first of three pairs (`pairs=first`). First table, a row a metric:
root mean square deviation of a configuration's mean from that over everything, beside the spread over the
configurations, and rank correlation. The cut values are a part of what they are compared with: of n of three
independent networks the mean is off by sqrt(1/n - 1/3) standard deviations. Second table: accuracy of the questions
and of the joint answer, fitted on half of the (data, width) cells and asked about the other half, both cut, against
the labels of all networks. Some 20 seconds. Prints markdown tables.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from mdtree_jax.causes import joint
from mdtree_jax.causes.evaluate import accuracy_at, answer_all
from mdtree_jax.causes.method_protocol import JOINT_TASKS, joint_method, trees_and_gains
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.report.tables import markdown
from mdtree_jax.store.record import Record, read_record
from mdtree_jax.store.tables import collect

NETWORKS = (
    "train_error",
    "test_error",
    "log_hessian_trace",
    "log_hessian_max_eigenvalue",
    "log_scale_invariant_trace",
    "ball_sharpness",
)
PAIRS = (
    "cka",
    "agreement",
    "l2_distance",
    "barrier",
    "aligned_barrier",
    "mode_connectivity",
    "mode_connectivity_peak",
)
#: What is kept: networks, and pairs of those.
CUTS = {
    "1 network": (1, "all"),
    "2 networks, 1 pair": (2, "all"),
    "3 networks, 1 pair": (3, "first"),
    "3 networks, 3 pairs": (3, "all"),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", default="digits")
    record = read_record(parser.parse_args().record)
    tables = {name: cut(record, *kept) for name, kept in CUTS.items()}
    print(metrics_table(tables), end="\n\n")
    print(answers_table(record, tables))


def cut(record: Record, num_networks: int, which_pairs: str) -> pd.DataFrame:
    """Return the collection from the first networks of every configuration, and all or the first of their pairs."""
    networks, pairs = record.networks, record.pairs
    first = networks["seed"] < networks["seed"].min() + num_networks
    inside = pairs["seed_b"] < networks["seed"].min() + num_networks  # seed_a is the smaller
    if which_pairs == "first":
        inside &= pairs.groupby("configuration").cumcount() == 0
    return collect(networks[first], pairs[inside] if inside.any() else None)


def metrics_table(tables: dict[str, pd.DataFrame]) -> str:
    """Return deviation and rank correlation of every metric by what was kept."""
    whole, rows = list(tables.values())[-1], []
    for name in (*NETWORKS, *PAIRS):
        cells = []
        for table in list(tables.values())[:-1]:
            if name not in table:
                cells.append("–")
                continue
            deviation = np.sqrt(np.mean((table[name] - whole[name]) ** 2))
            cells.append(f"{deviation:.3g} ({table[name].corr(whole[name], method='spearman'):.3f})")
        rows.append([name, f"{whole[name].std():.3g}", *cells])
    return markdown(["metric", "s.d. over configurations", *list(tables)[:-1]], rows)


def answers_table(record: Record, tables: dict[str, pd.DataFrame]) -> str:
    """Return accuracy of every answer, percent, by what was kept."""
    labels = load_collection(record.collection)
    known = [c for c in labels if c.startswith(("label_", "rfi_"))] + ["test_error"]
    rows = []
    for name, table in tables.items():
        table = load_collection(table.assign(**{c: labels[c].to_numpy() for c in known}))
        columns = [c for c in joint.COLUMNS if c in table]
        cells = []
        for task in (*TASKS, "joint"):
            # The trees of a task ask for pairs.
            if task in TASKS and not set(joint.PAIR_COLUMNS) <= set(columns):
                cells.append("–")
                continue
            asked = TASKS[task] if task in TASKS else JOINT_TASKS[task]
            found = answer_all([trees_and_gains(columns), joint_method(columns)], asked, table, None)
            answers = next(iter(found.values()))
            cells.append(f"{accuracy_at(answers, 100):.1f} ({accuracy_at(answers, 80):.1f})")
        rows.append([name, *cells])
    return markdown(["kept", *TASKS, "joint"], rows)


if __name__ == "__main__":
    main()
