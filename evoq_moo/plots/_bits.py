"""Bit-widths: along a front, and of one policy beside its layers' costs."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap

from evoq_moo.errors import ArgumentError, check_name
from evoq_moo.front import ParetoFront
from evoq_moo.plots._style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    axes_for_rows,
    axis_label,
    name_columns,
    name_rows,
    new_axes,
)
from evoq_moo.space import QUANTIZED_BITS, LayerInfo, Policy

Kind = Literal["weight", "activation"]
_FLOAT_GREY = "#BBBBBB"


def plot_bit_allocation(front: ParetoFront, *, kind: Kind = "weight", ax: Axes | None = None) -> Axes:
    """Draw the bit-widths of every layer along a front: one row a layer, one column a point.

    Args:
        front: The front; its columns go from the smallest first cost to the largest.
        kind: ``"weight"`` or ``"activation"``.
        ax: Where to draw; None for a new figure.

    Returns:
        The axes; layers that are not quantized are grey.

    Raises:
        ArgumentError: The front is empty.
        UnknownNameError: `kind` is unknown.
    """
    check_name("kind", kind, get_args(Kind))
    if not len(front):
        raise ArgumentError("front: is empty; allowed: at least one point")
    bits = np.stack([getattr(point.policy, f"{kind}_bits") for point in front], axis=1)
    ax = axes_for_rows(len(bits)) if ax is None else ax
    colors = ListedColormap(colormaps["cividis"](np.linspace(0, 1, len(QUANTIZED_BITS)))).with_extremes(
        over=_FLOAT_GREY
    )
    norm = BoundaryNorm(np.arange(QUANTIZED_BITS[0], QUANTIZED_BITS[-1] + 2) - 0.5, colors.N)
    image = ax.imshow(bits, aspect="auto", interpolation="nearest", cmap=colors, norm=norm)
    figure = ax.get_figure(root=True)
    if figure is not None:
        unquantized = (bits > QUANTIZED_BITS[-1]).any()
        bar = figure.colorbar(image, ax=ax, ticks=QUANTIZED_BITS, extend="max" if unquantized else "neither")
        bar.set_label(f"{kind} bit-width (bits){', grey: float' if unquantized else ''}")
    name_rows(ax, front[0].policy.layers)
    cost = next((name for name in front.objectives if name != "difference"), "bops")
    columns = np.unique(np.linspace(0, len(front) - 1, 6).round().astype(int))
    ax.set_xticks(columns, [f"{front[int(i)].value(cost):.3g}" for i in columns], fontsize=7)
    ax.set_xlabel(f"points of the front, by {axis_label(cost)}")
    ax.set_ylabel("layer")
    return ax


def plot_policy(policy: Policy, *, layers: Sequence[LayerInfo] | None = None, ax: Axes | None = None) -> Axes:
    """Draw a policy as bars: weight and activation bits of each layer, with its MACs and parameters.

    Args:
        policy: The policy.
        layers: Its layers, as `network.space.layers` has them; None draws the bits alone.
        ax: Where to draw; None for a new figure at column width.

    Returns:
        The axes; MACs and parameters are on a second, logarithmic axis, the last of `ax.figure.axes`.

    Raises:
        ArgumentError: The layers are not the policy's.
    """
    if layers is not None and tuple(layer.name for layer in layers) != policy.layers:
        raise ArgumentError(f"layers: given {len(layers)}; allowed: the policy's {len(policy.layers)}, in its order")
    ax = new_axes(height=3.8) if ax is None else ax
    place = np.arange(len(policy.layers))
    ax.bar(place - 0.2, policy.weight_bits, 0.4, color=BLUE, label="weight bits")
    ax.bar(place + 0.2, policy.activation_bits, 0.4, color=ORANGE, label="activation bits")
    name_columns(ax, policy.layers)
    ax.set_xlabel("layer")
    ax.set_ylabel("bit-width (bits)")
    if layers is not None:
        second = ax.twinx()
        second.plot(place, [layer.macs for layer in layers], "_", color=GREEN, markersize=6, markeredgewidth=2)
        second.plot(place, [layer.params for layer in layers], "x", color=PURPLE, markersize=4)
        ax.plot([], [], "_", color=GREEN, markersize=6, markeredgewidth=2, label="MACs (right axis)")
        ax.plot([], [], "x", color=PURPLE, markersize=4, label="parameters (right axis)")
        second.set_yscale("log")
        second.set_ylabel("MACs, parameters (count)")
    ax.legend(fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1.0)
    return ax
