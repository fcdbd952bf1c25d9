"""Rows ahead of a row along an axis of a collection: on the same line, or near it if there are no lines.

A line consists of the rows that are equal in every other knob. If fewer than half of the rows share their line with
another row, as in a random search, **near** rows are used instead (`NearLines`): rows that are equal in every unordered
knob, and in every other knob within `TOLERANCE` times its range on a log2 scale; at most the `NEAR` nearest ones, by
maximum distance. They count only if they lie at least half a step of the knob ahead, because smaller moves are no
larger than the differences in the other knobs.

Limits: the gain from a near row includes the change of the error over a tenth of every other axis. The best of up to
`NEAR` rows ahead profits from the most favourable of these differences, so rooms for improvement are overestimated,
equally in all directions. With many axes or few rows, most rows have no near row and their values are missing. On a
smooth surface over four axes (1 500 rows within 20 points of test error), nearly nine in ten labels agreed with those
of the surface, and the root mean square error of rooms was 1.5 points; neither depended much on the two constants
(tests/collection/test_grid.py).

Coordinates are on a log2 scale; a 0 lies one step of its knob below the smallest positive value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mdtree_jax.collection.moves import Move
from mdtree_jax.registry.knobs import KNOBS

#: Share of an axis's range, on a log2 scale, within which coordinates count as equal outside a lattice.
TOLERANCE = 0.1
#: Maximum number of near rows that replace a line.
NEAR = 16
_CHUNK = 16384


def first_step(knob: str) -> float:
    """Return the doublings of a knob's first step: 1 for a step of x2, and for a knob without factors."""
    steps = KNOBS[knob].steps
    return float(np.log2(steps[0])) if steps else 1.0


def positions(knob: str, values: np.ndarray) -> np.ndarray:
    """Return coordinates as doublings, the shape of `values`; 0 lies one step below the smallest positive value.

    >>> positions("weight_decay", np.array([0.0, 1.0, 10.0])).round(2).tolist()
    [-3.32, 0.0, 3.32]
    """
    values = np.asarray(values, dtype=float)
    positive = values > 0
    if positive.all():
        return np.log2(values)
    low = np.log2(values[positive].min()) if positive.any() else 0.0
    return np.where(positive, np.log2(np.where(positive, values, 1.0)), low - first_step(knob))


def step_targets(values: np.ndarray, move: Move, doublings: float | None = 1.0) -> np.ndarray:
    """Return, for each of the ascending coordinates, the place of the one that a step of about 2**doublings leads to.

    It is the value ahead whose logarithm is nearest, the nearer one of two that are equally far; None is the next
    value. At the edge it is the place itself.

    >>> step_targets(np.array([16.0, 24, 32, 44, 64]), Move("batch_size", -1)).tolist()
    [0, 0, 0, 1, 2]
    >>> step_targets(np.array([0.2, 0.4, 0.5, 0.9, 1.0]), Move("data_fraction", +1)).tolist()
    [1, 3, 4, 4, 4]
    """
    return _targets(positions(move.knob, values), move.sign, doublings)


def _targets(here: np.ndarray, sign: int, doublings: float | None) -> np.ndarray:
    """Return what `step_targets` does, of coordinates as doublings."""
    places, last = np.arange(len(here)), len(here) - 1
    if doublings is None:
        return np.clip(places + sign, 0, last)
    # The two values around the wanted one, as far as they lie ahead.
    upper = np.searchsorted(here, here + sign * doublings)
    ahead, edge = (np.maximum, last) if sign > 0 else (np.minimum, 0)
    pair = [np.clip(ahead(upper + shift, places + sign), 0, last) for shift in (-1, 0)]
    near, far = pair if sign > 0 else pair[::-1]
    away = [np.round(np.abs(here[place] - here - sign * doublings), 9) for place in (near, far)]
    return np.where(places == edge, places, np.where(away[1] < away[0], far, near))


