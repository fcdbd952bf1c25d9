"""Drawings of a report as SVG text: number lines, strips, maps of the reference. NumPy only.

Colours and fonts come from the page's style sheet, so that dark pages and paper are served by the same drawing. Lines
are placed in percent of the page's width and so keep the size of their text on a phone; maps are squares that shrink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mdtree_jax.causes import joint
from mdtree_jax.diagnosis.outlook import Move, Term
from mdtree_jax.diagnosis.words.causes import colour, in_order
from mdtree_jax.diagnosis.words.evidence import sentence
from mdtree_jax.diagnosis.words.formats import number, points
from mdtree_jax.diagnosis.words.metrics import axis as metric_name
from mdtree_jax.diagnosis.words.outlook import term_row
from mdtree_jax.registry.measurements import bounds_of
from mdtree_jax.trees.decision_path import EvidenceStep

#: Map of two metrics, in units of its drawing: left and upper end and side of the square, and the whole drawing.
MAP_LEFT, MAP_TOP, MAP_SIDE, MAP_WIDTH, MAP_HEIGHT = 80.0, 14.0, 304.0, 400, 376
#: Half the width of a letter and the gap between two labels of a line, in percent of the narrowest line (300 px).
_HALF_LETTER, _GAP = 1.25, 3.0


def number_line(step: EvidenceStep, known: Mapping[float, float]) -> str:
    """Return a step of the evidence as a line: value with error bar, threshold with interval, range of the reference.

    The line is straight in the scale of the joint model, so that small errors are told apart, and covers the central
    90 % of the reference, the value and the threshold with their errors.

    Args:
        step: what was asked.
        known: quantiles of the reference's models by level, 0.05, 0.5 and 0.95 of them; may be empty.
    """
    error = step.standard_error or 0.0
    error_ends = _kept_inside(step.feature, step.value - error, step.value + error)
    ends = [step.value, *error_ends, step.threshold, *(step.interval or ())]
    ends += [known[level] for level in (0.05, 0.95) if level in known]
    at = _Axis(joint.SCALES[step.feature].to_scale if step.feature in joint.SCALES else None, ends)
    parts = [f'<svg class="line" height="84" role="img" aria-label="{escape(sentence(step))}">']
    if {0.05, 0.5, 0.95} <= set(known):
        parts.append(_bar("range", at(known[0.05]), at(known[0.95]), 33, 14))
        parts.append(_upright("median", at(known[0.5]), 33, 47))
    parts.append('<line class="axis" x1="0%" x2="100%" y1="40" y2="40"/>')
    if step.interval:
        parts.append(_bar("doubt", at(step.interval[0]), at(step.interval[1]), 26, 28))
    parts.append(_upright("threshold", at(step.threshold), 22, 58))
    if error:
        parts.append(_error_bar(at(error_ends[0]), at(error_ends[1]), 40))
    parts.append(f'<circle class="dot" cx="{at(step.value):.2f}%" cy="40" r="7"/>')
    parts.append(_text(at(step.value), 14, f"this model {number(step.value, step.standard_error)}", "value"))
    parts.append(_text(at(step.threshold), 72, f"threshold {number(step.threshold)}", "strong"))
    ticks, taken = [], [_reach(at(step.threshold), f"threshold {number(step.threshold)}")]
    for value in at.ticks():
        reach = _reach(at(value), number(value))
        if _is_free(reach, taken):
            taken.append(reach)
            ticks.append(_upright("tick", at(value), 50, 56) + _text(at(value), 72, number(value), "soft"))
    parts += ticks
    return "".join(parts) + "</svg>"


def gain_line(gain: Any) -> str:
    """Return an expected gain (mean, low, high in points) as a line with its interval, and no change marked."""
    at = _Axis(None, [gain.low, gain.high, gain.mean, 0.0])
    label = f"expected gain {points(gain.mean)} points, from {points(gain.low)} to {points(gain.high)}"
    parts = [f'<svg class="line" height="76" role="img" aria-label="{label}">']
    parts.append('<line class="axis" x1="0%" x2="100%" y1="34" y2="34"/>')
    parts.append(_bar("gain", at(gain.low), at(gain.high), 26, 16))
    parts.append(_upright("threshold", at(0.0), 18, 50))
    parts.append(f'<circle class="dot" cx="{at(gain.mean):.2f}%" cy="34" r="7"/>')
    parts.append(_text(at(gain.mean), 12, f"{points(gain.mean)} points", "value"))
    parts.append(_text(at(0.0), 66, "no change", "strong"))
    taken = [_reach(at(0.0), "no change")]
    for value in (gain.low, gain.high):  # the sentence above has the number of a label that finds no room
        reach = _reach(at(value), points(value))
        if _is_free(reach, taken):
            taken.append(reach)
            parts.append(_text(at(value), 66, points(value), "strong"))
    return "".join(parts) + "</svg>"


def budget_bar(terms: Sequence[Term], error: float) -> str:
    """Return an error budget as one stacked bar, a colour per term; negative terms lead back from its end, below it.

    Args:
        terms: of the budget, points.
        error: what they add up to, percent; marked.
    """
    gains = [term for term in terms if term.points > 0]
    losses = [term for term in terms if term.points < 0]
    total = sum(term.points for term in gains) or 1.0
    label = escape(f"error budget: {', '.join(f'{row.name} {row.points}' for row in map(term_row, terms))}")
    parts = [f'<svg class="line budget" height="{78 if losses else 62}" role="img" aria-label="{label}">']
    left = 0.0
    for term in gains:
        width = 100 * term.points / total
        parts.append(_piece("part", left, width, 8, 28, term_row(term).colour))
        shown = f"{term.points:.1f}"
        if width > 2 * _HALF_LETTER * len(shown) + 1:
            parts.append(f'<text class="on" x="{left + width / 2:.2f}%" y="27" text-anchor="middle">{shown}</text>')
        left += width
    for term in losses:
        width = 100 * -term.points / total
        left -= width
        parts.append(_piece("back", left, width, 39, 10, term_row(term).colour))
    at = min(max(100 * error / total, 0.0), 100.0)
    low = 66 if losses else 50
    parts.append(_upright("threshold", at, 3, low - 10))
    parts.append(_text(at, low + 4, f"error {number(error)} %", "strong"))
    return "".join(parts) + "</svg>"


def move_lines(moves: Sequence[Move]) -> tuple[list[str], str]:
    """Return a drawing for every move, expected gain and interval on an axis that they share, and that axis."""
    at = _Axis(None, [0.0, *(value for move in moves for value in (move.low, move.high, move.gain))])
    lines = []
    for move in moves:
        label = escape(f"expected gain {points(move.gain)} points, from {points(move.low)} to {points(move.high)}")
        zero, low, high, gain = (at(value) for value in (0.0, move.low, move.high, move.gain))
        lines.append(
            f'<svg class="line move" height="26" role="img" aria-label="{label}" style="--c:{colour(move.cause)}">'
            f"{_upright('threshold', zero, 0, 26)}{_bar('gain', low, high, 7, 12)}"
            f'<circle class="dot" cx="{gain:.2f}%" cy="13" r="6"/></svg>'
        )
    parts = ['<svg class="line move" height="22" aria-hidden="true">', _text(at(0.0), 14, "no change", "strong")]
    taken = [_reach(at(0.0), "no change")]
    for value in (at.low, at.high):
        reach = _reach(at(value), points(value))
        if _is_free(reach, taken):
            parts.append(_text(at(value), 14, points(value), "soft"))
    return lines, "".join(parts) + "</svg>"


def strip(ranking: Mapping[str, float]) -> str:
    """Return the probabilities of the causes as one bar, a colour each, for a row of a table."""
    parts, left = ['<svg class="strip" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'], 0.0
    for cause in in_order(ranking):
        width = 100 * ranking[cause]
        parts.append(f'<rect x="{left:.2f}" y="0" width="{width:.2f}" height="10" fill="{colour(cause)}"/>')
        left += width
    return "".join(parts) + "</svg>"


def map_ground(bins: Mapping[str, Any]) -> str:
    """Return the fields and axes of a map of two metrics, the same for every model of a reference.

    Args:
        bins: one of `Reference.summary()["bins"]`: metrics, edges, and counts by cause.
    """
    names = bins["metrics"]
    edges, counts = _rising(bins)
    total, first = counts.sum(0), counts.argmax(0)
    steps = [MAP_SIDE / n for n in total.shape]
    bottom = MAP_TOP + MAP_SIDE
    parts = [f'<rect class="ground" x="{MAP_LEFT}" y="{MAP_TOP}" width="{MAP_SIDE}" height="{MAP_SIDE}"/>']
    colours = [colour(cause) for cause in in_order(bins["counts"])]
    for i, j in zip(*np.nonzero(total), strict=True):
        # On a logarithmic scale: one corner often holds hundreds of models.
        opacity = 0.45 + 0.55 * np.log1p(total[i, j]) / np.log1p(total.max())
        parts.append(
            f'<rect x="{MAP_LEFT + i * steps[0]:.1f}" y="{bottom - (j + 1) * steps[1]:.1f}" width="{steps[0]:.1f}" '
            f'height="{steps[1]:.1f}" fill="{colours[first[i, j]]}" fill-opacity="{opacity:.2f}"/>'
        )
    for axis in (0, 1):
        for place in range(0, len(edges[axis]), max(1, len(edges[axis]) // 4)):
            along, shown = place * steps[axis], number(float(f"{edges[axis][place]:.2g}"))
            x, y = (MAP_LEFT + along, bottom + 24) if axis == 0 else (MAP_LEFT - 14, bottom - along + 4.5)
            parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{("middle", "end")[axis]}">{shown}</text>')
    middle = MAP_LEFT + MAP_SIDE / 2
    parts.append(f'<text x="{middle}" y="{bottom + 48}" text-anchor="middle">{escape(metric_name(names[0]))}</text>')
    turned = f'transform="translate(14 {MAP_TOP + MAP_SIDE / 2}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(metric_name(names[1]))}</text>')
    return "".join(parts)


def map_of(bins: Mapping[str, Any], metrics: Mapping[str, float], ground: str | None = None) -> dict[str, Any] | None:
    """Return where a model lies among the reference's models on a map of two metrics, None if it lacks one of them.

    Args:
        bins: one of `Reference.summary()["bins"]`.
        metrics: of the model, `<name>_se` beside; a value that is not finite counts as missing.
        ground: what `map_ground` returned for these bins; None makes it.

    Returns:
        `svg`, and `outside`: names of the metrics that lie beyond the map, where the dot stands at its edge.
    """
    names = bins["metrics"]
    if not all(np.isfinite(metrics.get(name, np.nan)) for name in names):
        return None
    edges, _ = _rising(bins)
    bottom = MAP_TOP + MAP_SIDE
    to_x = [lambda v: MAP_LEFT + v * MAP_SIDE, lambda v: bottom - v * MAP_SIDE]
    dot, bars, outside = [], [], []
    for axis, name in enumerate(names):
        value, error = float(metrics[name]), metrics.get(f"{name}_se", np.nan)
        dot.append(to_x[axis](_place(edges[axis], value)))
        if np.isfinite(error) and error > 0:
            bars.append((axis, [to_x[axis](_place(edges[axis], value + sign * error)) for sign in (-1, 1)]))
        if not edges[axis][0] <= value <= edges[axis][-1]:
            outside.append(metric_name(name))
    x, y = dot
    title = escape(f"{metric_name(names[0])} against {metric_name(names[1])}")
    parts = [f'<svg class="map" viewBox="0 0 {MAP_WIDTH} {MAP_HEIGHT}" role="img" aria-label="{title}">']
    parts.append(map_ground(bins) if ground is None else ground)
    for axis, (low, high) in bars:
        ends = (low, high, y, y) if axis == 0 else (x, x, low, high)
        for kind in ("halo", "error"):
            parts.append('<line class="{}" x1="{:.2f}" x2="{:.2f}" y1="{:.2f}" y2="{:.2f}"/>'.format(kind, *ends))
    parts.append(f'<circle class="dot" cx="{x:.2f}" cy="{y:.2f}" r="9"/>')
    return {"svg": "".join(parts) + "</svg>", "outside": outside}


def _rising(bins: Mapping[str, Any]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return edges and counts (causes, i, j) with both axes turned so that larger values stand right and on top."""
    edges = [np.asarray(e, float) for e in bins["edges"]]
    counts = np.array([bins["counts"][cause] for cause in in_order(bins["counts"])])
    for axis in (0, 1):
        if edges[axis][0] > edges[axis][-1]:
            edges[axis], counts = edges[axis][::-1], np.flip(counts, 1 + axis)
    return edges, counts


