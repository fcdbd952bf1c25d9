"""Planes of phase plots: which knobs, which cells, which rows in them."""

import numpy as np
import pytest

from mdtree_jax.collection.load import load_collection
from mdtree_jax.report.planes import make_plane, panel_name
from tests.collection.test_moves import product
from tests.rates import RATES, WIDTHS, random_rates, rate_collection


def test_the_published_plane(small_grid):
    plane = make_plane(load_collection(small_grid))
    assert (plane.x.knob, plane.y.knob, plane.panel.knob, plane.fixed) == ("batch_size", "width", "data_fraction", "")
    assert [panel_name(plane.panel, i) for i in (0, 1)] == ["50 % of the data", "100 % of the data"]
    matrix = plane.matrix(small_grid.test_error.to_numpy(), 1)
    half = small_grid[small_grid.data_fraction == 1].pivot(index="width", columns="batch_size", values="test_error")
    np.testing.assert_array_equal(matrix, half.to_numpy())


def test_every_cell_of_a_lattice_has_its_row():
    frame = load_collection(rate_collection())
    plane = make_plane(frame)
    assert (plane.x.knob, plane.y.knob, plane.panel.knob, plane.fixed) == ("learning_rate", "width", "weight_decay", "")
    assert [panel_name(plane.panel, i) for i in range(3)] == [
        "weight decay 0",
        "weight decay 1e-05",
        "weight decay 0.001",
    ]
    for panel, decay in enumerate((0.0, 1e-5, 1e-3)):
        rows = frame[frame.weight_decay == decay].pivot(index="width", columns="learning_rate", values="test_error")
        np.testing.assert_array_equal(plane.matrix(frame.test_error.to_numpy(), panel), rows.to_numpy())
    other = make_plane(frame, ["weight_decay", "learning_rate"])
    assert (other.x.knob, other.y.knob, other.panel.ticks) == ("weight_decay", "learning_rate", ["1", "4", "16"])
    assert other.matrix(frame.test_error.to_numpy(), 0).shape == (len(RATES), 4)


def test_a_fourth_knob_is_held_at_its_middle_value():
    frame = load_collection(rate_collection().assign(optimizer="sgd"))
    both = load_collection(
        product(width=[1, 2], learning_rate=[0.1, 0.2], weight_decay=[0.0, 0.1], train_epochs=[5, 10, 20])
    )
    plane = make_plane(both)
    assert (plane.panel.knob, plane.fixed) == ("weight_decay", "number of epochs 10")
    rows = both[(both.weight_decay == 0.1) & (both.train_epochs == 10)]
    np.testing.assert_array_equal(
        plane.matrix(both.test_error.to_numpy(), 1),
        rows.pivot(index="width", columns="learning_rate", values="test_error").to_numpy(),
    )
    assert make_plane(frame).y.ticks == [str(width) for width in WIDTHS]


def test_one_axis_is_a_row_of_cells():
    plane = make_plane(load_collection(product(learning_rate=[0.1, 0.2, 0.4])))
    assert (plane.x.knob, plane.y.knob, panel_name(plane.panel, 0)) == ("learning_rate", "", "")
    assert plane.matrix(np.array([1.0, np.nan, 3.0]), 0).tolist() == [[1.0, pytest.approx(np.nan, nan_ok=True), 3.0]]


def test_a_random_search_is_put_into_bins():
    frame = load_collection(random_rates(600))
    plane = make_plane(frame)
    assert (len(plane.x.ticks), len(plane.y.ticks), len(plane.panel.ticks)) == (12, 12, 3)
    assert np.bincount(plane.x.place).tolist() == [50] * 12
    here = (plane.x.place == 5) & (plane.y.place == 3) & (plane.panel.place == 1)
    found = plane.matrix(frame.test_error.to_numpy(), 1)[3, 5]
    assert found == pytest.approx(frame.test_error[here].mean())
    codes = np.where(frame.learning_rate > 0.1, 2, -1)
    shown = plane.commonest(codes, 3, 1)
    assert set(np.unique(shown[np.isfinite(shown)])) == {2}
    assert np.isnan(shown[:, 0]).all()
