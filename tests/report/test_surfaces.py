import matplotlib.pyplot as plt
import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.report.surfaces import curve_figure, surface_figure

X = np.linspace(-1, 1, 11)


def test_a_line_shows_its_values_and_the_network():
    figure = surface_figure(X, X**2 + 1, title="a slice", unit="loss, nats")
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([X, X**2 + 1], 1))
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[0, 1]])
    assert (ax.get_ylabel(), ax.get_title(loc="left"), ax.get_yscale()) == ("loss, nats", "a slice", "linear")
    plt.close(figure)
    wide = surface_figure(X, 100 ** np.abs(X))
    assert wide.axes[0].get_yscale() == "log"
    plt.close(wide)


def test_a_plane_has_its_second_direction_upwards(tmp_path):
    """Low at first direction +1, second -1: the contours must be lowest in the lower right."""
    values = 4 - X[:, None] + X[None, :]
    figure = surface_figure(X, values)
    ax = figure.axes[0]
    lowest = next(level for level in ax.collections[0].get_paths() if len(level.vertices))
    x, y = lowest.vertices.mean(0)
    assert x > 0.5
    assert y < -0.5
    values[0, 0] = np.nan
    for grid in (values, np.ones_like(values), 1e-3 * 100 ** (values - 2)):
        again = surface_figure(X, grid)
        again.savefig(tmp_path / "slice.png")
        assert (tmp_path / "slice.png").stat().st_size > 5000
        plt.close(again)
    plt.close(figure)


def test_curves_between_networks():
    t = np.linspace(0, 1, 5)
    figure = curve_figure({"straight line": (t, t * (1 - t)), "curve": (t, 0 * t)}, title="pair")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["straight line", "curve"]
    plt.close(figure)


def test_bad_input():
    with pytest.raises(
        UserError, match=r"values of shape \(3, 4\) do not match 3 coordinates; they must have shape \(3,\) or \(3, 3\)"
    ):
        surface_figure(np.arange(3), np.ones((3, 4)))
    with pytest.raises(UserError, match="the slice has no finite values"):
        surface_figure(np.arange(3), np.full(3, np.nan))
    with pytest.raises(UserError, match="there are no curves to draw"):
        curve_figure({})
