"""Figures of the transfer experiments: accuracy curves, fitted trees, phase plots. PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mdtree_jax.collection.columns import finite_rows_of, missing_columns
from mdtree_jax.collection.tasks import OPTIMAL, TASKS, Task, smallest_width
from mdtree_jax.experiments.runner import get_experiment
from mdtree_jax.files import output_folder, written_aside
from mdtree_jax.registry.questions import class_colour
from mdtree_jax.report.pyplot import plt
from mdtree_jax.report.statistics import over_seeds
from mdtree_jax.report.tables import method_label
from mdtree_jax.trees.classifier import MDTreeClassifier, choose_structure

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mdtree_jax",
    "figure.dpi": 110,
}
#: Colour and line of each method, the same in every figure.
_LINES = {
    "md_tree": ("#c53030", "-"),
    "md_tree_exact": ("#2b6cb0", "-"),
    "md_tree_robust": ("#000000", "-"),
    "md_tree_similarity": ("#d69e2e", "-"),
    "md_tree_relative": ("#0e7490", "-"),
    "initial_thresholds": ("#c53030", ":"),
    "landscape": ("#2f855a", "--"),
    "validation": ("#6b46c1", "--"),
    "hyperparameter_validation": ("#b83280", "--"),
    "hyperparameter": ("#4a5568", "--"),
    "majority": ("#a0aec0", ":"),
    "md_tree_joint": ("#000000", "-"),
    "forest": ("#2f855a", "-"),
    "validation_forest": ("#6b46c1", "-"),
}
_PHASE_METRICS = (
    ("test_error", "test accuracy, %", "viridis"),
    ("train_error", "train error, %", "magma_r"),
    ("mode_connectivity_peak", "mode connectivity (peak), %", "cividis"),
    ("log_hessian_trace", "sharpness: ln Hessian trace", "inferno"),
    ("cka", "similarity: CKA", "viridis"),
)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG, each in one piece, close it, and return the paths."""
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        with written_aside(path) as aside:
            figure.savefig(aside, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def accuracy_curves(results: pd.DataFrame, experiment: str) -> Figure:
    """Return accuracy against the number of training models: mean over seeds, band of one s.d., every method."""
    part = results[results["experiment"] == experiment]
    table = over_seeds(part, ["method", "k"], "accuracy")
    table["n_train"] = part.groupby(["method", "k"], sort=False)["n_train"].mean()
    figure, ax = plt.subplots(figsize=(7.4, 4.2), layout="constrained")
    for method in dict.fromkeys(part["method"]):
        colour, line = _LINES.get(method, ("#000000", "-"))
        curve = table.loc[method]
        x, y, sd = (curve[c].to_numpy(dtype=float) for c in ("n_train", "mean", "sd"))
        marker = "o" if len(x) <= 13 else None
        ax.plot(x, y, line, color=colour, label=method_label(method), lw=1.8, marker=marker, ms=3)
        ax.fill_between(x, y - sd, y + sd, color=colour, alpha=0.12, lw=0)
    about = get_experiment(experiment)
    ax.set_xlabel("number of training models")
    ax.set_ylabel("correctly diagnosed, %")
    seeds = part["seed"].nunique()
    ax.set_title(f"{experiment} ({about.figure})\ntask {about.task}, mean ± s.d. over {seeds} seed{'s' * (seeds > 1)}",
                 loc="left", fontsize=9.5)  # fmt: skip
    ax.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def fitted_tree(tree: MDTreeClassifier, title: str) -> Figure:
    """Return a drawing of a fitted tree."""
    ax = tree.plot()
    ax.set_title(title, loc="left", fontsize=10)
    return ax.figure


def _panels(frame: pd.DataFrame) -> list[float]:
    """Return the data fractions that phase plots show: smallest, middle, largest."""
    fractions = np.unique(frame["data_fraction"])
    return [float(f) for f in dict.fromkeys(fractions[[0, (len(fractions) - 1) // 2, -1]])]


def _matrix(frame: pd.DataFrame, values: np.ndarray, fraction: float) -> np.ndarray:
    """Return values as (widths, batch sizes), NaN where the grid has no row."""
    widths, batches = np.unique(frame["width"]), np.unique(frame["batch_size"])
    out = np.full((len(widths), len(batches)), np.nan)
    here = (frame["data_fraction"] == fraction).to_numpy()
    out[np.searchsorted(widths, frame["width"][here]), np.searchsorted(batches, frame["batch_size"][here])] = values[
        here
    ]
    return out


def _phase_axes(ax, frame: pd.DataFrame, *, left: bool, bottom: bool) -> None:
    """Label the cells of a phase plot by batch size and width, on the outer panels only."""
    for axis, column, shown in ((ax.xaxis, "batch_size", bottom), (ax.yaxis, "width", left)):
        values = np.unique(frame[column])
        axis.set_ticks(np.arange(len(values)) + 0.5, [f"{v:g}" if shown else "" for v in values], fontsize=6.5)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if bottom:
        ax.set_xlabel("batch size", fontsize=8)


def phase_metrics(frame: pd.DataFrame, name: str) -> Figure:
    """Return the metrics over width × batch size, a row a data fraction."""
    fractions = _panels(frame)
    metrics = [m for m in _PHASE_METRICS if m[0] in frame]
    figure, axes = plt.subplots(len(fractions), len(metrics), figsize=(2.9 * len(metrics), 2.35 * len(fractions) + 0.6),
                                layout="constrained", squeeze=False)  # fmt: skip
    for j, (column, title, colours) in enumerate(metrics):
        values = frame[column].to_numpy(dtype=float)
        values = 100 - values if column == "test_error" else values
        low, high = np.nanpercentile(values, [1, 99])
        for i, fraction in enumerate(fractions):
            ax = axes[i, j]
            image = ax.pcolormesh(_matrix(frame, values, fraction), cmap=colours, vmin=low, vmax=high)
            _phase_axes(ax, frame, left=j == 0, bottom=i == len(fractions) - 1)
            if i == 0:
                ax.set_title(title, fontsize=9)
            if j == 0:
                ax.set_ylabel(f"{100 * fraction:g} % of the data\nwidth", fontsize=8)
        figure.colorbar(image, ax=axes[:, j], location="bottom", fraction=0.03, aspect=25, extend="both")
    figure.suptitle(
        f"{name}: metrics over width × batch size (colours end at the 1st and 99th percentile)", fontsize=10
    )
    return figure


def phase_labels(frame: pd.DataFrame, tree: MDTreeClassifier, task: Task, name: str) -> Figure:
    """Return label, verdict of the tree and where it errs, over width × batch size, a row a data fraction."""
    fractions = _panels(frame)
    classes = [*task.classes, OPTIMAL]
    colours = ListedColormap([class_colour(c) for c in task.classes] + ["#e2e8f0"])
    label = np.array([classes.index(v) for v in frame[task.label]])
    verdict = np.array([classes.index(v) for v in tree.predict(frame)])
    takes_part = (label != 2) & (frame["width"].to_numpy() >= smallest_width(task, frame["width"]))
    wrong = np.where(takes_part, (label != verdict).astype(float), np.nan)
    columns = (("label, from the grid", label, colours, 2), ("verdict of the tree", verdict, colours, 2),
               ("where the tree errs", wrong, ListedColormap(["#c6f6d5", "#c53030"]), 1))  # fmt: skip
    figure, axes = plt.subplots(len(fractions), 3, figsize=(9.2, 2.5 * len(fractions) + 0.9), layout="constrained",
                                squeeze=False)  # fmt: skip
    for j, (title, values, cmap, top) in enumerate(columns):
        for i, fraction in enumerate(fractions):
            ax = axes[i, j]
            ax.set_facecolor("#f7fafc")
            ax.pcolormesh(_matrix(frame, values.astype(float), fraction), cmap=cmap, vmin=-0.5, vmax=top + 0.5)
            _phase_axes(ax, frame, left=j == 0, bottom=i == len(fractions) - 1)
            if i == 0:
                ax.set_title(title, fontsize=9)
            if j == 0:
                ax.set_ylabel(f"{100 * fraction:g} % of the data\nwidth", fontsize=8)
    handles = [Patch(color=colours(i), label=c.replace("_", " ")) for i, c in enumerate(classes)]
    handles += [Patch(color="#c6f6d5", label="tree is right"), Patch(color="#c53030", label="tree errs")]
    handles.append(Patch(facecolor="#f7fafc", edgecolor="#cbd5e0", label="takes no part"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    share = 100 * np.mean(wrong[takes_part] == 0)
    figure.suptitle(f"{name}: task {task.name}, {share:.1f} % of {takes_part.sum()} models right", fontsize=10)
    return figure


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in Path(text).stem) or "collection"


def make_figures(
    results: pd.DataFrame, collections: Sequence[pd.DataFrame], fit: str, tasks: Sequence[str]
) -> Iterator[tuple[str, Figure]]:
    """Yield (name, figure) of what a transfer run draws: curves, trees fitted to all of train, phase plots.

    A tree is drawn for each of `tasks` that both classes of take part in; rows on which a feature of it is not finite
    are left out, as in the experiments.
    """
    with mpl.rc_context(_STYLE):
        for experiment in dict.fromkeys(results["experiment"]):
            yield f"accuracy_{experiment}", accuracy_curves(results, experiment)
        names = [c.attrs["name"] for c in collections]
        files = [_file_name(n) for n in names]
        files = (
            files
            if len(set(files)) == len(files)
            else [f"{f}_{side}" for f, side in zip(files, ("train", "test"), strict=True)]
        )
        for collection, name, file in zip(collections, names, files, strict=True):
            yield f"phase_metrics_{file}", phase_metrics(collection, name)
        asked = [(TASKS[name], False) for name in tasks if name in TASKS]
        asked += [(TASKS["optimizer"], True)] * ("optimizer" in tasks)
        for task, similarity in asked:
            tree = MDTreeClassifier(task=task.name, similarity=similarity, fit=fit)
            features = tree_features(tree)
            if any(missing_columns(c, features) for c in collections):
                continue
            train, shown = (c[finite_rows_of(c, features)] for c in (collections[0], collections[-1]))
            if train[task.label][train[task.label] != OPTIMAL].nunique() < 2 or not len(shown):
                continue
            tree.fit(train)
            kind = "_similarity" if similarity else ""
            title = f"Task {task.name}{' with similarity' * similarity}: {fit} fit on all of {names[0]}"
            yield f"tree_{task.name}{kind}", fitted_tree(tree, title)
            if not similarity:
                yield f"phase_{task.name}_{files[-1]}", phase_labels(shown, tree, task, names[-1])


def tree_features(tree: MDTreeClassifier) -> tuple[str, ...]:
    """Return the features that an unfitted tree will ask for."""
    return choose_structure(tree.task, similarity=tree.similarity, structure=tree.structure).features


def write_figures(
    out: Path, results: pd.DataFrame, collections: Sequence[pd.DataFrame], fit: str, tasks: Sequence[str]
) -> list[str]:
    """Write every figure to `out`/figures as PNG and SVG; return the names, one a figure."""
    names = []
    with output_folder(out / "figures") as folder:
        ours = [f"{kind}_*.{suffix}" for kind in ("accuracy", "phase", "tree") for suffix in ("png", "svg")]
        stale = {path for pattern in ours for path in folder.glob(pattern)}
        for name, figure in make_figures(results, collections, fit, tasks):
            stale -= set(save(figure, folder, name))
            names.append(f"figures/{name}")
        for path in stale:  # of an earlier run into the same folder
            path.unlink()
    return names
