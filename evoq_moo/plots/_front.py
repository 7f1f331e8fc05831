"""The front: its points, knee, budgets, baselines and accuracies."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from evoq_moo.costs import checked_budgets, name_of
from evoq_moo.errors import ArgumentError
from evoq_moo.front import FrontPoint, ParetoFront
from evoq_moo.indicators import nondominated
from evoq_moo.plots._style import BLUE, COLORS, GREEN, MARKERS, ORANGE, PURPLE, VERMILION, axis_label, new_axes, shown


def plot_front(
    front: ParetoFront,
    *,
    ax: Axes | None = None,
    x: str | None = None,
    y: str | None = None,
    uniform: Sequence[FrontPoint] = (),
    baselines: Mapping[str, Sequence[FrontPoint]] | None = None,
    budgets: Mapping[str, float] | None = None,
    accuracies: Sequence[float | None] | None = None,
    knee: bool = True,
    label: str = "front",
) -> Axes:
    """Draw a front in two of its objectives.

    A front of three objectives is coloured by the third; the line joins only the points that no other dominates in
    the two that are drawn.

    Args:
        front: A front of two or three objectives.
        ax: Where to draw; None for a new figure at column width.
        x: Objective on the horizontal axis; None for the first cost.
        y: Objective on the vertical axis; None for the difference, or the first objective that is not `x`.
        uniform: Policies with one bit-width everywhere, drawn as markers for comparison.
        baselines: Further sets of policies by name, drawn as markers.
        budgets: Limits drawn as lines, as problems take them; of objectives that are not drawn, none.
        accuracies: For each point of the front its top-1 accuracy (0..1) or None where it was not measured; drawn on
            a second axis in percent.
        knee: Mark the knee.
        label: Name in the legend.

    Returns:
        The axes; the second axis of accuracies is the last of `ax.figure.axes`.

    Raises:
        ArgumentError: The front is empty or has one objective, `x` and `y` are the same, or there are not as many
            accuracies as points.
        UnknownNameError: An objective or budget is unknown.
    """
    x, y = _objectives(front, x, y)
    if accuracies is not None and len(accuracies) != len(front):
        raise ArgumentError(f"accuracies: given {len(accuracies)}; allowed: one for each of {len(front)} points")
    limits = checked_budgets(budgets or {})
    ax = new_axes() if ax is None else ax
    metric = front.provenance.get("metric")
    _draw_points(ax, front, x, y, shown(label), metric)
    if uniform:
        _markers(ax, uniform, x, y, "s", GREEN, "uniform bit-widths")
    for i, (name, points) in enumerate((baselines or {}).items()):
        _markers(ax, points, x, y, MARKERS[1:][i % 5], COLORS[(i + 3) % len(COLORS)], shown(name))
    if knee:
        found = front.point_of(front.knee())
        ax.plot([found.value(x)], [found.value(y)], "*", color=ORANGE, markersize=12, label="knee", zorder=4)
    for name, limit in limits.items():
        if name == x:
            ax.axvline(limit, color=VERMILION, linestyle="--", linewidth=1, label=f"budget {limit:.3g}")
        elif name == y:
            ax.axhline(limit, color=VERMILION, linestyle=":", linewidth=1, label=f"budget {limit:.3g}")
    _scale(ax, front, x, y)
    ax.set_xlabel(axis_label(x, metric))
    ax.set_ylabel(axis_label(y, metric))
    ax.grid(visible=True, alpha=0.3)
    if accuracies is not None:
        _draw_accuracies(ax, front, x, accuracies)
    # What is on the second axis does not count for "best"; accuracies are mostly at the top.
    ax.legend(fontsize=8, loc="best" if accuracies is None else "center right")
    return ax


def _objectives(front: ParetoFront, x: str | None, y: str | None) -> tuple[str, str]:
    names = front.objectives
    x, y = (None if v is None else name_of(v, argument) for argument, v in (("x", x), ("y", y)))
    if not len(front) or len(names) < 2:
        raise ArgumentError(f"front: given {len(front)} points in {names}; allowed: one or more, in two objectives")
    x = next((n for n in names if n not in {"difference", y}), names[0]) if x is None else x
    if y is None:
        y = "difference" if "difference" in names and x != "difference" else next(n for n in names if n != x)
    if x == y:
        raise ArgumentError(f"y: given {y!r}, as x; allowed: another objective")
    return x, y


def _draw_points(ax: Axes, front: ParetoFront, x: str, y: str, label: str, metric: object) -> None:
    F = np.stack([front.values(x), front.values(y)], axis=1)
    others = [name for name in front.objectives if name not in {x, y}]
    joined = F[nondominated(F)]
    joined = joined[np.argsort(joined[:, 0], kind="stable")]
    if not others:
        ax.plot(joined[:, 0], joined[:, 1], "o-", color=BLUE, markersize=3, linewidth=1, label=label)
        return
    ax.plot(joined[:, 0], joined[:, 1], "-", color=BLUE, linewidth=1, zorder=1)
    drawn = ax.scatter(F[:, 0], F[:, 1], c=front.values(others[0]), cmap="cividis", s=14, label=label, zorder=2)
    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.colorbar(drawn, ax=ax, label=axis_label(others[0], metric))


def _markers(ax: Axes, points: Sequence[FrontPoint], x: str, y: str, marker: str, color: str, label: str) -> None:
    values = [p.value(x) for p in points], [p.value(y) for p in points]
    ax.plot(*values, marker, color=color, markersize=5, label=label, zorder=3)


def _scale(ax: Axes, front: ParetoFront, x: str, y: str) -> None:
    """Set the difference's axis to a logarithmic scale where all is positive."""
    if np.all(front.values("difference") > 0):
        if y == "difference":
            ax.set_yscale("log")
        elif x == "difference":
            ax.set_xscale("log")


def _draw_accuracies(ax: Axes, front: ParetoFront, x: str, accuracies: Sequence[float | None]) -> None:
    second = ax.twinx()
    measured = [(point.value(x), 100 * a) for point, a in zip(front, accuracies, strict=True) if a is not None]
    places, percents = [place for place, _ in measured], [percent for _, percent in measured]
    second.plot(places, percents, "D", color=PURPLE, markersize=4, markerfacecolor="none")
    ax.plot([], [], "D", color=PURPLE, markersize=4, markerfacecolor="none", label="top-1 (right axis)")
    second.set_ylabel("top-1 accuracy (%)", color=PURPLE)
