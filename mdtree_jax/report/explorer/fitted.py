"""What is fitted to a collection for the explorer: the tree of every question, and the diagnosis of every row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.collection.columns import finite_rows_of
from mdtree_jax.collection.tasks import OPTIMAL, TASKS, Task, takes_part, why_not_asked
from mdtree_jax.diagnosis.from_metrics import diagnose_metrics
from mdtree_jax.diagnosis.words import actions, causes
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.trees.classifier import MDTreeClassifier, choose_structure

Say = Callable[[str], None]


def questions(frame: pd.DataFrame, fit: str, say: Say) -> list[dict[str, Any]]:
    """Return the questions that the collection has labels for, with their fitted trees; `say` why one has none."""
    found = []
    for task in TASKS.values():
        if why := why_not_asked(frame, task):
            say(why)
            continue
        names = [*task.classes, OPTIMAL]
        labels = pd.Categorical(frame[task.label], categories=names).codes
        found.append(
            {
                "name": task.name,
                "title": task.title,
                "sentence": task.sentence,
                "classes": [
                    *({"name": a.name, "words": a.words, "causes": list(a.causes), "colour": a.colour}
                      for a in task.answers),
                    {"name": OPTIMAL, "words": "both gain the same", "causes": [], "colour": "#8a94a0"},
                ],
                "label": labels.tolist(),
                "tree": _tree(frame, task, fit, say),
            }
        )  # fmt: skip
    return found


def _tree(frame: pd.DataFrame, task: Task, fit: str, say: Say) -> dict[str, Any] | None:
    """Return the tree fitted on all rows that the question uses: nodes, leaves, and the leaf of every row (-1: none).

    Accuracy is that on the rows it was fitted on, percent.
    """
    structure = choose_structure(task.name)
    finite = finite_rows_of(frame, structure.features)
    used = frame[finite & takes_part(frame, task)]
    try:
        model = MDTreeClassifier(task=task.name, fit=fit, min_width=0).fit(used)
    except UserError as error:
        say(f"no tree for '{task.name}': {error}")
        return None
    leaf = np.full(len(frame), -1)
    leaf[finite] = model.apply(frame[finite])
    order = [list(model.classes_).index(name) for name in structure.classes]
    return {
        "nodes": [
            {
                "feature": node.feature,
                "label": MEASUREMENTS[node.feature].label if node.feature in MEASUREMENTS else node.feature,
                "unit": MEASUREMENTS[node.feature].unit.removeprefix("-") if node.feature in MEASUREMENTS else "",
                "threshold": float(f"{threshold:.6g}"),
                "children": list(structure.children(place)),
            }
            for place, (node, threshold) in enumerate(zip(structure.nodes, model.thresholds_, strict=True))
        ],
        "leaves": [
            {
                "node": node,
                "side": side,
                "class": int(structure.leaf_verdicts[number]),
                "counts": model.leaf_counts_[number][order].tolist(),
            }
            for number, (node, side) in enumerate(structure.leaves)
        ],
        "leaf": leaf.tolist(),
        "rows": len(used),
        "accuracy": round(100 * model.score(used), 1),
    }


def diagnoses(frame: pd.DataFrame, say: Say) -> dict[str, Any] | None:
    """Return the diagnosis of every row by the reference in the package, None if the table has no evidence for one.

    Texts are kept once, in lists, and rows hold places in them.
    """
    try:
        found = diagnose_metrics(frame.copy())  # in one piece: a table of many added columns is slow
    except UserError as error:
        say(f"no diagnoses: {error}")
        return None
    texts = _Texts()
    return {
        "reference": found[0].reference if found else "",
        "answer": [texts.place("answer", causes.cause_text(one)) for one in found],
        "advice": [texts.place("advice", actions.headline(one.action)) for one in found],
        "reason": [texts.place("reason", one.reason) for one in found],
        "cause": [texts.place("cause", "cannot tell" if one.abstains else causes.short(one.cause)) for one in found],
        "probability": [round(one.probability, 3) for one in found],
        "knob": [texts.place("knob", one.action.knob or "") for one in found],
        "sign": [{"up": 1, "down": -1}.get(one.action.direction or "", 0) for one in found],
        "gain": [
            [round(value, 2) for value in (one.expected_gain.mean, one.expected_gain.low, one.expected_gain.high)]
            if one.expected_gain
            else None
            for one in found
        ],
        "texts": texts.lists,
    }


class _Texts:
    """Lists of different texts, by kind."""

    def __init__(self):
        self.lists: dict[str, list[str]] = {}

    def place(self, kind: str, text: str) -> int:
        known = self.lists.setdefault(kind, [])
        if text not in known:
            known.append(text)
        return known.index(text)
