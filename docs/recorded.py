"""The tables of the documentation made from recorded results, `sweeps/*.md`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Pairs of collections that the tables of results show, by the names they have in sweeps/transfer.md.
_F, _F_NOISE, _DIGITS, _DIGITS_NOISY = "published/F", "published/F_noise", "digits", "digits_noisy"
_SHORT = {_F: "F", _F_NOISE: "F′", _DIGITS: "digits", _DIGITS_NOISY: "digits_noisy"}
_EXPERIMENT = {"optimizer": "q1_dataset", "size": "q2_width_dataset", "data": "q2_data_dataset"}


def table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers_from: int = 99) -> str:
    """Return a Markdown table; columns from `numbers_from` on are right-aligned."""
    rule = "|".join("--:" if place >= numbers_from else "---" for place in range(len(header)))
    lines = ["| " + " | ".join(header) + " |", f"|{rule}|"]
    return "\n".join([*lines, *("| " + " | ".join(_cell(str(cell)) for cell in row) + " |" for row in rows)])


def _cell(text: str) -> str:
    """Return the text of a cell: no bar ends it, a `<` outside code starts no tag, a number stays with its interval."""
    parts = text.replace("|", "\\|").replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").split("`")
    return "`".join(part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts))


def accuracies(scale: str) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return (task, train, test) -> method -> cell of sweeps/transfer.md, for samples of cells.

    Args:
        scale: `raw` for metrics as they are, `rank` for the ranks of the test side.
    """
    raw, ranks = (ROOT / "sweeps" / "transfer.md").read_text().split("\n## Metrics of the test side by their ranks\n")
    out: dict[tuple[str, str, str], dict[str, str]] = {}
    for task, experiment in _EXPERIMENT.items():
        text = {"raw": raw, "rank": ranks}[scale].split(f"### {experiment}: task {task}\n")[1].split("###")[0]
        head, _, *rows = map(_cells, _rows(text))
        for method, *cells in rows:
            for pair, cell in zip(head[1:], cells, strict=True):
                train, test = pair.split(" → ")
                out.setdefault((task, train, test), {})[method] = cell
    return out


def _rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def _bold_best(cells: Sequence[str]) -> list[str]:
    """Return the cells with the largest number in bold, all of them if several are equally large."""
    values = [float(cell.split(" ")[0]) for cell in cells]
    return [f"**{cell}**" if value == max(values) else cell for cell, value in zip(cells, values, strict=True)]


def headline() -> str:
    """Return the table of the README: the default fit beside baselines, within a family and between two."""
    methods = {
        "MD tree (robust fit)": "MD tree",
        "free tree on landscape": "free tree, landscape metrics",
        "validation": "free tree, training and test error",
        "majority class": "most common class",
    }
    found, rows = accuracies("raw"), []
    for train, test in ((_F, _F_NOISE), (_DIGITS, _DIGITS_NOISY), (_F, _DIGITS)):
        for task in _EXPERIMENT:
            cells = [found[task, train, test][method].split(" ")[0] for method in methods]
            rows.append([f"{_SHORT[train]} → {_SHORT[test]}", task, *_bold_best(cells)])
    return table(["fitted on → tested on", "question", *methods.values()], rows, numbers_from=2)


def families() -> str:
    """Return the table of transfer within and between families."""
    pairs = ((_F, _F_NOISE), (_DIGITS, _DIGITS_NOISY), (_F, _DIGITS), (_DIGITS, _F), (_DIGITS_NOISY, _F))
    free, ours = ["validation", "free tree on landscape"], ["MD tree (exact fit)", "MD tree (robust fit)"]
    published, relative = "MD tree (published fit)", "MD tree, sharpness relative to the loss"
    shown = {
        "optimizer": {"raw": [*free, published, *ours, relative, "majority class"]},
        "size": {"raw": [*free, published, *ours, "majority class"], "rank": ["initial thresholds"]},
        "data": {"raw": [*free, *ours, "majority class"], "rank": ["validation"]},
    }
    found = {scale: accuracies(scale) for scale in ("raw", "rank")}
    rows = []
    for task, by_scale in shown.items():
        block = [
            (method + ", ranks" * (scale == "rank"), [found[scale][task, *pair][method] for pair in pairs])
            for scale, methods in by_scale.items()
            for method in methods
        ]
        columns = [_bold_best(column) for column in zip(*(cells for _, cells in block), strict=True)]
        rows += [[task, name, *cells] for (name, _), cells in zip(block, zip(*columns, strict=True), strict=True)]
    return table(["question", "method", *(f"{_SHORT[a]} → {_SHORT[b]}" for a, b in pairs)], rows, numbers_from=2)


def advice() -> str:
    """Return the table of what advice gained, a step of about ×2, from the records of sweeps/advice_*.md."""
    records = {
        "digits": "digits → digits",
        "digits_noise": "digits → digits_noisy",
        "to_digits": "F → digits",
        "noise": "F → F′",
    }
    rows = []
    for name, pair in records.items():
        text = (ROOT / "sweeps" / f"advice_{name}.md").read_text()
        answers = re.search(r"the diagnosis answers (\d+ %)", text).group(1)
        gains = {cells[0]: cells[1] for cells in map(_cells, _rows(text))}
        cells = [gains[who] for who in ("diagnosis", "validation", "commonest", "random")]
        rows.append([pair, answers, *_bold_best(cells), gains["oracle"]])
    head = ["fitted on → tested on", "answers", "diagnosis", "tree on training and test error", "most common cause"]
    return table([*head, "random", "best possible"], rows, numbers_from=1)


def carried() -> str:
    """Return the table of the README of what advice gains in families kept for the report, from sweeps/gains.md."""
    text = (ROOT / "sweeps" / "gains.md").read_text()
    report = text.split("\n## Families kept for the report, predicted from those above\n")[1].split("\n## ")[0]
    found = list(map(_cells, _rows(report)))
    rivals = {
        "always the best fixed move": "best fixed change",
        "forest on errors": "forest on errors",
        "race of all moves, one round": "short runs of all changes",
        "successive halving": "successive halving",
    }
    gained = {(cells[0], cells[1]): cells[3].split(" ")[0] for cells in found if len(cells) == 5}
    rows = []
    for level in ("10 %", "25 %", "100 %"):
        ours = next(cells for cells in found if cells[0] == level and len(cells) == 8)
        numbers = [ours[2].split(" ")[0], *(gained[level, name] for name in rivals)]
        shown = _bold_best([f"{100 * float(number):.0f} %" for number in numbers])
        rows.append([level, *shown, f"{100 * float(ours[3].split(' ')[0]):.0f} %", ours[5].replace(", ", "; ")])
    head = ["cost, of one training", "diagnosis", *rivals.values(), "hotter or colder?", "answers; right"]
    return table(head, rows, numbers_from=1)
