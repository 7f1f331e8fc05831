"""Pictures of repeated runs, from results of evoq_moo.analysis."""

import numpy as np
import pytest

from evoq_moo.analysis import AttainmentDifference, attainment_difference, attainment_surfaces, runtime_ecdf, runtimes
from evoq_moo.errors import ArgumentError
from evoq_moo.plots import plot_attainment, plot_attainment_difference, plot_ecdf, plot_hypervolume, save_axes

RUNS = [
    np.array([[1.0, 3.0], [2.0, 1.0]]),
    np.array([[1.0, 4.0], [3.0, 1.0]]),
    np.array([[2.0, 2.0], [np.inf, np.inf]]),
]


def test_median_surface_and_band():
    ax = plot_attainment({"$a$": attainment_surfaces(RUNS), "b": attainment_surfaces(RUNS[:1], percentiles=[50])})
    median = ax.get_lines()[0]
    assert median.get_label() == r"\$a\$"
    surface = attainment_surfaces(RUNS, percentiles=[50])[0].points
    drawn = dict(zip(median.get_xdata(), median.get_ydata(), strict=True))
    for x, y in surface:
        assert drawn[x] == y
    # One band: the second algorithm has one surface only. Beyond where the worst surface begins it reaches the top.
    assert len(ax.collections) == 1
    assert ax.get_xlabel() == "bit operations (GBOPs)"


def test_attainment_needs_an_odd_number_of_surfaces():
    with pytest.raises(ArgumentError, match="odd number"):
        plot_attainment({"a": attainment_surfaces(RUNS, percentiles=[25, 75])})
    with pytest.raises(ArgumentError, match="one algorithm or more"):
        plot_attainment({})


def test_three_objectives_are_refused():
    runs = [np.array([[1.0, 2.0, 3.0]])]
    with pytest.raises(ArgumentError, match="of two objectives"):
        plot_attainment({"a": attainment_surfaces(runs, percentiles=[50])})


def test_attainment_difference(tmp_path):
    found = attainment_difference(RUNS[:1], RUNS[1:2])
    ax = plot_attainment_difference(found, left="$left$", right="right")
    np.testing.assert_array_equal(ax.collections[0].get_array(), found.values)
    assert len(ax.collections[0].get_paths()) == len(found.rectangles)
    assert ax.figure.axes[-1].get_ylabel() == r"share of runs: \$left\$ (+) less right (-)"
    save_axes(ax, tmp_path / "x.png")


def test_equal_sides_have_no_difference_to_draw():
    with pytest.raises(ArgumentError, match="attain the same"):
        plot_attainment_difference(AttainmentDifference(rectangles=np.empty((0, 4)), values=np.empty(0)))


def test_hypervolume_median_and_quartiles():
    curves = {"ours": [[0.0, 0.4], [0.2, 0.6], [0.1, 0.5, 0.9]]}
    ax = plot_hypervolume(curves, start=11)
    np.testing.assert_allclose(ax.get_lines()[0].get_xydata(), [[11, 0.1], [12, 0.5]])
    corners = {(round(x, 6), round(y, 6)) for x, y in ax.collections[0].get_paths()[0].vertices}
    assert {(11, 0.05), (11, 0.15), (12, 0.45), (12, 0.55)} <= corners
    assert ax.get_xlabel() == "evaluations (policies)"


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": [[]]}, {"a": [[[0.1]]]}])
def test_hypervolume_needs_runs(curves):
    with pytest.raises(ArgumentError, match="curves"):
        plot_hypervolume(curves)


def test_infeasible_runs_draw_a_line_at_zero():
    ax = plot_hypervolume({"a": [np.zeros(3)]})
    assert list(ax.get_lines()[0].get_ydata()) == [0, 0, 0]


def test_ecdf():
    ecdf = runtime_ecdf(runtimes([[0.1, 0.5, 0.5], [0.5, 0.5, 0.9]], [0.5, 0.9]))
    ax = plot_ecdf({"a": ecdf, "never": runtime_ecdf([np.inf])})
    assert list(ax.get_lines()[0].get_xdata()) == [0, 1, 2, 3, 3]
    assert list(ax.get_lines()[0].get_ydata()) == [0, 0.25, 0.5, 0.75, 0.75]
    assert set(ax.get_lines()[1].get_ydata()) == {0.0}
    with pytest.raises(ArgumentError, match="ecdfs"):
        plot_ecdf({})
