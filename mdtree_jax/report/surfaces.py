"""Figures of slices through the loss surface and of curves between networks. NumPy and Matplotlib."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from mdtree_jax.checks import UserError
from mdtree_jax.report.pyplot import plt

_LEVELS = 20
#: From this ratio of largest to smallest value on, colours and contour lines are logarithmic.
_LOG_RATIO = 20.0


def surface_figure(coordinates: np.ndarray, values: np.ndarray, title: str = "", unit: str = "loss, nats") -> Figure:
    """Return a figure of a slice: a line for one direction, filled contours for two.

    The cross marks the network itself. Values that span more than a factor of 20 are shown on a logarithmic scale,
    because the basin would otherwise have a single colour. Points with non-finite values stay blank.

    Args:
        coordinates: (n,), the same along both directions, in lengths of the filters.
        values: (n,), or (n, n) with the first direction as first axis.
        title: above the figure.
        unit: of the values, for axis or colour bar.

    Raises:
        UserError: values of another shape, or none that is finite.
    """
    coordinates, values = np.asarray(coordinates, float), np.asarray(values, float)
    n = len(coordinates)
    if values.shape not in ((n,), (n, n)):
        raise UserError(
            f"values of shape {values.shape} do not match {n} coordinates; they must have shape ({n},) or ({n}, {n})"
        )
    if not np.isfinite(values).any():
        raise UserError("the slice has no finite values, so there is nothing to draw")
    figure, ax = plt.subplots(figsize=(4.6, 3.4) if values.ndim == 1 else (5.0, 4.1), layout="constrained")
    draw = _draw_line if values.ndim == 1 else _draw_plane
    draw(figure, ax, coordinates, np.ma.masked_invalid(values), unit)
    if title:
        ax.set_title(title, loc="left", fontsize=10)
    return figure


def _is_wide(values: np.ma.MaskedArray) -> bool:
    return bool(values.min() > 0 and values.max() > _LOG_RATIO * values.min())


def _draw_line(figure: Figure, ax: Axes, x: np.ndarray, values: np.ma.MaskedArray, unit: str) -> None:
    ax.plot(x, values, color="#2b6cb0", lw=1.8, marker="o", ms=3)
    centre = len(x) // 2
    ax.plot(x[centre], values[centre], "x", color="#c53030", ms=8, mew=2, zorder=3)
    if _is_wide(values):
        ax.set_yscale("log")
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel("step along the direction, filter norms", fontsize=9)
    ax.set_ylabel(unit, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)


def _draw_plane(figure: Figure, ax: Axes, x: np.ndarray, values: np.ma.MaskedArray, unit: str) -> None:
    low, high = float(values.min()), float(values.max())
    high = high if high > low else low + 1.0  # a constant has one colour
    is_wide = _is_wide(values)
    levels = np.geomspace(low, high, _LEVELS) if is_wide else np.linspace(low, high, _LEVELS)
    levels[[0, -1]] += np.array([-1e-9, 1e-9]) * (abs(low) + abs(high))  # rounding must not leave an end blank
    norm = LogNorm(low, high) if is_wide else Normalize(low, high)
    ax.set_facecolor("#edf2f7")
    # Matplotlib's rows are y: the second direction goes up.
    filled = ax.contourf(x, x, values.T, levels=levels, norm=norm, cmap="viridis")
    ax.contour(x, x, values.T, levels=levels, norm=norm, colors="white", linewidths=0.5, alpha=0.6)
    ax.plot(0, 0, "x", color="#c53030", ms=8, mew=2)
    ax.set_aspect("equal")
    ax.set_xlabel("first direction, filter norms", fontsize=9)
    ax.set_ylabel("second direction, filter norms", fontsize=9)
    bar = figure.colorbar(filled, ax=ax, label=unit, shrink=0.92)
    ticks = levels[:: max(1, _LEVELS // 6)].tolist()
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.minorticks_off()


def curve_figure(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = "", unit: str = "error, %"
) -> Figure:
    """Return errors or losses along paths between two networks: name -> (t, values), each (T,)."""
    if not curves:
        raise UserError("there are no curves to draw")
    figure, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
    colours = ("#2b6cb0", "#c53030", "#2f855a", "#d69e2e", "#6b46c1", "#4a5568")
    for index, (name, (t, values)) in enumerate(curves.items()):
        ax.plot(t, values, color=colours[index % len(colours)], lw=1.8, marker="o", ms=3, label=name)
    ax.set_xlabel("t, from one network (0) to the other (1)", fontsize=9)
    ax.set_ylabel(unit, fontsize=9)
    ax.set_xlim(-0.02, 1.02)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=8)
    if title:
        ax.set_title(title, loc="left", fontsize=10)
    return figure
