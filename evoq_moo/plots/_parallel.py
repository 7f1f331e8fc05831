"""Parallel coordinates of a front."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from evoq_moo.costs import cost_names
from evoq_moo.errors import ArgumentError
from evoq_moo.front import ParetoFront
from evoq_moo.plots._style import BLUE, COLORS, axis_label, new_axes, shown
from evoq_moo.space import FloatArray, Policy


def plot_parallel_coordinates(
    front: ParetoFront, *, highlight: Mapping[str, Policy] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw each policy as a line over its difference, its costs and mean bit-widths.

    Each coordinate is scaled to the front's range, the difference on a log10 scale where it is positive; the ends of
    the range are written at the axes.

    Args:
        front: The front.
        highlight: Policies of the front to draw in colour, by name.
        ax: Where to draw; None for a new figure at column width.

    Returns:
        The axes.

    Raises:
        ArgumentError: The front is empty, or a policy is not on it.
    """
    if not len(front):
        raise ArgumentError("front: is empty; allowed: at least one point")
    rows = {name: front.points.index(front.point_of(policy)) for name, policy in (highlight or {}).items()}
    names = ["difference", *(name for name in cost_names() if all(name in point.costs for point in front))]
    columns = [front.values(name) for name in names]
    columns += [
        np.array([np.mean(getattr(p.policy, kind)) for p in front]) for kind in ("weight_bits", "activation_bits")
    ]
    labels = [axis_label(name).replace(" (", "\n(") for name in names]
    labels += ["mean weight\nbits", "mean activation\nbits"]
    scaled = np.stack(
        [_to_unit(column, log=i == 0 and bool((column > 0).all())) for i, column in enumerate(columns)], axis=1
    )
    ax = new_axes() if ax is None else ax
    place = np.arange(len(columns))
    ax.add_collection(
        LineCollection([np.stack([place, row], axis=1) for row in scaled], colors=BLUE, alpha=0.3, linewidths=0.8)
    )
    for i, (name, row) in enumerate(rows.items()):
        ax.plot(place, scaled[row], "o-", color=COLORS[1:][i % 6], markersize=3, label=shown(name))
    for x, column in enumerate(columns):
        ax.axvline(x, color="0.6", linewidth=0.8, zorder=0)
        ax.annotate(f"{column.min():.3g}", (x, -0.03), ha="center", va="top", fontsize=7)
        ax.annotate(f"{column.max():.3g}", (x, 1.03), ha="center", va="bottom", fontsize=7)
    ax.set_xlim(-0.4, len(columns) - 0.6)
    ax.set_ylim(-0.12, 1.12)
    ax.set_xticks(place, labels, fontsize=7)
    ax.set_yticks([])
    ax.set_ylabel("scaled to the front's range")
    if rows:
        ax.legend(fontsize=8)
    return ax


def _to_unit(column: FloatArray, *, log: bool) -> FloatArray:
    values = np.log10(column) if log else column
    spread = values.max() - values.min()
    return np.asarray((values - values.min()) / spread if spread > 0 else np.full(len(values), 0.5))
