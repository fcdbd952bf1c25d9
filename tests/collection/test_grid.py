"""Rooms, steps and labels of complete, partial and random collections against loops over rows and known surfaces."""

import functools
import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mdtree_jax.collection.grid import compute_labels, make_grid, room_for_improvement
from mdtree_jax.collection.lines import NEAR, TOLERANCE
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.moves import axes_of
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.registry.knobs import KNOBS

VALUES = {
    "width": [2, 3, 4, 6, 8],
    "batch_size": [16, 24, 32, 64],
    "data_fraction": [0.1, 0.25, 0.5, 1.0],
    "learning_rate": [0.01, 0.02, 0.1, 0.3],
    "weight_decay": [0.0, 1e-5, 1e-4, 1e-2],
    "train_epochs": [5, 10, 40],
    "optimizer": ["sgd", "adamw"],
}


@st.composite
def tables(draw):
    """Return 2 to 5 axes of up to 5 values, a part of their product, and test errors with ties."""
    axes = draw(st.lists(st.sampled_from(list(VALUES)), min_size=2, max_size=5, unique=True))
    values = [VALUES[axis][: draw(st.integers(1, len(VALUES[axis])))] for axis in axes]
    cells = list(itertools.product(*values))
    kept = draw(st.lists(st.sampled_from(cells), min_size=1, max_size=40, unique=True))
    frame = pd.DataFrame(kept if draw(st.booleans()) else cells[:40], columns=axes)
    errors = draw(st.lists(st.integers(5, 60), min_size=len(frame), max_size=len(frame)))
    return frame.assign(test_error=np.array(errors) / 2)


class Loop:
    """What the grid of a table should be, by loops over its rows."""

    def __init__(self, frame, axes):
        self.frame, self.axes = frame.reset_index(drop=True), axes
        self.rows = self.frame.to_dict("records")
        self.ordered = [axis for axis in axes if KNOBS[axis].has_order]
        self.place = {axis: self.doublings(axis) for axis in self.ordered}
        self.line, self.ahead = functools.cache(self.line), functools.cache(self.ahead)
        self.exact_lines = functools.cache(self.exact_lines)

    def doublings(self, axis):
        values = sorted(set(self.frame[axis]))
        positive = [v for v in values if v > 0]
        step = np.log2((KNOBS[axis].steps or (2,))[0])
        return {v: np.log2(v) if v > 0 else np.log2(min(positive, default=1)) - step for v in values}

    def same(self, a, b, axes):
        return all(a[axis] == b[axis] for axis in axes)

    def exact_lines(self, axis):
        others = [a for a in self.axes if a != axis]
        return [[j for j, b in enumerate(self.rows) if self.same(a, b, others)] for a in self.rows]

    def line(self, i, axis):
        """Return the rows that are compared with row i along an axis, and whether they are near ones."""
        others, exact = [a for a in self.axes if a != axis], self.exact_lines(axis)
        alone = sum(len(line) == 1 for line in exact)
        if 2 * alone <= len(self.rows) or len(self.place[axis]) < 2:
            return exact[i], False
        distance = {}
        for j, b in enumerate(self.rows):
            if self.same(self.rows[i], b, [a for a in others if a not in self.ordered]):
                away = [0.0]
                for a in others:
                    if a in self.ordered and len(self.place[a]) > 1:
                        span = max(self.place[a].values()) - min(self.place[a].values())
                        away.append(abs(self.place[a][b[a]] - self.place[a][self.rows[i][a]]) / span)
                if max(away) <= TOLERANCE + 1e-9:
                    distance[j] = max(away)
        return sorted(distance, key=distance.get)[: NEAR + 1], True

    def ahead(self, i, move):
        """Return (row, doublings ahead) of what lies ahead of row i, whether near, and whether i is at the edge."""
        axis, sign = move
        line, near = self.line(i, axis)
        away = {j: sign * (self.place[axis][b[axis]] - self.place[axis][self.rows[i][axis]]) for j, b in
                enumerate(self.rows)}  # fmt: skip
        group = [a for a in self.axes if a not in self.ordered]
        all_ahead = [d for j, d in away.items() if self.same(self.rows[i], self.rows[j], group)]
        half = np.log2((KNOBS[axis].steps or (2,))[0]) / 2 - 1e-6
        edge = max(all_ahead) < half if near else max(all_ahead) <= 0
        return {j: away[j] for j in line if (away[j] >= half if near else away[j] > 0)}, near, edge

    def room(self, i, move):
        ahead, near, edge = self.ahead(i, move)
        error = self.frame.test_error
        if not ahead:
            return np.nan if near and not edge else 0.0
        return max(0.0, error[i] - error[list(ahead)].min())

    def step(self, i, move, doublings, within):
        ahead, near, _ = self.ahead(i, move)
        if not near:  # the value of the axis ahead that is nearest, whether the row has it or not
            axis, sign = move
            group = [a for a in self.axes if a not in self.ordered]
            values = {b[axis] for b in self.rows if self.same(self.rows[i], b, group)}
            moved = {v: sign * (self.place[axis][v] - self.place[axis][self.rows[i][axis]]) for v in values}
            moved = {v: d for v, d in moved.items() if d > 0}
            if not moved:
                return np.nan
            best = min(moved, key=lambda v: (moved[v] if doublings is None else round(abs(moved[v] - doublings), 9),
                                             moved[v]))  # fmt: skip
            there = [j for j in ahead if self.rows[j][axis] == best]
            ahead = {there[0]: moved[best]} if there else {}
        if not ahead:
            return np.nan
        best = min(ahead, key=lambda j: ahead[j] if doublings is None else abs(ahead[j] - doublings))
        if within is not None and doublings is not None and abs(ahead[best] - doublings) > within + 1e-6:
            return np.nan
        return self.frame.test_error[i] - self.frame.test_error[best]


