"""One-step gains against a loop over single configurations."""

import numpy as np
import pytest

from mdtree_jax.collection.grid import AXES, DIRECTIONS, make_grid, room_for_improvement
from mdtree_jax.experiments.one_step import step_gains


@pytest.mark.parametrize("direction", DIRECTIONS, ids=lambda d: d.rfi)
def test_gains_equal_a_loop_over_configurations(direction, small_grid):
    grid = make_grid(small_grid)
    gains = step_gains(grid, direction)
    for row in small_grid.itertuples():
        here = {axis: getattr(row, axis) for axis in AXES}
        on_line = small_grid
        for axis in set(AXES) - {direction.axis}:
            on_line = on_line[on_line[axis] == here[axis]]
        ahead = on_line[(on_line[direction.axis] - here[direction.axis]) * direction.sign > 0]
        ahead = ahead.sort_values(direction.axis, ascending=direction.sign > 0)
        steps = row.test_error - ahead.test_error.to_numpy() if len(ahead) else np.zeros(1)
        expected = {"one": steps[0], "random": steps.mean(), "optimal": steps.max()}
        clipped = {"one": max(steps[0], 0), "random": np.maximum(steps, 0).mean(), "optimal": max(steps.max(), 0)}
        place = tuple(grid.index[row.Index])
        for step, (with_clip, without) in gains.items():
            assert without[place] == pytest.approx(expected[step])
            assert with_clip[place] == pytest.approx(clipped[step])
        assert room_for_improvement(grid, direction)[place] == pytest.approx(max(steps.max(), 0))


def test_missing_neighbour_is_nan_and_an_edge_is_zero(small_grid):
    hole = (small_grid.width == 4) & (small_grid.batch_size == 16) & (small_grid.data_fraction == 0.5)
    grid = make_grid(small_grid[~hole], allow_missing=True)
    clipped, gain = step_gains(grid, DIRECTIONS[0])["one"]
    assert np.isnan(gain[0, 1, 0])  # batch 32 -> 16, which is the hole
    assert gain[0, 0, 1] == clipped[0, 0, 1] == 0
    assert np.isfinite(step_gains(grid, DIRECTIONS[1])["optimal"][1][1:]).all()
