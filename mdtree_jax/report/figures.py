"""Figures of the transfer experiments: accuracy curves, fitted trees, phase plots. PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mdtree_jax.collection.columns import finite_rows_of, missing_columns
from mdtree_jax.collection.tasks import OPTIMAL, TASKS, Task, takes_part
from mdtree_jax.files import output_folder, written_aside
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.registry.questions import class_colour
from mdtree_jax.report.planes import Plane, axis_label, axis_name, make_plane, panel_name
from mdtree_jax.report.pyplot import plt
from mdtree_jax.report.statistics import over_seeds
from mdtree_jax.report.styles import style_of
from mdtree_jax.report.tables import method_label, title_of
from mdtree_jax.trees.classifier import MDTreeClassifier, choose_structure
from mdtree_jax.trees.questions import SIMILARITY

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

_STYLE: dict[RcKeyType, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mdtree_jax",
    "figure.dpi": 110,
}
#: Column and colours of the phase plots of metrics.
_PHASE_METRICS = (
    ("test_error", "viridis"),
    ("train_error", "magma_r"),
    ("mode_connectivity_peak", "cividis"),
    ("log_hessian_trace", "inferno"),
    ("cka", "viridis"),
)
#: Ratio of the largest to the smallest sample from which the axis of sample sizes is logarithmic.
_DOUBLES = 4.0


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG, each in one piece, close it, and return the paths."""
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        with written_aside(path) as aside:
            figure.savefig(aside, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def accuracy_curves(results: pd.DataFrame, experiment: str) -> Figure:
    """Return accuracy against the number of training models, every method.

    Lines are means over the seeds, bands their 95 % intervals (Student's t), omitted for a single seed or a sample
    without randomness.
    """
    part = results[results["experiment"] == experiment]
    table = over_seeds(part, ["method", "k"], "accuracy")
    table["n_train"] = part.groupby(["method", "k"], sort=False)["n_train"].mean()
    figure, ax = plt.subplots(figsize=(7.8, 4.6), layout="constrained")
    has_bands = False
    for method in dict.fromkeys(part["method"]):
        style, curve = style_of(method), table.loc[method]
        x, y, half = (curve[c].to_numpy(dtype=float) for c in ("n_train", "mean", "half_width"))
        look = {"color": style.colour, "marker": style.marker, "ms": 4.5, "mew": 0, "lw": 1.5}
        ax.plot(x, y, style.line, label=method_label(method), **look)
        if np.nan_to_num(half).any():
            has_bands = True
            ends = np.clip([y - half, y + half], 0, 100)
            ax.fill_between(x, *ends, color=style.colour, alpha=0.07, lw=0)
            for end in ends:
                ax.plot(x, end, style.line, color=style.colour, alpha=0.35, lw=0.6)
    _count_axis(ax, table["n_train"].to_numpy())
    seeds = part["seed"].nunique()
    over = f"mean over {seeds} seeds" if seeds > 1 else "one seed"
    ax.set_ylabel(f"models diagnosed correctly, %\n({over}{'; band: 95 % interval of the mean' * has_bands})")
    ax.set_title(_curve_title(experiment, part["n_test"]), loc="left", fontsize=9.5)
    ax.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _curve_title(experiment: str, n_test: pd.Series) -> str:
    low, high = n_test.min(), n_test.max()
    tested = f"{low}" if low == high else f"{low} to {high}"
    return f"{title_of(experiment)}\ntested on {tested} models"


def _count_axis(ax: Axes, counts: np.ndarray) -> None:
    """Label the axis of sample sizes, logarithmic where they double."""
    ax.set_xlabel("number of training models")
    low, high = counts.min(), counts.max()
    if low > 0 and high >= _DOUBLES * low:
        ax.set_xscale("log", base=2)
        ticks = [round(low * 2**i) for i in range(int(np.log2(high / low)) + 1)]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()


def fitted_tree(tree: MDTreeClassifier, title: str) -> Figure:
    """Return a drawing of a fitted tree."""
    ax = tree.plot()
    ax.set_title(title, loc="left", fontsize=10)
    return ax.figure.figure


def _phase_axes(ax, plane: Plane, *, left: bool, bottom: bool) -> None:
    """Label the cells of a phase plot by the values of its axes, on the outer panels only."""
    for axis, shown in ((ax.xaxis, bottom), (ax.yaxis, left)):
        ticks = (plane.x if axis is ax.xaxis else plane.y).ticks
        axis.set_ticks(np.arange(len(ticks)) + 0.5, [tick if shown else "" for tick in ticks], fontsize=6.5)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if bottom:
        ax.set_xlabel(axis_label(plane.x.knob), fontsize=8)


def _over(plane: Plane) -> str:
    """Return what a phase plot is drawn over."""
    names = " × ".join(axis_name(axis.knob) for axis in (plane.y, plane.x) if axis.knob)
    return f"{names}, {plane.fixed}" if plane.fixed else names


def phase_metrics(frame: pd.DataFrame, name: str, axes: Sequence[str] | None = None) -> Figure:
    """Return the metrics over two knobs (`axes`, x and y; None for the plane's own), a row a value of a third one."""
    plane = make_plane(frame, axes)
    rows = range(len(plane.panel.ticks))
    metrics = [m for m in _PHASE_METRICS if m[0] in frame]
    figure, axs = plt.subplots(len(rows), len(metrics), figsize=(2.9 * len(metrics), 2.35 * len(rows) + 0.6),
                               layout="constrained", squeeze=False)  # fmt: skip
    for j, (column, colours) in enumerate(metrics):
        values = frame[column].to_numpy(dtype=float)
        title = "test accuracy, %" if column == "test_error" else MEASUREMENTS[column].axis
        values = 100 - values if column == "test_error" else values
        low, high = np.nanpercentile(values, [1, 99])
        look = {"cmap": colours, "vmin": low, "vmax": high}
        images = [axs[i, j].pcolormesh(plane.matrix(values, i), **look) for i in rows]
        for i in rows:
            ax = axs[i, j]
            _phase_axes(ax, plane, left=j == 0, bottom=i == rows[-1])
            if i == 0:
                ax.set_title(title.partition(",")[0], fontsize=9)
            if j == 0:
                ax.set_ylabel(f"{panel_name(plane.panel, i)}\n{axis_label(plane.y.knob)}", fontsize=8)
        bar = figure.colorbar(images[-1], ax=axs[:, j], location="bottom", fraction=0.03, aspect=25, extend="both")
        bar.set_label(title, fontsize=7)
        bar.ax.tick_params(labelsize=7)
    figure.suptitle(f"{name}: metrics over {_over(plane)} (colours end at the 1st and 99th percentile)", fontsize=10)
    return figure


def phase_labels(
    frame: pd.DataFrame, tree: MDTreeClassifier, task: Task, name: str, axes: Sequence[str] | None = None
) -> Figure:
    """Return label, verdict of the tree and where it errs, over the knobs of `phase_metrics`."""
    plane = make_plane(frame, axes)
    rows = range(len(plane.panel.ticks))
    classes = [*task.classes, OPTIMAL]
    colours = ListedColormap([class_colour(c) for c in task.classes] + ["#e2e8f0"])
    label = np.array([classes.index(v) if v in classes else -1 for v in frame[task.label]])
    verdict = np.array([classes.index(v) for v in tree.predict(frame)])
    part = takes_part(frame, task)
    wrong = np.where(part, label != verdict, -1)
    columns = (("label, from the grid", label, colours, 2), ("answer of the tree", verdict, colours, 2),
               ("where the tree errs", wrong, ListedColormap(["#c6f6d5", "#c53030"]), 1))  # fmt: skip
    figure, axs = plt.subplots(len(rows), 3, figsize=(9.2, 2.5 * len(rows) + 0.9), layout="constrained",
                               squeeze=False)  # fmt: skip
    for j, (title, codes, cmap, top) in enumerate(columns):
        for i in rows:
            ax = axs[i, j]
            ax.set_facecolor("#f7fafc")
            ax.pcolormesh(plane.commonest(codes, top + 1, i), cmap=cmap, vmin=-0.5, vmax=top + 0.5)
            _phase_axes(ax, plane, left=j == 0, bottom=i == rows[-1])
            if i == 0:
                ax.set_title(title, fontsize=9)
            if j == 0:
                ax.set_ylabel(f"{panel_name(plane.panel, i)}\n{axis_label(plane.y.knob)}", fontsize=8)
    names = [*(answer.words for answer in task.answers), "no difference"]
    handles = [Patch(color=colours(i), label=name) for i, name in enumerate(names)]
    handles += [Patch(color="#c6f6d5", label="tree is right"), Patch(color="#c53030", label="tree errs")]
    handles.append(Patch(facecolor="#f7fafc", edgecolor="#cbd5e0", label="takes no part"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    share = 100 * np.mean(wrong[part] == 0)
    figure.suptitle(
        f"{task.title}: the tree is right for {share:.1f} % of {part.sum()} models of {name}\n{task.sentence}",
        fontsize=10,
    )
    return figure


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in Path(text).stem) or "collection"


def make_figures(
    results: pd.DataFrame,
    collections: Sequence[pd.DataFrame],
    fit: str,
    tasks: Sequence[str],
    axes: Sequence[str] | None = None,
) -> Iterator[tuple[str, Figure]]:
    """Yield (name, figure) of what a transfer run draws: curves, trees fitted to all of train, phase plots.

    `axes` are the knobs of phase plots. A tree is drawn for each of `tasks` that both classes of take part in; rows on
    which a feature of it is not finite are left out, as in the experiments.
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
            yield f"phase_metrics_{file}", phase_metrics(collection, name, axes)
        asked = [(TASKS[name], False) for name in tasks if name in TASKS]
        asked += [(TASKS[name], True) for name in tasks if name in SIMILARITY]
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
            title = f"{task.title}{', asking for similarity' * similarity}: {fit} fit to all of {names[0]}"
            yield f"tree_{task.name}{kind}", fitted_tree(tree, title)
            if not similarity:
                yield f"phase_{task.name}_{files[-1]}", phase_labels(shown, tree, task, names[-1], axes)


def tree_features(tree: MDTreeClassifier) -> tuple[str, ...]:
    """Return the features that an unfitted tree will ask for."""
    return choose_structure(tree.task, similarity=tree.similarity, structure=tree.structure).features


def write_figures(
    out: Path,
    results: pd.DataFrame,
    collections: Sequence[pd.DataFrame],
    fit: str,
    tasks: Sequence[str],
    axes: Sequence[str] | None = None,
) -> list[str]:
    """Write every figure to `out`/figures as PNG and SVG; return the names, one a figure."""
    names = []
    with output_folder(out / "figures") as folder:
        ours = [f"{kind}_*.{suffix}" for kind in ("accuracy", "phase", "tree") for suffix in ("png", "svg")]
        stale = {path for pattern in ours for path in folder.glob(pattern)}
        for name, figure in make_figures(results, collections, fit, tasks, axes):
            stale -= set(save(figure, folder, name))
            names.append(f"figures/{name}")
        for path in stale:  # of an earlier run into the same folder
            path.unlink()
    return names
