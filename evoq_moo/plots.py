"""Pictures of fronts, by matplotlib."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evoq_moo._files import write_atomically
from evoq_moo.errors import ArgumentError
from evoq_moo.front import FrontPoint, ParetoFront

AXIS_LABELS = {"difference": "output difference", "size": "weight size (MiB)", "bops": "bit operations (GBOPs)"}
# Okabe and Ito's colour-blind-safe palette: blue, orange, green.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#E69F00", "#009E73"


def new_axes() -> Axes:
    """Return the axes of a new figure at column width; not pyplot's, so there is nothing to close."""
    return Figure(figsize=(5.0, 3.4), dpi=150, layout="constrained").add_subplot()


def save_axes(ax: Axes, path: str | Path) -> None:
    """Write the figure of some axes as PNG, whole or not at all."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ArgumentError("ax: belongs to no figure")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def plot_front(
    front: ParetoFront, *, ax: Axes | None = None, uniform: Sequence[FrontPoint] = (), label: str = "front"
) -> Axes:
    """Draw a front of the difference against its first cost, with its knee.

    Args:
        front: A front with a cost and the difference among its objectives.
        ax: Where to draw; None for a new figure at column width.
        uniform: Policies with one bit-width everywhere, drawn as markers for comparison.
        label: Name in the legend.

    Returns:
        The axes.

    Raises:
        ArgumentError: The front is empty, or lacks the difference or a cost.
    """
    costs = [name for name in front.objectives if name != "difference"]
    if "difference" not in front.objectives or not costs or not len(front):
        raise ArgumentError(f"front: {len(front)} points in {front.objectives}; allowed: the difference and a cost")
    cost = costs[0]
    ax = new_axes() if ax is None else ax
    ax.plot(front.values(cost), front.values("difference"), "o-", color=_BLUE, markersize=3, linewidth=1, label=label)
    if uniform:
        x, y = [p.value(cost) for p in uniform], [p.difference for p in uniform]
        ax.plot(x, y, "s", color=_GREEN, markersize=5, label="uniform bit-widths")
    knee = front.point_of(front.knee())
    ax.plot([knee.value(cost)], [knee.difference], "*", color=_ORANGE, markersize=12, label="knee")
    if np.all(front.values("difference") > 0):
        ax.set_yscale("log")
    metric = front.provenance.get("metric")
    ax.set_xlabel(AXIS_LABELS[cost])
    ax.set_ylabel(AXIS_LABELS["difference"] + (f" ({metric})" if metric else ""))
    ax.grid(visible=True, alpha=0.3)
    ax.legend()
    return ax
