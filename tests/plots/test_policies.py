"""Bit maps, policy bars, parallel coordinates, the sensitivity map."""

import numpy as np
import pytest

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError, UnknownNameError
from evoq_moo.plots import plot_bit_allocation, plot_parallel_coordinates, plot_policy, plot_sensitivity, save_axes

SHOWN = ["\u200b_conv\\$1\\$", "block.<b>conv</b>", "fc"]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_bit_allocation_is_layers_by_points(front, kind, tmp_path):
    ax = plot_bit_allocation(front, kind=kind)
    expected = np.stack([getattr(p.policy, f"{kind}_bits") for p in front], axis=1)
    np.testing.assert_array_equal(ax.images[0].get_array(), expected)
    assert ticks(ax.yaxis) == SHOWN
    assert ticks(ax.xaxis) == ["1", "2", "5", "11"]
    assert ax.get_xlabel() == "points of the front, by bit operations (GBOPs)"
    assert ax.figure.axes[-1].get_ylabel() == f"{kind} bit-width (bits)"
    save_axes(ax, tmp_path / "map.png")


def test_float_layers_are_grey():
    policy = evoq.Policy(("a", "b"), (32, 2), (16, 8))
    front = evoq.ParetoFront(
        points=(evoq.FrontPoint(policy=policy, difference=0.1, costs={"size": 1, "bops": 1}),),
        objectives=("difference", "bops"),
    )
    ax = plot_bit_allocation(front)
    image = ax.images[0]
    assert tuple(image.cmap(image.norm(32))) == pytest.approx((0xBB / 255,) * 3 + (1,))
    assert ax.figure.axes[-1].get_ylabel() == "weight bit-width (bits), grey: float"


def test_bit_allocation_bad_arguments(front, make_front):
    with pytest.raises(UnknownNameError, match="kind"):
        plot_bit_allocation(front, kind="bias")
    with pytest.raises(ArgumentError, match="empty"):
        plot_bit_allocation(make_front([]))


def test_a_policy_of_many_layers_is_a_strip(tmp_path):
    """53 pairs of bars beside each other could not be told apart."""
    names = tuple(f"layer{i}" for i in range(53))
    policy = evoq.Policy(names, tuple(2 + i % 7 for i in range(53)), (8,) * 53)
    ax = plot_policy(policy)
    np.testing.assert_array_equal(ax.images[0].get_array(), policy.to_array().T)
    assert ticks(ax.yaxis) == ["weights", "activations"]
    assert ticks(ax.xaxis) == list(names[::2])
    assert ax.get_xlabel() == "layer, one of 2 named"
    save_axes(ax, tmp_path / "strip.png")


def test_policy_bars_with_macs_and_parameters(front, space):
    ax = plot_policy(front[1].policy, layers=space.layers)
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == [8, 3, 8, 8, 8, 3]
    second = ax.figure.axes[-1]
    assert [list(found.get_ydata()) for found in second.get_lines()] == [[100, 200, 300], [10, 20, 30]]
    assert (second.get_yscale(), second.get_ylabel()) == ("log", "MACs, parameters (count)")
    assert ticks(ax.xaxis) == SHOWN
    assert len(plot_policy(front[1].policy).figure.axes) == 1
    with pytest.raises(ArgumentError, match="allowed: the policy's 3"):
        plot_policy(front[1].policy, layers=space.layers[:2])


def test_sensitivity_map(table, tmp_path):
    ax = plot_sensitivity(table, kind="activation")
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.3, 0.03], [0.1, 0.01]])
    assert ticks(ax.xaxis) == ["2", "4"]
    assert ticks(ax.yaxis) == SHOWN[1:]
    assert ax.get_xlabel() == "activation bit-width (bits)"
    assert plot_sensitivity(table).get_xlabel() == "weight bit-width (bits)"
    save_axes(ax, tmp_path / "map.png")


def test_sensitivity_bad_kinds(table):
    with pytest.raises(ArgumentError, match=r"\['activation', 'weight'\]"):
        plot_sensitivity(table, kind="both")
    with pytest.raises(UnknownNameError, match="kind"):
        plot_sensitivity(table, kind="bias")


def test_parallel_coordinates(front):
    ax = plot_parallel_coordinates(front, highlight={"$knee$": front.knee()})
    segments = np.array(ax.collections[0].get_segments())
    assert segments.shape == (4, 5, 2)
    np.testing.assert_allclose(segments[:, 0, 1], [1, 2 / 3, 1 / 3, 0], atol=1e-12)
    np.testing.assert_allclose(segments[:, 2, 1], [0, 0.1, 0.4, 1])
    highlighted = next(found for found in ax.get_lines() if found.get_label() == r"\$knee\$")
    np.testing.assert_allclose(highlighted.get_ydata(), segments[2, :, 1])
    assert {"0.001", "11"} <= {text.get_text() for text in ax.texts}


def test_parallel_coordinates_without_extent(make_front):
    segments = plot_parallel_coordinates(make_front([(0.1, 1.0, 2.0)])).collections[0].get_segments()
    np.testing.assert_array_equal(segments[0][:, 1], 0.5)
    with pytest.raises(ArgumentError, match="empty"):
        plot_parallel_coordinates(make_front([]))
