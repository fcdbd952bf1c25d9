"""What was compared within F: to choose the joint model, the confidence, trees for one checkpoint, a gain's interval.

Run by sweeps/joint.py. The folds: inside and outside of every third of every axis of the grid, 8 random (data, width)
cells, and 104 of the 130; each trains on some rows of F and is tested on the others. F' takes no part.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

from mdtree_jax import MDTreeClassifier, Node, Structure
from mdtree_jax.causes import joint
from mdtree_jax.causes.evaluate import Answers, JointSide, accuracy_at, make_joint_side
from mdtree_jax.causes.joint import question_probabilities
from mdtree_jax.causes.labels import CAUSES
from mdtree_jax.causes.method_protocol import JOINT_TASKS
from mdtree_jax.collection.tasks import TASKS, task_rows
from mdtree_jax.diagnosis.gains import expected_gain, factor_gain, steps_of
from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.diagnosis.reference_fit import fit_reference
from mdtree_jax.experiments.sampling import SAMPLINGS
from mdtree_jax.parallel import available_cores, ordered_map
from mdtree_jax.report.tables import markdown
from mdtree_jax.trees.members import ONE_CHECKPOINT
from sweeps.robust import blocks

#: What was compared within F; the first is the choice.
KERNELS = {
    "joint model": joint.DEFAULT,
    "noise 0.3": joint.DEFAULT._replace(noise=0.3),
    "trees count double": joint.DEFAULT._replace(vote=2.0),
    "without the trees": joint.DEFAULT._replace(vote=0.0),
    "one length, 2": joint.Kernel(2.0, 2.0, 0.0, 1.0, 0.1),
}
FOREST = "random forest"


def folds(F: pd.DataFrame):
    """Yield (kind, train rows) within F: blocks of the grid and their outside, few random cells, most of them."""
    for _, inside in blocks(F):
        yield "outside a block", ~inside
        yield "inside a block", inside
    for k, seeds in ((8, range(4)), (104, range(2))):
        for seed in seeds:
            yield f"{k} random cells", SAMPLINGS["random"].mask(F, k, seed)


def models(F: pd.DataFrame) -> str:
    """Return accuracy (and log loss, nats) on the rest of F, means over the folds of a kind."""
    sides = {name: make_joint_side(F, task.label) for name, task in JOINT_TASKS.items()}
    pieces = [(task, kind, mask) for task in sides for kind, mask in folds(F)]

    def work(piece):
        task, kind, mask = piece
        side = sides[task]
        train, test = (JointSide(*(part[m] for part in side)) for m in (mask, ~mask))
        rows = []
        for name in (*KERNELS, FOREST):
            if name == FOREST:
                model = RandomForestClassifier(100, random_state=0)
                model.fit(joint.scaled(train.frame, joint.METRICS), train.y)
                chances = np.zeros((len(test.y), len(CAUSES)))
                chances[:, model.classes_] = model.predict_proba(joint.scaled(test.frame, joint.METRICS))
                chances = (1 - joint.DOUBT) * chances + joint.DOUBT / len(CAUSES)
            else:
                model = joint.fit_joint(train.frame, train.gained, kernel=KERNELS[name])
                chances = joint.predict_joint(model, test.frame)
            loss = -np.log(chances[np.arange(len(test.y)), test.y]).mean()
            rows.append((task, kind, name, 100 * np.mean(chances.argmax(axis=1) == test.y), loss))
        return rows

    rows = [row for part in ordered_map(work, pieces, available_cores()) for row in part]
    table = pd.DataFrame(rows, columns=["task", "kind", "model", "accuracy", "loss"])
    means = table.groupby(["task", "model", "kind"], sort=False)[["accuracy", "loss"]].mean()
    kinds = list(dict.fromkeys(table.kind))
    lines = []
    for task in JOINT_TASKS:
        for name in (*KERNELS, FOREST):
            cells = [means.loc[(task, name, kind)] for kind in kinds]
            lines.append([task, name, *(f"{c.accuracy:.1f} ({c.loss:.2f})" for c in cells)])
    return markdown(["label", "model", *kinds], lines)


def confidence(F: pd.DataFrame) -> str:
    """Return accuracy on the surest 80 % within F, by four ways to answer, means over the folds of a kind."""
    side = make_joint_side(F, "room")

    def work(piece):
        kind, mask = piece
        model = joint.fit_joint(F[mask], side.gained[mask])
        rows = []
        for task in TASKS.values():
            found = _two_sides(F, mask, task)
            if found is None:
                continue
            train, test = found
            tree = MDTreeClassifier(task.name).fit(train, train[task.label])
            alone = tree.predict_proba(test)[:, [tree.classes_.tolist().index(c) for c in task.classes]]
            room = joint.task_probabilities(*joint.gain_posterior(model, test), task)
            mean = question_probabilities(alone, room)
            verdict, best = alone.argmax(axis=1), {}
            best["trees alone"] = verdict, alone.max(axis=1)
            best["joint model alone"] = room.argmax(axis=1), room.max(axis=1)
            best["mean of both"] = mean.argmax(axis=1), mean.max(axis=1)
            best["verdict of the trees, sure by the mean"] = verdict, mean[np.arange(len(verdict)), verdict]
            for name, (answer, sure) in best.items():
                right = np.array(task.classes)[answer] == test[task.label].to_numpy()
                answers = Answers(right, sure, np.zeros(len(right)))
                rows.append((task.name, kind, name, accuracy_at(answers, 80), accuracy_at(answers, 100)))
        return rows

    return _table([row for part in ordered_map(work, list(folds(F)), available_cores()) for row in part])


def _two_sides(F: pd.DataFrame, mask: np.ndarray, task):
    """Return the rows of a task in a fold and outside, None where they are too few or of one class."""
    rows = task_rows(F, task)
    inside = mask[rows.index]
    train, test = rows[inside], rows[~inside]
    return (train, test) if len(test) >= 20 and train[task.label].nunique() == 2 else None


def _table(rows: list[tuple]) -> str:
    """Return rows (task, kind, name, value, second value or None) as a table of means, a column a kind of fold."""
    table = pd.DataFrame(rows, columns=["task", "kind", "name", "value", "more"])
    means = table.groupby(["task", "name", "kind"], sort=False)[["value", "more"]].mean()
    kinds, lines = list(dict.fromkeys(table.kind)), []
    for task, name in dict.fromkeys(zip(table.task, table.name, strict=True)):
        cells = []
        for kind in kinds:
            found = means.loc[(task, name, kind)] if (task, name, kind) in means.index else None
            more = "" if found is None or np.isnan(found.more) else f" ({found.more:.1f})"
            cells.append("–" if found is None else f"{found.value:.1f}{more}")
        lines.append([task, name, *cells])
    return markdown(["task", "", *kinds], lines)


def intervals(F: pd.DataFrame) -> str:
    """Return how many of the gains within F lie in the intervals of `expected_gain`, percent, by the step."""
    whole = fit_reference(F, measure=False)

    def work(piece):
        kind, mask = piece
        reference = Reference(whole.rows, whole.provenance)
        reference.complete = whole.complete & mask  # the gains of the whole grid, the models of the fold
        model, test = reference.joint_model(), whole.rows[~mask].reset_index(drop=True)
        first, rows = joint.predict_joint(model, test).argmax(axis=1), []
        for place, move in enumerate(reference.grid.moves):
            chosen = np.flatnonzero(first == place)
            found = expected_gain(reference, test.iloc[chosen], move.cause, model)
            for step, doublings in steps_of(move.knob).items():
                gained = factor_gain(reference.grid, move, doublings)[~mask][chosen]
                pairs = [(f[step], g) for f, g in zip(found, gained, strict=True) if step in f and np.isfinite(g)]
                if pairs:
                    inside = np.mean([f.low <= g <= f.high for f, g in pairs])
                    rows.append((move.cause, kind, step, 100 * inside, np.nan))
        return rows

    pieces = [piece for piece in folds(F) if piece[0] != "inside a block"]
    return _table([row for part in ordered_map(work, pieces, available_cores()) for row in part])


_ERROR, _SHARPNESS = ("train_error", 0.5, 0.0, 1.0), ("log_hessian_trace", 7.0, 4.0, 9.0)
_RANK, _LOSS = ("log_effective_rank", 2.0, 1.0, 3.0), ("train_loss", 1e-3, 1e-4, 1e-2)
_FLATNESS = ("log_hessian_trace", 5.0, 4.0, 6.0)
_LOW, _HIGH = "temperature_too_low", "temperature_too_high"
_T, _S, _D = "temperature", "size", "data"


def _tree(name: str, task: str, *rows: tuple) -> Structure:
    return Structure(name, tuple(Node(*row) for row in rows), TASKS[task].classes)


#: Task -> what was compared; the first is the choice.
SINGLES = {
    "optimizer": (
        ONE_CHECKPOINT["optimizer"],
        _tree("error", "optimizer", (*_ERROR, _LOW, _HIGH)),
        _tree("error, rank", "optimizer", (*_ERROR, _LOW, 1), (*_RANK, _HIGH, _LOW)),
        _tree("all three", "optimizer", (*_ERROR, _LOW, 1), (*_SHARPNESS, _HIGH, 2), (*_RANK, _HIGH, _LOW)),
    ),
    "size": (
        ONE_CHECKPOINT["size"],
        _tree("error", "size", (*_ERROR, _T, _S)),
        _tree("loss, sharpness", "size", (*_ERROR, 1, 2), (*_LOSS, _T, _S), (*_SHARPNESS, _T, _S)),
        _tree("sharpness", "size", (*_ERROR, 1, 2), (*_SHARPNESS, _T, _S), (*_SHARPNESS, _T, _S)),
        _tree("rank", "size", (*_ERROR, 1, 2), (*_RANK, _T, _S), (*_RANK, _S, _T)),
    ),
    "data": (
        ONE_CHECKPOINT["data"],
        _tree("sharpness", "data", (*_SHARPNESS, _D, _T)),
        _tree("error, sharpness", "data", (*_ERROR, 1, 2), (*_FLATNESS, _D, _T), (*_SHARPNESS, _D, _T)),
        _tree("sharpness, rank", "data", (*_FLATNESS, _D, 1), (*_RANK, _D, _T)),
    ),
}  # fmt: skip


def one_checkpoint(F: pd.DataFrame) -> str:
    """Return accuracy within F of trees without connectivity and similarity, means over the folds of a kind."""

    def work(piece):
        kind, mask = piece
        rows = []
        for name, trees in SINGLES.items():
            task, found = TASKS[name], _two_sides(F, mask, TASKS[name])
            if found is None:
                continue
            train, test = found
            for tree in trees:
                fitted = MDTreeClassifier(name, structure=tree).fit(train, train[task.label])
                right = fitted.predict(test) == test[task.label].to_numpy()
                rows.append((name, kind, tree.name, 100 * right.mean(), np.nan))
        return rows

    return _table([row for part in ordered_map(work, list(folds(F)), available_cores()) for row in part])