class Lines:
    """Rows on exact lines along one axis of a lattice, complete or not.

    Args:
        knob: the axis.
        values: its ascending coordinates, (values,).
        place: each row's place among them, (rows,).
        line: number of each row's line, (rows,): rows of one line are equal in every other knob.
        group: number of each row's values of the knobs without an order, (rows,); every group has its own coordinates.
    """

    def __init__(self, knob: str, values: np.ndarray, place: np.ndarray, line: np.ndarray, group: np.ndarray):
        self.knob = knob
        self._line, self._count = line.astype(np.int64), len(values)
        key = self._line * self._count + place
        self._order = np.argsort(key, kind="stable")
        self._sorted = key[self._order]
        # A slot is a coordinate of a group, slots of one group stand together.
        slots, self._slot = np.unique(group.astype(np.int64) * self._count + place, return_inverse=True)
        self._slot_place = slots % self._count
        self._slot_values = values[self._slot_place]
        self._here = positions(knob, values)[self._slot_place]
        starts = np.flatnonzero(np.diff(slots // self._count, prepend=-1))
        self._runs = list(zip(starts, [*starts[1:], len(slots)], strict=True))

    def coordinates(self) -> list[np.ndarray]:
        """Return each group's ascending coordinates."""
        return [self._slot_values[low:high] for low, high in self._runs]

    def _targets(self, sign: int, doublings: float | None, within: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Return each slot's target slot, and whether it lies ahead and near enough to the wanted one, (slots,)."""
        here = self._here
        target = np.concatenate([low + _targets(here[low:high], sign, doublings) for low, high in self._runs])
        good = target != np.arange(len(target))
        if within is not None and doublings is not None:
            good &= np.abs(sign * (here[target] - here) - doublings) <= within + 1e-9
        return target, good

    def edge(self, sign: int) -> np.ndarray:
        """Mark the rows that have no coordinate ahead in their group, (rows,) bool."""
        return ~self._targets(sign, None, None)[1][self._slot]

    def step(self, sign: int, doublings: float | None, within: float | None = None) -> np.ndarray:
        """Return the row that a step of about 2**doublings (None: to the next coordinate) leads each row to, (rows,).

        -1 at the edge, where the configuration is missing, and where no coordinate lies within `within` doublings.
        """
        target, good = self._targets(sign, doublings, within)
        key = self._line * self._count + self._slot_place[target[self._slot]]
        at = np.minimum(np.searchsorted(self._sorted, key), len(key) - 1)
        return np.where(good[self._slot] & (self._sorted[at] == key), self._order[at], -1)

    def factors(self, sign: int, doublings: float | None, within: float | None = None) -> np.ndarray:
        """Return the factors, at least 1, of a step from the coordinates that have one; those from or to 0 left out."""
        target, good = self._targets(sign, doublings, within)
        values = self._slot_values
        good &= (values > 0) & (values[target] > 0)
        ratios = values[target][good] / values[good]
        return ratios if sign > 0 else 1 / ratios

    def best_ahead(self, errors: np.ndarray, sign: int) -> np.ndarray:
        """Return the lowest of `errors` (rows,) strictly ahead of each row, (rows,), NaN where nothing is."""
        line = self._sorted // self._count
        best, line = errors[self._order][::sign], line[::sign]
        span = 1
        while span < len(best) and (same := line[span:] == line[:-span]).any():
            # After this pass `best` is the minimum over the next 2 * span rows of the line.
            lower = np.where(same, np.fmin(best[:-span], best[span:]), best[:-span])
            best = np.concatenate([lower, best[-span:]])
            span *= 2
        ahead = np.full(len(best), np.nan)
        ahead[:-1] = np.where(line[1:] == line[:-1], best[1:], np.nan)
        out = np.empty_like(ahead)
        out[self._order] = ahead[::sign]
        return out

    def each_ahead(self, sign: int) -> Iterator[np.ndarray]:
        """Yield the first, second, … row ahead of each row, (rows,) each, -1 where there is none any more."""
        line, order = (self._sorted // self._count)[::sign], self._order[::sign]
        for shift in range(1, len(order)):
            same = line[shift:] == line[:-shift]
            if not same.any():
                return
            out = np.full(len(order), -1)
            out[order[:-shift][same]] = order[shift:][same]
            yield out


class NearLines:
    """Near rows that stand in for lines along one axis; the module says which they are.

    Args:
        knob: the axis.
        here: each row's position along it, doublings, (rows,).
        others: positions along the other axes with an order, each scaled by its range, (rows, axes).
        group: as of `Lines`.
    """

    def __init__(self, knob: str, here: np.ndarray, others: np.ndarray, group: np.ndarray):
        from scipy.spatial import KDTree  # slow to import, and a lattice does not need it

        self.knob, self._half = knob, first_step(knob) / 2 - 1e-6
        count = min(NEAR + 1, len(here))  # a row is near itself
        near = np.full((len(here), count), -1, dtype=np.int32)
        self._ends = np.empty((2, len(here)))
        order = np.argsort(group, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            self._ends[:, rows] = [[here[rows].min()], [here[rows].max()]]
            tree = KDTree(others[rows])
            for start in range(0, len(rows), _CHUNK):
                part = rows[start : start + _CHUNK]
                wanted = min(count, len(rows))
                # The bound is exclusive, and differences of scaled positions round.
                bound = TOLERANCE + 1e-9
                found = tree.query(others[part], k=wanted, p=np.inf, distance_upper_bound=bound)[1]
                found = np.reshape(found, (len(part), wanted))
                near[part, :wanted] = np.where(found < len(rows), rows[np.minimum(found, len(rows) - 1)], -1)
        self._near = near
        self._moved = np.where(near >= 0, here[near] - here[:, None], np.nan).astype(np.float32)
        self._here = here

    def edge(self, sign: int) -> np.ndarray:
        """Mark the rows whose group has no row half a step ahead, (rows,) bool."""
        return sign * (self._ends[int(sign > 0)] - self._here) < self._half

    def _ahead(self, sign: int) -> np.ndarray:
        """Return how far each near row lies ahead, doublings, (rows, near), infinite where it does not."""
        moved = sign * self._moved
        return np.where(moved >= self._half, moved, np.inf)

    def step(self, sign: int, doublings: float | None, within: float | None = None) -> np.ndarray:
        """Return the near row that a step leads to, as `Lines.step`; None is the one that lies ahead the least."""
        ahead = self._ahead(sign)
        away = np.abs(ahead - (doublings or 0.0))
        best = away.argmin(axis=1)
        rows = np.arange(len(best))
        limit = np.inf if within is None or doublings is None else within + 1e-6
        found = np.isfinite(ahead[rows, best]) & (away[rows, best] <= limit)
        return np.where(found, self._near[rows, best], -1)

    def factors(self, sign: int, doublings: float | None, within: float | None = None) -> np.ndarray:
        """Return the factors, at least 1, of the steps from the rows that can make one."""
        target = self.step(sign, doublings, within)
        return 2.0 ** np.abs(self._here[target] - self._here)[target >= 0]

    def best_ahead(self, errors: np.ndarray, sign: int) -> np.ndarray:
        """Return the lowest of `errors` (rows,) among the near rows ahead, (rows,), NaN where there is none."""
        found = np.where(np.isfinite(self._ahead(sign)), errors[self._near], np.inf).min(axis=1)
        return np.where(np.isfinite(found), found, np.nan)

    def each_ahead(self, sign: int) -> Iterator[np.ndarray]:
        """Yield the first, second, … near row ahead of each row, (rows,) each, -1 where there is none any more."""
        ahead = self._ahead(sign)
        order = np.argsort(ahead, axis=1, kind="stable")
        rows = np.arange(len(order))
        for column in order.T:
            here = np.isfinite(ahead[rows, column])
            if not here.any():
                return
            yield np.where(here, self._near[rows, column], -1)


def number(columns: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Return a number for each row, equal where the rows of the integer `columns` are, (rows,); 0 without columns."""
    code = np.zeros(rows, dtype=np.int64)
    for column in columns:
        code = np.unique(code * (int(column.max(initial=0)) + 1) + column, return_inverse=True)[1]
    return code


def lines_along(axis: int, axes: Sequence[str], values: dict[str, np.ndarray], index: np.ndarray) -> Lines | NearLines:
    """Return the lines along an axis that has an order, `axes[axis]`, of rows at the places `index` (rows, axes)."""
    knob, rows = axes[axis], len(index)
    rest = [i for i in range(len(axes)) if i != axis]
    line = number([index[:, i] for i in rest], rows)
    group = number([index[:, i] for i in rest if not KNOBS[axes[i]].has_order], rows)
    alone = np.bincount(line)[line] == 1
    if 2 * np.count_nonzero(alone) <= rows or len(values[knob]) < 2:
        return Lines(knob, values[knob], index[:, axis], line, group)
    others = []
    for i in rest:
        if KNOBS[axes[i]].has_order and len(values[axes[i]]) > 1:
            along = positions(axes[i], values[axes[i]])
            others.append((along / (along[-1] - along[0]))[index[:, i]])
    others = np.stack(others, axis=1) if others else np.zeros((rows, 1))
    return NearLines(knob, positions(knob, values[knob])[index[:, axis]], others, group)
