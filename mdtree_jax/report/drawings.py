"""Drawings of a report as SVG text: number lines, bars, phase plots. NumPy only.

Colours and fonts come from the page's style sheet, so that dark pages and paper are served by the same drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from mdtree_jax.diagnosis import joint
from mdtree_jax.diagnosis.evidence import EvidenceStep
from mdtree_jax.report.words import LOOKS, metric_name


def number_line(step: EvidenceStep, quantiles: Mapping[str, Sequence[float]], levels: Sequence[float]) -> str:
    """Return a step of the evidence as a line: value with error bar, threshold with interval, range of the reference.

    The line is straight in the scale of the joint model, so that small errors are told apart, and covers the central
    98 % of the reference, the value and the threshold.
    """
    scale = joint.SCALES[step.feature].to_scale if step.feature in joint.SCALES else (lambda v: v)
    known = dict(zip(levels, quantiles.get(step.feature, ()), strict=False))
    error = step.standard_error or 0.0
    ends = [step.value - error, step.value + error, step.threshold, *(step.interval or ())]
    ends += [known[level] for level in (0.01, 0.99) if level in known]
    at = _Axis(scale, ends, 24.0, 576.0)
    parts = [f'<svg class="line" viewBox="0 0 600 74" role="img" aria-label="{escape(step.sentence)}">']
    if 0.05 in known and 0.95 in known:
        left, right = sorted((at(known[0.05]), at(known[0.95])))
        parts.append(f'<rect class="range" x="{left:.1f}" y="30" width="{right - left:.1f}" height="14" rx="7"/>')
        parts.append(f'<line class="median" x1="{at(known[0.5]):.1f}" x2="{at(known[0.5]):.1f}" y1="30" y2="44"/>')
    parts.append('<line class="axis" x1="24" x2="576" y1="37" y2="37"/>')
    if step.interval:
        left, right = sorted(map(at, step.interval))
        parts.append(f'<rect class="doubt" x="{left:.1f}" y="24" width="{max(right - left, 1):.1f}" height="26"/>')
    x = at(step.threshold)
    parts.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="54"/>')
    parts.append(_label(x, 68, f"threshold {step.threshold:.3g}", "small"))
    x = at(step.value)
    if error:
        low, high = sorted((at(step.value - error), at(step.value + error)))
        parts.append(f'<line class="error" x1="{low:.1f}" x2="{high:.1f}" y1="37" y2="37"/>')
    parts.append(f'<circle class="dot" cx="{x:.1f}" cy="37" r="7"/>')
    value = step.value + 0.0  # no minus before a zero
    shown = f"{value:.3g} ± {error:.2g}" if error else f"{value:.3g}"
    parts.append(_label(x, 14, f"this model {shown}", "value"))
    return "".join(parts) + "</svg>"


def gain_line(gain: Mapping[str, float]) -> str:
    """Return the expected gain as a line of points of test accuracy with zero marked."""
    low, mean, high = gain["low"], gain["mean"], gain["high"]
    at = _Axis(lambda v: v, [low, high, 0.0, mean], 40.0, 560.0)
    zero, left, right, middle = at(0.0), at(low), at(high), at(mean)
    label = f"expected gain {mean:+.1f} points, from {low:+.1f} to {high:+.1f}"
    parts = [f'<svg class="line" viewBox="0 0 600 66" role="img" aria-label="{label}">']
    parts.append('<line class="axis" x1="24" x2="576" y1="32" y2="32"/>')
    parts.append(f'<rect class="gain" x="{left:.1f}" y="25" width="{right - left:.1f}" height="14" rx="7"/>')
    parts.append(f'<line class="threshold" x1="{zero:.1f}" x2="{zero:.1f}" y1="20" y2="44"/>')
    parts.append(f'<circle class="dot" cx="{middle:.1f}" cy="32" r="7"/>')
    parts.append(_label(middle, 14, f"{mean:+.1f}", "value"))
    for x, value in ((left, low), (right, high)):
        if abs(x - zero) > 60:
            parts.append(_label(x, 60, f"{value:+.1f}", "small"))
    parts.append(_label(zero, 60, "no change", "small"))
    return "".join(parts) + "</svg>"


def strip(ranking: Mapping[str, float]) -> str:
    """Return the probabilities of the causes as one bar of five colours, for a row of a table."""
    parts, left = ['<svg class="strip" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'], 0.0
    for cause, (_, colour) in LOOKS.items():
        width = 100 * ranking.get(cause, 0.0)
        parts.append(f'<rect x="{left:.2f}" y="0" width="{width:.2f}" height="10" fill="{colour}"/>')
        left += width
    return "".join(parts) + "</svg>"


def phase_plot(bins: Mapping, metrics: Mapping[str, float]) -> str:
    """Return where a model lies among the reference's models, as a map of two metrics; empty if it lacks one.

    Args:
        bins: one of `Reference.summary()["bins"]`: edges, and counts by cause.
        metrics: of the model, `<name>_se` beside; outside the map it is drawn at its edge.
    """
    names, edges = bins["metrics"], [np.asarray(e, float) for e in bins["edges"]]
    counts = np.array([bins["counts"][cause] for cause in LOOKS])
    for axis in (0, 1):  # larger values stand on the right and on top, also where the bins go down
        if edges[axis][0] > edges[axis][-1]:
            edges[axis], counts = edges[axis][::-1], np.flip(counts, 1 + axis)
    if not all(name in metrics and np.isfinite(metrics[name]) for name in names):
        return ""
    total, first = counts.sum(0), counts.argmax(0)
    number = counts.shape[1]
    left, top, size = 66.0, 12.0, 306.0
    cell = size / number
    title = f"{metric_name(names[0])} against {metric_name(names[1])}"
    parts = [f'<svg class="phase" viewBox="0 0 400 384" role="img" aria-label="{escape(title)}">']
    parts.append(f'<rect class="ground" x="{left}" y="{top}" width="{size}" height="{size}"/>')
    colours = [colour for _, colour in LOOKS.values()]
    for i, j in zip(*np.nonzero(total), strict=True):
        opacity = 0.35 + 0.65 * min(1.0, total[i, j] / 25)
        x, y = left + i * cell, top + size - (j + 1) * cell
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" fill="{colours[first[i, j]]}" '
            f'fill-opacity="{opacity:.2f}"/>'
        )
    for place in range(0, number + 1, 3):
        x, y = left + place * cell, top + size - place * cell
        parts.append(_text(x, top + size + 17, f"{edges[0][place]:.3g}", "middle"))
        parts.append(_text(left - 9, y + 4, f"{edges[1][place]:.3g}", "end"))
    parts.append(_text(left + size / 2, top + size + 40, metric_name(names[0]), "middle"))
    middle = top + size / 2
    text = escape(metric_name(names[1]))
    parts.append(
        f'<text class="small" text-anchor="middle" transform="translate(16 {middle}) rotate(-90)">{text}</text>'
    )
    (x, x_ends), (y, y_ends) = (_with_error(edges[k], metrics, names[k]) for k in (0, 1))
    x, x_ends = left + cell * x, [left + cell * e for e in x_ends]
    y, y_ends = top + size - cell * y, [top + size - cell * e for e in y_ends]
    if x_ends:
        parts.append(f'<line class="error" x1="{x_ends[0]:.1f}" x2="{x_ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    if y_ends:
        parts.append(f'<line class="error" x1="{x:.1f}" x2="{x:.1f}" y1="{y_ends[0]:.1f}" y2="{y_ends[1]:.1f}"/>')
    parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="8"/>')
    return "".join(parts) + "</svg>"


def bin_place(edges: np.ndarray, value: float) -> float:
    """Return where a value lies along the bins, 0 at the first edge and the number of bins at the last, clipped.

    >>> bin_place(np.array([0.0, 1.0, 3.0]), 2.0), bin_place(np.array([0.0, -1.0, -3.0]), -9.0)
    (1.5, 2.0)
    """
    order = np.argsort(edges, kind="stable")
    return float(np.interp(value, edges[order], np.arange(len(edges))[order]))


def _with_error(edges: np.ndarray, metrics: Mapping[str, float], name: str) -> tuple[float, list[float]]:
    value, error = metrics[name], metrics.get(f"{name}_se", 0.0)
    ends = [bin_place(edges, value - error), bin_place(edges, value + error)] if error and np.isfinite(error) else []
    return bin_place(edges, value), ends


class _Axis:
    """From values to positions between `left` and `right`, straight in a scale."""

    def __init__(self, scale, values: Sequence[float], left: float, right: float):
        self.scale, self.left, self.right = scale, left, right
        places = [p for p in map(self._place, values) if np.isfinite(p)]
        self.low, self.high = min(places), max(places)
        # Larger values stand on the right, also where the scale turns them round.
        self.turned = self._place(max(values)) < self._place(min(values))

    def _place(self, value: float) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.scale(np.asarray(value, float)))

    def __call__(self, value: float) -> float:
        place = self._place(value)
        # Beyond what the scale can take, as an error bar below an error of 0, is the end of the line.
        place = (place - self.low) / max(self.high - self.low, 1e-12) if np.isfinite(place) else 0.0
        place = float(np.clip(1 - place if self.turned else place, 0, 1))
        return self.left + place * (self.right - self.left)


def _label(x: float, y: float, text: str, kind: str) -> str:
    """Return a text of a line that is 600 wide, anchored so that it stays inside."""
    anchor = "end" if x > 520 else "start" if x < 80 else "middle"
    return _text(x, y, text, anchor, kind)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "small") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
