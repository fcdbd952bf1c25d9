"""Does a table without probes suffice? The optimizer question on public model zoos that nothing was chosen by.

    python -m sweeps.zoos FOLDER               # with the file zoos.csv; writes sweeps/zoos.md

Batch size and width are hidden from the diagnosis. The truth is the label of the collection's grid: which direction of
the batch size has more room for improvement. Beside it stands what a person does who knows the batch size: too hot
where it is below the zoo's median, too cold where it is above.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from mdtree_jax.collection.load import load_collection
from mdtree_jax.diagnosis.from_metrics import diagnose_metrics
from mdtree_jax.files import records_folder, write_text
from mdtree_jax.report.tables import markdown
from sweeps.provenance import provenance

#: Knobs that a diagnosis does not see.
HIDDEN = ("width", "batch_size", "zoo", "data_fraction", "num_samples")
CLASSES = {"C10-R18": 10, "C100-R50": 100}


def wilson(right: int, number: int, deviations: float = 1.96) -> tuple[float, float]:
    """Return the Wilson interval of a share."""
    if not number:
        return float("nan"), float("nan")
    share, square = right / number, deviations**2 / number
    middle, half = share + square / 2, deviations * np.sqrt(share * (1 - share) / number + square / (4 * number))
    return float((middle - half) / (1 + square)), float((middle + half) / (1 + square))


def truths(table: pd.DataFrame) -> pd.Series:
    """Return the published label of the optimizer question for every row of one zoo."""
    return load_collection(table.drop(columns="zoo"), allow_missing=True)["label_optimizer"]


def advice_gain(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the gain of moving along each knob by one step of the grid, (rows, moves), and of the best one, (rows,).

    The moves are `width` up, `batch_size` down and up; NaN at the edge of the grid.
    """
    errors = dict(zip(map(tuple, table[["width", "batch_size"]].to_numpy()), table["test_error"], strict=True))

    def gain(row: pd.Series, width: float, batch: float) -> float:
        other = errors.get((row["width"] * width, row["batch_size"] * batch))
        return np.nan if other is None else float(row["test_error"] - other)

    found = np.array([[gain(row, 2, 1), gain(row, 1, 0.5), gain(row, 1, 2)] for _, row in table.iterrows()])
    return found, np.maximum(np.nanmax(found, axis=1), 0)


def rows_of(zoo: str, table: pd.DataFrame) -> tuple[list[str], list[int]]:
    """Return the row of a zoo, and its counts: networks, answered, right, right of the batch-only rule."""
    table = table.reset_index(drop=True)
    truth = truths(table).to_numpy()
    hidden = table.drop(columns=[name for name in HIDDEN if name in table]).assign(num_classes=CLASSES[zoo])
    found = [one.outlook for one in diagnose_metrics(hidden, units="percent")]
    asked = np.isin(truth, ["temperature_too_low", "temperature_too_high"])
    answers = [next((a for a in one.answers if a.question == "optimizer"), None) if one else None for one in found]
    given = np.array([one is not None and not one.abstains for one in answers])
    told = np.array([f"temperature_{one.answer}" if one else "" for one in answers])
    right, guessed = told == truth, told[asked] == truth[asked]
    middle = np.sqrt(table["batch_size"].min() * table["batch_size"].max())
    rule = np.where(table["batch_size"] < middle, "temperature_too_high", "temperature_too_low") == truth
    gains, best = advice_gain(table)
    moves = {"wider": 0, "batch_down": 1, "rate_up": 1, "batch_up": 2, "rate_down": 2}
    advised = np.zeros(len(table))
    for place, one in enumerate(found):
        first = (
            next((m.remedy for m in one.moves if m.remedy in moves and np.isfinite(gains[place, moves[m.remedy]])), "")
            if one
            else ""
        )
        advised[place] = gains[place, moves[first]] if first else 0.0
    wider = np.nan_to_num(gains[:, 0])
    number, kept = int(asked.sum()), int((given & asked).sum())
    counts = [number, kept, int((right & given & asked).sum()), int(rule[asked].sum())]
    return [
        zoo,
        str(number),
        f"{100 * kept / number:.0f} %",
        _share(counts[2], kept),
        _share(int(guessed.sum()), number),
        _share(counts[3], number),
        f"{advised.sum() / best.sum():.2f}",
        f"{wider.sum() / best.sum():.2f}",
    ], counts


def _share(right: int, number: int) -> str:
    low, high = wilson(right, number)
    return f"{100 * right / number:.0f} % ({100 * low:.0f} to {100 * high:.0f})" if number else "–"


HEADER = [
    "zoo", "networks that can gain", "answered", "right, of the answered", "right, of all", "batch-only rule",
    "share of the best gain", "always wider",
]  # fmt: skip


def main() -> None:
    """Measure and write."""
    options = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
    (folder,) = [a for a in sys.argv[1:] if "=" not in a]
    start = time.perf_counter()
    table = pd.read_csv(Path(folder).expanduser() / "zoos.csv")
    found = [rows_of(str(zoo), part) for zoo, part in table.groupby("zoo")]
    number, kept, right, rule = np.sum([counts for _, counts in found], axis=0).tolist()
    both = ["both", str(number), f"{100 * kept / number:.0f} %", _share(right, kept), "", _share(rule, number), "", ""]
    lines = ["# Tables without probes: two public model zoos", "", provenance(start).replace(folder, "FOLDER"), ""]
    lines += [markdown(HEADER, [*(row for row, _ in found), both]), ""]
    lines += [
        "Intervals: Wilson, 95 %. Batch size and width are hidden from the diagnosis, which advises among a wider "
        "network and a better temperature, by one step of the zoo's grid; a learning rate stands for the batch size.",
        "",
    ]
    text = "\n".join(lines)
    write_text(Path(options.get("out", records_folder() / "zoos.md")), text)
    print(text)


if __name__ == "__main__":
    main()