def _place(edges: np.ndarray, value: float) -> float:
    """Return where a value lies along rising edges of equally wide fields, from 0 to 1, clipped."""
    return float(np.interp(value, edges, np.linspace(0, 1, len(edges))))


class _Axis:
    """From values to percent of a line's width, straight in a scale, larger values on the right."""

    def __init__(self, scale: Callable | None, values: Sequence[float]):
        self.scale = scale or (lambda v: v)
        self.low, self.high = min(values), max(values)
        if self.low == self.high:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self.start, self.end = (float(self.scale(np.float64(v))) for v in (self.low, self.high))

    def __call__(self, value: float) -> float:
        place = (float(self.scale(np.float64(value))) - self.start) / (self.end - self.start or 1.0)
        return 3 + 94 * float(np.clip(place, 0, 1))

    def ticks(self) -> list[float]:
        """Return round values in the range, the most welcome first."""
        middle = self((self.low + self.high) / 2)
        if 40 < middle < 60:  # nearly straight
            step = 10 ** np.floor(np.log10(self.high - self.low))
            step *= next(f for f in (0.2, 0.5, 1, 2) if (self.high - self.low) / (step * f) <= 6.5)
            return [float(v) for v in np.arange(np.ceil(self.low / step), np.floor(self.high / step) + 1) * step]
        ladder = [f * 10.0**e for f in (1, 3) for e in range(3, -5, -1)]
        return [v for v in (0.0, *ladder, *(-v for v in ladder)) if self.low <= v <= self.high]


