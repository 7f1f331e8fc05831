"""Demsar's critical-difference diagram."""

import numpy as np
from matplotlib.axes import Axes

from evoq_moo.analysis import FriedmanResult
from evoq_moo.plots._style import BLUE, VERMILION, new_axes, shown


def plot_critical_difference(result: FriedmanResult, *, ax: Axes | None = None) -> Axes:
    """Draw average ranks over problems; a bar joins algorithms that do not differ (Demsar 2006).

    Args:
        result: What :func:`evoq_moo.analysis.friedman_nemenyi` returns.
        ax: Where to draw; None for a new figure at column width.

    Returns:
        The axes; the best rank is on the left.
    """
    order = np.argsort(result.average_ranks, kind="stable")
    ranks = dict(zip(result.names, result.average_ranks.tolist(), strict=True))
    count, bars = len(order), len(result.cliques)
    ax = new_axes(height=1.4 + 0.28 * (count + bars)) if ax is None else ax
    for row, i in enumerate(order.tolist()):
        rank, name = float(result.average_ranks[i]), result.names[i]
        ax.plot([rank], [row], "o", color=BLUE, markersize=5)
        ax.plot([rank, rank], [row, -1], color="0.8", linewidth=0.8, zorder=0)
        ax.annotate(
            f"{shown(name)}  {rank:.2f}", (rank, row), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    for k, clique in enumerate(result.cliques):
        ends = [ranks[clique[0]], ranks[clique[-1]]]
        ax.plot(ends, [count + 0.6 * k] * 2, "-", color="black", linewidth=3, solid_capstyle="round")
    y = count + 0.6 * bars + 0.2
    ax.plot([1, 1 + result.critical_difference], [y, y], "|-", color=VERMILION, linewidth=1.2)
    ax.annotate(
        f"critical difference {result.critical_difference:.2f} at {result.alpha:g}",
        (1 + result.critical_difference, y),
        (6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=VERMILION,
    )
    ax.set_xlim(0.8, count + 0.45 * count)
    ax.set_ylim(y + 0.8, -1)
    ax.set_xticks(range(1, count + 1))
    ax.set_yticks([])
    ax.set_xlabel(f"average rank over problems (1 is best; Friedman p = {result.p_value:.2g})")
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    return ax
