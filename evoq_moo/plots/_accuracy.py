"""Accuracy against cost, and how well the difference, which needs no labels, ranks accuracy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from scipy.stats import kendalltau

from evoq_moo.accuracy import FLOAT, FRONT, UNIFORM, AccuracyCurve, MeasuredPolicy
from evoq_moo.costs import label_of, name_of
from evoq_moo.errors import ArgumentError
from evoq_moo.plots._style import BLACK, BLUE, GREEN, ORANGE, VERMILION, legend_above, new_axes, shown
from evoq_moo.space import Policy

SHOWN = 0.3
"""Our choice: accuracies that are further below the float network's tell nobody which point to ship."""


def plot_difference_accuracy(
    differences: npt.ArrayLike, accuracies: npt.ArrayLike, *, metric: str = "kl", ax: Axes | None = None
) -> Axes:
    """Draw accuracy against output difference, with Kendall's tau between accuracy and the negated difference.

    Args:
        differences: Differences of some policies, `(policies,)`.
        accuracies: Their top-1 accuracies, as fractions 0..1.
        metric: Name of the difference.
        ax: Where to draw; None for a new figure at column width.

    Returns:
        The axes; tau-b is in the title. 1 means that the difference ranks the policies as accuracy does; it is not
        defined where one side does not vary.

    Raises:
        ArgumentError: Not two arrays of one length, or empty.
    """
    x, y = np.asarray(differences, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ArgumentError(
            f"accuracies: given shape {y.shape}; allowed: that of the differences, {x.shape}, not empty"
        )
    ax = new_axes() if ax is None else ax
    ax.plot(x, 100 * y, "o", color=BLUE, markersize=4)
    if (x > 0).all():
        ax.set_xscale("log")
    constant = len(x) < 2 or (x == x[0]).all() or (y == y[0]).all()
    tau = "not defined" if constant else f"{float(kendalltau(-x, y).statistic):.2f}"
    ax.set_title(f"Kendall's tau {tau}, {len(x)} policies", fontsize=9)
    ax.set_xlabel(f"output difference ({shown(metric)})")
    ax.set_ylabel("top-1 accuracy (%)")
    ax.grid(visible=True, alpha=0.3)
    return ax


def plot_accuracy_curve(
    curve: AccuracyCurve, *, x: str = "size", chosen: Policy | None = None, ax: Axes | None = None
) -> Axes:
    """Draw accuracy against a cost: the float network as a line, uniform bit-widths by name, the run's points.

    Args:
        curve: What was measured.
        x: The cost on the horizontal axis.
        chosen: A policy to mark.
        ax: Where to draw; None for a new figure at column width.

    Raises:
        UnknownNameError: `x` is unknown.
        ArgumentError: The cost of no policy is known.
    """
    x = name_of(x, "x")
    rows = [row for row in curve.rows if x in row.costs and row.kind != FLOAT]
    if not rows:
        raise ArgumentError(f"x: given {x!r}, which is known of no measured policy; allowed: another cost")
    ax = new_axes() if ax is None else ax
    if curve.exact is not None:
        exact = 100 * curve.exact
        ax.axhline(exact, color=BLACK, linestyle="--", linewidth=1, label=f"float network, {exact:.2f} %")
    uniform = [row for row in rows if row.kind == UNIFORM]
    _draw_rows(ax, uniform, x, "s", GREEN, "uniform bit-widths")
    for row in uniform:
        place = (row.value(x), 100 * row.accuracy)
        ax.annotate(row.name, place, xytext=(4, -9), textcoords="offset points", fontsize=7, color=GREEN)
    for calibrated, marker, color, label in (
        (False, "o-", BLUE, "mixed bit-widths"),
        (True, "D-", VERMILION, "mixed bit-widths, calibrated"),
    ):
        found = [row for row in rows if row.kind == FRONT and bool(row.calibration) == calibrated]
        _draw_rows(ax, sorted(found, key=lambda row: row.value(x)), x, marker, color, label)
    marked = None if chosen is None else curve.of(chosen)
    if marked is not None and x in marked.costs:
        _draw_rows(ax, [marked], x, "*", ORANGE, "chosen", size=12)
    _leave_out_guessing(ax, curve, rows)
    ax.set_xlabel(label_of(x))
    ax.set_ylabel(f"{curve.measure} (%), {curve.count} images")
    ax.grid(visible=True, alpha=0.3)
    legend_above(ax)
    return ax


def _leave_out_guessing(ax: Axes, curve: AccuracyCurve, rows: Sequence[MeasuredPolicy]) -> None:
    """Let the axis end :data:`SHOWN` below the float network, and say how many points that leaves out."""
    if curve.exact is None:
        return
    lowest = round(curve.exact - SHOWN, 9)
    below = sum(row.accuracy < lowest for row in rows)
    if below:
        ax.set_ylim(bottom=100 * lowest)
        said = f"{below} of {len(rows)} are below {100 * lowest:.0f} %"
        ax.text(0.99, 0.02, said, transform=ax.transAxes, ha="right", fontsize=8)


def _draw_rows(
    ax: Axes, rows: Sequence[MeasuredPolicy], x: str, marker: str, color: str, label: str, *, size: int = 4
) -> None:
    if rows:
        places = [row.value(x) for row in rows], [100 * row.accuracy for row in rows]
        ax.plot(*places, marker, color=color, markersize=size, linewidth=1, label=label, zorder=3)