def _is_free(reach: tuple[float, float], taken: Sequence[tuple[float, float]]) -> bool:
    return all(reach[1] + _GAP <= low or high + _GAP <= reach[0] for low, high in taken)


def _reach(x: float, text: str) -> tuple[float, float]:
    """Return from where to where a label goes at most, in percent of the width."""
    half = _HALF_LETTER * len(text)
    return {"start": (x, x + 2 * half), "middle": (x - half, x + half), "end": (x - 2 * half, x)}[_anchor(x, text)]


def _anchor(x: float, text: str) -> str:
    """Return the end by which a label is held so that it stays inside."""
    half = _HALF_LETTER * len(text)
    return "end" if x + half > 102 else "start" if x - half < -2 else "middle"


def _kept_inside(feature: str, low: float, high: float) -> tuple[float, float]:
    """Return the ends of an error bar cut at the limits of what the metric can be."""
    bounds = bounds_of(feature)
    return float(np.clip(low, *bounds)), float(np.clip(high, *bounds))


def _bar(kind: str, left: float, right: float, y: float, height: float) -> str:
    left, right = sorted((left, right))
    width = max(right - left, 0.6)
    return f'<rect class="{kind}" x="{left:.2f}%" y="{y}" width="{width:.2f}%" height="{height}" rx="4"/>'


def _piece(kind: str, left: float, width: float, y: float, height: float, fill: str) -> str:
    return f'<rect class="{kind}" x="{left:.2f}%" y="{y}" width="{width:.2f}%" height="{height}" fill="{fill}"/>'


def _upright(kind: str, x: float, top: float, bottom: float) -> str:
    return f'<line class="{kind}" x1="{x:.2f}%" x2="{x:.2f}%" y1="{top}" y2="{bottom}"/>'


def _error_bar(left: float, right: float, y: float) -> str:
    left, right = sorted((left, right))
    line = f'<line class="error" x1="{left:.2f}%" x2="{right:.2f}%" y1="{y}" y2="{y}"/>'
    return line + _upright("error", left, y - 6, y + 6) + _upright("error", right, y - 6, y + 6)


def _text(x: float, y: float, text: str, kind: str) -> str:
    """Return a label at a percentage of the width."""
    return f'<text class="{kind}" x="{x:.2f}%" y="{y}" text-anchor="{_anchor(x, text)}">{escape(text)}</text>'
