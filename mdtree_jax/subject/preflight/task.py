"""What a network's outputs and targets are, seen from the arrays; their errors. NumPy."""

from __future__ import annotations

from typing import Literal

import numpy as np

#: `classes`: one label of several; `labels`: each output is a label of 0 or 1; `values`: a regression.
Task = Literal["classes", "labels", "values"]


def task_of(outputs: np.ndarray, targets: np.ndarray, wants: str = "logits") -> Task:
    """Return the task of outputs (n, ..., k) and the targets of all training examples.

    Targets of 0 and 1 only are labels, also where the loss is one of a regression.
    """
    targets = np.asarray(targets)
    k = outputs.shape[-1] if outputs.ndim > 1 else 1
    if k > 1 and targets.ndim == outputs.ndim - 1 and np.issubdtype(targets.dtype, np.integer):
        return "classes"
    if np.isin(targets, (0, 1)).all():
        one_hot = k > 1 and targets.ndim > 1 and targets.shape[-1] == k and (targets.sum(-1) == 1).all()
        return "classes" if one_hot else "labels"
    is_soft = k > 1 and targets.shape[-1:] == (k,) and targets.min() >= 0 and np.allclose(targets.sum(-1), 1, atol=1e-4)
    return "classes" if is_soft and wants != "values" else "values"


def rows_of(task: Task, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs (rows, k) and targets, (rows,) of classes and (rows, k) else, of the targets that count."""
    k = outputs.shape[-1] if outputs.ndim > 1 else 1
    outputs = np.asarray(outputs, np.float64).reshape(-1, k)
    if task != "classes":
        return outputs, np.asarray(targets, np.float64).reshape(len(outputs), -1)
    targets = targets.reshape(-1) if np.issubdtype(targets.dtype, np.integer) else targets.argmax(-1).reshape(-1)
    counted = targets >= 0
    return outputs[counted], targets[counted]


def predicted(task: Task, wants: str, outputs: np.ndarray) -> np.ndarray:
    """Return the labels that outputs say: (rows,) of classes, (rows, k) booleans of labels."""
    return outputs.argmax(1) if task == "classes" else outputs > (0.0 if wants == "logits" else 0.5)


def error_of(task: Task, wants: str, outputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the share of wrong labels, or the squared error over the variance of the targets, in %."""
    if task == "values":
        return float(100 * np.mean((outputs - targets) ** 2) / max(np.mean(targets.var(0)), 1e-30))
    wrong = predicted(task, wants, outputs) != (targets if task == "classes" else targets > 0.5)
    return float(100 * wrong.mean())


def chance_of(task: Task, targets: np.ndarray) -> float:
    """Return the error of the best constant prediction, in %."""
    if task == "values":
        return 100.0
    if task == "classes":
        return float(100 * (1 - np.bincount(targets).max() / len(targets)))
    ones = (targets > 0.5).mean(0)
    return float(100 * np.minimum(ones, 1 - ones).mean())
