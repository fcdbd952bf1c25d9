"""In which form does a metric transfer from one family of models to another? Every form, alone and in sets of up to 3.

    python -m sweeps.forms published/F published/F_noise digits digits_noisy out=sweeps/forms.md

A threshold on a raw metric is specific to the family on which it was fitted: ResNet-18 on CIFAR-10 for 150 epochs and
small networks on digits for 30 epochs differ in the level of loss, sharpness and connectivity. Every metric is
therefore also expressed relative to something that changes with the family, and as a rank within its collection. A
small free tree (depth 3, at least 20 models per leaf) is fitted to one collection and tested on another, for every set
of up to three forms and every task; the sets are sorted by their worst direction.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from mdtree_jax import load_collection
from mdtree_jax.collection.tasks import TASKS, task_rows
from mdtree_jax.files import write_text
from mdtree_jax.parallel import available_cores, ordered_map
from mdtree_jax.registry.measurements import LEAST_LOSS
from mdtree_jax.report.tables import markdown
from sweeps.provenance import provenance

MOST_FORMS, SHOWN = 3, 8
#: Test errors are percentages of a problem with ten classes.
CHANCE = 90.0
FORMS = {
    "error": "training error",
    "loss": "ln training loss",
    "peak": "connectivity, peak",
    "barrier": "peak + training error: what the curve adds to its ends",
    "barrier/room": "the same over what is left to chance",
    "connectivity": "ends minus the curve where it deviates most",
    "CKA": "CKA",
    "trace": "ln trace",
    "trace/size": "ln trace per parameter",
    "trace/loss": "ln trace over training loss",
    "trace/size/loss": "both",
    "top/loss": "ln top eigenvalue over training loss",
    "rank": "ln trace over top eigenvalue",
}


def forms(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the metrics of a collection in every form, columns as `FORMS`."""
    size, loss = np.log(frame["num_parameters"]), np.log(frame["train_loss"] + LEAST_LOSS)
    trace, top = frame["log_hessian_trace"], frame["log_hessian_max_eigenvalue"]
    barrier = frame["mode_connectivity_peak"] + frame["train_error"]
    columns = (
        *(frame["train_error"], loss, frame["mode_connectivity_peak"], barrier),
        *(barrier / np.maximum(CHANCE - frame["train_error"], 1.0), frame["mode_connectivity"], frame["cka"]),
        *(trace, trace - size, trace - loss, trace - size - loss, top - loss, trace - top),
    )
    return pd.DataFrame(dict(zip(FORMS, columns, strict=True)))


def compare(collections: list[pd.DataFrame], task) -> pd.DataFrame:
    """Return accuracy in percent: a row a set of forms, raw or ranked, a column a direction."""
    sides = {}
    for frame in collections:
        part = task_rows(frame, task)
        raw, y = forms(frame), (part[task.label] == task.classes[1]).to_numpy()
        for scale, values in (("raw", raw), ("rank", raw.rank(pct=True))):
            sides[frame.attrs["name"], scale] = values.loc[part.index], y
    names = [frame.attrs["name"] for frame in collections]
    sets = [s for number in range(1, MOST_FORMS + 1) for s in itertools.combinations(FORMS, number)]

    def one(piece):
        chosen, scale = piece
        row = {"forms": " + ".join(chosen), "scale": scale}
        for train, test in itertools.permutations(names, 2):
            X, y = sides[train, scale]
            tree = DecisionTreeClassifier(max_depth=3, min_samples_leaf=20, random_state=0)
            tree.fit(X[list(chosen)].to_numpy(), y)
            X, y = sides[test, scale]
            row[f"{train} → {test}"] = 100 * np.mean(tree.predict(X[list(chosen)].to_numpy()) == y)
        return row

    return pd.DataFrame(ordered_map(one, list(itertools.product(sets, ("raw", "rank"))), available_cores()))


def main() -> None:
    """Compare and write."""
    names = [argument for argument in sys.argv[1:] if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    start = time.perf_counter()
    collections = [load_collection(name) for name in names]
    parts = []
    for task in TASKS.values():
        found = compare(collections, task)
        directions = list(found.columns[2:])
        found["worst"] = found[directions].min(axis=1)
        parts += [
            f"## Task {task.name}",
            "",
            f"{len(found)} sets of forms; the table shows the best {SHOWN} of each scale.",
            "",
        ]
        best = pd.concat([rows.nlargest(SHOWN, "worst") for _, rows in found.groupby("scale", sort=False)])
        rows = [[r["forms"], r["scale"], *(f"{r[c]:.1f}" for c in [*directions, "worst"])] for _, r in best.iterrows()]
        parts += [markdown(["forms", "scale", *directions, "worst"], rows), ""]
    legend = [[name, meaning] for name, meaning in FORMS.items()]
    text = "\n".join(
        [
            "# Forms of the metrics that transfer between families",
            "",
            f"{provenance(start)} Accuracy in percent of free trees of depth 3; "
            "the sets were selected by these numbers, so the best of many are optimistic.",
            "",
            *parts,
            markdown(["form", "what it is"], legend),
            "",
        ]
    )
    write_text(Path(options.get("out", "forms.md")), text)
    print(text)


if __name__ == "__main__":
    main()
