"""One-step gains against a loop over single configurations."""

import numpy as np
import pytest

from mdtree_jax.collection.grid import make_grid, room_for_improvement
from mdtree_jax.collection.moves import AXES, moves_of
from mdtree_jax.experiments.one_step import step_gains


@pytest.mark.parametrize("move", moves_of(AXES), ids=lambda move: move.rfi)
def test_gains_equal_a_loop_over_configurations(move, small_grid):
    grid = make_grid(small_grid)
    gains = step_gains(grid, move)
    for row in small_grid.itertuples():
        here = {axis: getattr(row, axis) for axis in AXES}
        on_line = small_grid
        for axis in set(AXES) - {move.knob}:
            on_line = on_line[on_line[axis] == here[axis]]
        ahead = on_line[(on_line[move.knob] - here[move.knob]) * move.sign > 0]
        ahead = ahead.sort_values(move.knob, ascending=move.sign > 0)
        steps = row.test_error - ahead.test_error.to_numpy() if len(ahead) else np.zeros(1)
        expected = {"one": steps[0], "random": steps.mean(), "optimal": steps.max()}
        clipped = {"one": max(steps[0], 0), "random": np.maximum(steps, 0).mean(), "optimal": max(steps.max(), 0)}
        place = row.Index
        for step, (with_clip, without) in gains.items():
            assert without[place] == pytest.approx(expected[step])
            assert with_clip[place] == pytest.approx(clipped[step])
        assert room_for_improvement(grid, move)[place] == pytest.approx(max(steps.max(), 0))


def test_missing_neighbour_is_nan_and_an_edge_is_zero(small_grid):
    hole = (small_grid.width == 4) & (small_grid.batch_size == 16) & (small_grid.data_fraction == 0.5)
    frame = small_grid[~hole]
    grid = make_grid(frame, allow_missing=True)
    batch_down, batch_up, *_ = grid.moves
    clipped, gain = step_gains(grid, batch_down)["one"]
    rows = {tuple(row): place for place, row in enumerate(frame[list(AXES)].to_numpy())}
    assert np.isnan(gain[rows[4, 32, 0.5]])  # to batch 16, which is the hole
    assert gain[rows[4, 16, 1.0]] == clipped[rows[4, 16, 1.0]] == 0
    assert np.isfinite(step_gains(grid, batch_up)["optimal"][1][(frame.width > 4).to_numpy()]).all()
