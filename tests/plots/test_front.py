"""The picture of a front: what its artists hold."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from evoq_moo.errors import ArgumentError, EvoqError, UnknownNameError
from evoq_moo.plots import new_axes, plot_front, save_axes


def line(ax, label):
    return next(found for found in ax.get_lines() if found.get_label() == label)


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_points_knee_uniform_and_baselines(front):
    ax = plot_front(
        front, uniform=front.points[:1], baselines={"$greedy$": front.points[1:3], "_ilp": front.points[3:]}
    )
    np.testing.assert_array_equal(line(ax, "front").get_xydata(), [[1, 1], [2, 0.1], [5, 0.01], [11, 0.001]])
    np.testing.assert_array_equal(line(ax, "knee").get_xydata(), [[5, 0.01]])
    np.testing.assert_array_equal(line(ax, "uniform bit-widths").get_xydata(), [[1, 1]])
    np.testing.assert_array_equal(line(ax, r"\$greedy\$").get_xydata(), [[2, 0.1], [5, 0.01]])
    assert texts(ax) == ["front", "uniform bit-widths", r"\$greedy\$", "\u200b_ilp", "knee"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("bit operations (GBOPs)", "output difference (kl)")
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")


def test_budgets_of_the_drawn_objectives(front):
    ax = plot_front(front, budgets={"bops": 5, "difference": 0.02, "size_mib": 3})
    assert list(line(ax, "budget 5").get_xdata()) == [5, 5]
    assert list(line(ax, "budget 0.02").get_ydata()) == [0.02, 0.02]
    assert "budget 3" not in texts(ax)


def test_accuracies_are_on_a_second_axis_in_percent(front):
    ax = plot_front(front, accuracies=[0.1, None, 0.5, 0.75])
    second = ax.figure.axes[-1]
    np.testing.assert_allclose(second.get_lines()[0].get_xydata(), [[1, 10], [5, 50], [11, 75]])
    assert second.get_ylabel() == "top-1 accuracy (%)"
    assert "top-1 (right axis)" in texts(ax)


def test_a_third_objective_is_the_colour_and_the_line_joins_what_is_nondominated_in_two(make_front):
    front = make_front([(1.0, 4.0, 1.0), (2.0, 3.0, 2.0), (0.1, 5.0, 5.0)], objectives=("difference", "size", "bops"))
    ax = plot_front(front, x="bops", knee=False)
    points = ax.collections[0]
    np.testing.assert_array_equal(points.get_offsets(), [[1, 1], [2, 2], [5, 0.1]])
    np.testing.assert_array_equal(points.get_array(), [4, 3, 5])
    np.testing.assert_array_equal(ax.get_lines()[0].get_xydata(), [[1, 1], [5, 0.1]])
    assert ax.figure.axes[-1].get_ylabel() == "weight size (MiB)"


def test_two_costs_without_the_difference(make_front):
    front = make_front([(0.1, 1.0, 2.0), (0.1, 2.0, 1.0)], objectives=("size", "bops"))
    ax = plot_front(front)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("weight size (MiB)", "bit operations (GBOPs)")
    assert ax.get_yscale() == "linear"


def test_axes_can_be_swapped(front):
    ax = plot_front(front, x="difference", y="bops")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")


@pytest.mark.parametrize("values", [[(0.1, 1.0, 2.0)], [(0.1, 1.0, 2.0)] * 3, [(0.0, 1.0, 2.0)]])
def test_fronts_without_extent_are_drawn(make_front, tmp_path, values):
    ax = plot_front(make_front(values), budgets={"bops": 2}, accuracies=[0.5] * len(values))
    save_axes(ax, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_given_axes_are_used_and_pyplot_is_left_alone(front):
    ax = Figure().add_subplot()
    assert plot_front(front, ax=ax) is ax
    assert new_axes().figure.get_size_inches()[0] == 5.0
    assert matplotlib.pyplot.get_fignums() == [] if hasattr(matplotlib, "pyplot") else True


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": "power"}, UnknownNameError, "x"),
        ({"x": "latency"}, ArgumentError, "not known of this policy"),
        ({"x": "bops", "y": "bops"}, ArgumentError, "another objective"),
        ({"budgets": {"sise": 1}}, UnknownNameError, "size"),
        ({"accuracies": [0.5]}, ArgumentError, "one for each of 4"),
    ],
)
def test_bad_arguments(front, options, error, message):
    with pytest.raises(error, match=message):
        plot_front(front, **options)


@pytest.mark.parametrize(("values", "objectives"), [([], ("difference", "bops")), ([(1.0, 1.0, 1.0)], ("difference",))])
def test_nothing_to_draw(make_front, values, objectives):
    with pytest.raises(EvoqError, match="one or more, in two objectives"):
        plot_front(make_front(values, objectives))


def test_axes_without_a_figure_cannot_be_saved(tmp_path):
    ax = Figure().add_subplot()
    ax.remove()
    with pytest.raises(ArgumentError, match="no figure"):
        save_axes(ax, tmp_path / "x.png")