def check_against_loop(frame):
    grid = make_grid(frame, allow_missing=True)
    loop, rows = Loop(frame, grid.axes), range(len(frame))
    rooms = {}
    for move in grid.moves:
        rooms[move] = [loop.room(i, move) for i in rows]
        np.testing.assert_allclose(room_for_improvement(grid, move), rooms[move], rtol=1e-12, err_msg=move.rfi)
        assert grid.edge(move).tolist() == [loop.ahead(i, move)[2] for i in rows]
        for doublings, within in ((None, None), (1.0, None), (1.0, 0.5), (2.0, 0.5)):
            expected = [loop.step(i, move, doublings, within) for i in rows]
            np.testing.assert_allclose(grid.step_gain(move, doublings, within), expected, rtol=1e-12, err_msg=move.rfi)
        targets = list(grid.lines[move.knob].each_ahead(move.sign))
        for i in rows:
            ahead = loop.ahead(i, move)[0]
            found = [int(target[i]) for target in targets if target[i] >= 0]
            assert sorted(found) == sorted(ahead)
            assert [ahead[j] for j in found] == pytest.approx(sorted(ahead.values()), abs=1e-5)
    labels = compute_labels(grid)
    for task in TASKS.values():
        groups = [[m for m in grid.moves if m.cause in group] for group in task.groups]
        asked = all(any(frame[m.knob].nunique() > 1 for m in moves) for moves in groups)
        asked |= grid.axes == ("width", "batch_size", "data_fraction")
        for i in rows:
            best = [max((rooms[m][i] for m in moves if rooms[m][i] >= 0), default=np.nan) for moves in groups]
            expected = "optimal" if best[0] == best[1] else task.classes[int(best[1] > best[0])]
            found = labels[task.label][i]
            assert pd.isna(found) if not asked or np.isnan(best).any() else found == expected
    return grid


@settings(max_examples=150, deadline=None)
@given(tables())
def test_lattices_complete_and_partial_equal_a_loop(frame):
    assume(axes_of(frame))
    check_against_loop(frame)


@pytest.mark.parametrize("seed", range(3))
def test_a_random_search_equals_a_loop(seed):
    """More rows within reach than `NEAR`, a knob with few values, one without an order, and decays of 0."""
    rng, n = np.random.default_rng(seed), 130
    frame = pd.DataFrame({"learning_rate": 10 ** rng.uniform(-4, 0, n), "width": np.exp2(rng.uniform(1, 6, n))})
    frame["weight_decay"] = np.where(rng.random(n) < 0.2, 0.0, 10 ** rng.uniform(-5, -1, n)) if seed else 0.1
    frame["optimizer"] = rng.choice(["sgd", "adamw"], n) if seed == 2 else "sgd"
    grid = check_against_loop(frame.assign(test_error=rng.uniform(5, 60, n)))
    assert set(grid.near) >= {"learning_rate", "width"}
    if not seed:
        assert max(len(Loop(frame.assign(test_error=0.0), grid.axes).line(i, "width")[0]) for i in range(n)) == NEAR + 1


def surface(frame):
    """Return test errors with one valley of temperature, and width and data that always help."""
    heat = np.log2(frame.learning_rate) / 10 + 0.5 - 0.3 * np.log2(frame.batch_size / 64) / 10
    return 5 + 40 * heat**2 + 12 * (1 - np.log2(frame.width) / 7) ** 2 + 9 * (np.log2(frame.data_fraction) / 4) ** 2


def random_search(n, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "width": np.exp2(rng.uniform(0, 7, n)),
            "batch_size": np.exp2(rng.uniform(4, 8, n)),
            "data_fraction": np.exp2(rng.uniform(-4, 0, n)),
            "learning_rate": np.exp2(rng.uniform(-10, 0, n)),
        }
    )
    return frame.assign(test_error=surface(frame) + noise * rng.normal(size=n))


RANGES = {"width": (0, 7), "batch_size": (4, 8), "data_fraction": (-4, 0), "learning_rate": (-10, 0)}


def true_rooms(frame, moves):
    """Return what the surface itself has to gain along each move, from one end of its range to the other."""
    rooms = {}
    for move in moves:
        end, here = RANGES[move.knob][move.sign > 0], np.log2(frame[move.knob])
        moved = [frame.assign(**{move.knob: np.exp2(here + t * (end - here))}) for t in np.linspace(0, 1, 50)]
        rooms[move] = surface(frame) - np.min([surface(other) for other in moved], axis=0)
    return rooms


def test_a_random_search_finds_the_surface_that_is_there():
    frame = random_search(1500, seed=3)
    grid, loaded = make_grid(frame), load_collection(frame)
    assert loaded.attrs["near"] == list(RANGES)
    true = true_rooms(frame, grid.moves)
    for task in TASKS.values():
        best = [np.max([true[m] for m in grid.moves if m.cause in group], axis=0) for group in task.groups]
        truth = np.array(task.classes)[(best[1] > best[0]).astype(int)]
        label = loaded[task.label]
        known = (label.notna() & (label != "optimal")).to_numpy()
        assert known.mean() > 0.8
        assert (label == truth)[known].mean() > 0.86
        clear = known & (np.abs(best[1] - best[0]) > 4)
        assert (label == truth)[clear].mean() > 0.97
        assert (np.roll(label, 1) == truth)[known].mean() < 0.75  # labels of other rows
    for move in grid.moves:
        off = (room_for_improvement(grid, move) - true[move]).dropna()
        assert np.sqrt((off**2).mean()) < 1.6, move


def test_a_note_counts_the_rows_that_have_a_neighbour():
    frame = load_collection(random_search(60))
    loop = Loop(frame, frame.attrs["axes"])
    counted = sum(bool(loop.ahead(i, ("width", 1))[0]) for i in range(60))
    (note,) = frame.attrs["notes"]
    assert 0 < counted < 60
    assert "rows with such a neighbour, of 60: " in note
    assert f" {counted} towards network width up" in note


def test_steps_of_a_random_search_are_those_of_the_surface():
    """Where a near row stands in for the step, its gain is that of the step up to what else differs."""
    frame = random_search(3000, seed=1)
    grid = make_grid(frame)
    for move in grid.moves:
        gain = grid.step_gain(move, 1.0, 0.5)
        moved = frame.assign(**{move.knob: frame[move.knob] * 2.0**move.sign})
        inside = np.isfinite(gain) & moved[move.knob].between(frame[move.knob].min(), frame[move.knob].max())
        assert inside.mean() > 0.3, move
        true = (frame.test_error - surface(moved))[inside]
        error = gain[inside] - true
        assert np.abs(error.mean()) < 0.25, move
        assert error.std() < 2.0, move
        assert (np.roll(frame.test_error, 1)[inside] - surface(moved)[inside] - true).std() > 6.0  # any other row
        if move.knob == "learning_rate":
            assert np.corrcoef(gain[inside], true)[0, 1] > 0.7


def test_memory_follows_the_rows_and_not_their_combinations():
    """All combinations of the values of 2 000 random rows would be 1.6e13 cells."""
    peaks = []
    for n in (2000, 8000):
        frame = random_search(n)
        tracemalloc.start()
        loaded = load_collection(frame)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(loaded) == n
    assert peaks[1] < 6 * peaks[0]
    assert peaks[1] / 8000 < 6000  # bytes a row: 0.6 GB at 100 000


def test_each_optimizer_has_rates_of_its_own():
    rows = [("sgd", 0.1), ("sgd", 0.2), ("sgd", 0.4), ("adamw", 1e-3), ("adamw", 2e-3)]
    frame = pd.DataFrame(rows, columns=["optimizer", "learning_rate"]).assign(test_error=[30.0, 20, 25, 12, 10])
    loaded = load_collection(frame)
    assert loaded.attrs["axes"] == ["learning_rate", "optimizer"]
    assert loaded.rfi_learning_rate_up.tolist() == [10, 0, 0, 2, 0]
    assert loaded.rfi_learning_rate_down.tolist() == [0, 0, 5, 0, 0]
    assert loaded.label_optimizer.tolist() == [
        *("temperature_too_low", "optimal", "temperature_too_high", "temperature_too_low", "optimal")
    ]
    assert loaded.label_size.isna().all()


def test_labels_that_a_table_holds_are_kept(tmp_path):
    frame = random_search(200)
    loaded = load_collection(frame)
    assert loaded.isna().any(axis=None)
    loaded.to_csv(tmp_path / "labelled.csv", index=False)
    again = load_collection(pd.read_csv(tmp_path / "labelled.csv").assign(label_size="size"))
    assert (again.label_size == "size").all()
    pd.testing.assert_series_equal(again.label_optimizer, loaded.label_optimizer)
