"""Repeated runs of several algorithms: attainment, hypervolume against evaluations, runtimes."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from evoq_moo.analysis import AttainmentDifference, AttainmentSurface, RuntimeECDF
from evoq_moo.errors import ArgumentError
from evoq_moo.plots._style import COLORS, DASHES, new_axes, shown
from evoq_moo.space import FloatArray


def plot_attainment(
    surfaces: Mapping[str, Sequence[AttainmentSurface]],
    *,
    ax: Axes | None = None,
    xlabel: str = "bit operations (GBOPs)",
    ylabel: str = "output difference",
) -> Axes:
    """Draw the fronts of several algorithms: the median surface as a line, the others as the ends of a band.

    Args:
        surfaces: For each algorithm what :func:`evoq_moo.analysis.attainment_surfaces` returns for two objectives:
            one surface, or an odd number of them. Their first objective is drawn on the horizontal axis.
        ax: Where to draw; None for a new figure at column width.
        xlabel: Name and unit of the first objective.
        ylabel: Name and unit of the second.

    Returns:
        The axes.

    Raises:
        ArgumentError: No algorithm, an even number of surfaces, or not two objectives.
    """
    _check_given("surfaces", surfaces)
    for name, found in surfaces.items():
        if len(found) % 2 == 0 or any(s.points.ndim != 2 or s.points.shape[1] != 2 for s in found):
            raise ArgumentError(
                f"surfaces[{name!r}]: given {len(found)} surfaces; allowed: an odd number, of two objectives"
            )
    points = np.concatenate([s.points for found in surfaces.values() for s in found])
    right, top = points.max(axis=0)
    ax = new_axes() if ax is None else ax
    for i, (name, found) in enumerate(surfaces.items()):
        ordered = sorted(found, key=lambda s: s.percentile)
        color = COLORS[i % len(COLORS)]
        grid = np.unique(np.concatenate([*(s.points[:, 0] for s in ordered), [right]]))
        middle, low, high = (_step(ordered[k].points, grid) for k in (len(ordered) // 2, 0, -1))
        ax.step(grid, middle, where="post", color=color, linestyle=DASHES[i % 4], label=shown(name))
        if len(ordered) > 1:
            seen = ~np.isnan(low)
            upper = np.where(np.isnan(high), top, high)
            ax.fill_between(grid[seen], low[seen], upper[seen], step="post", color=color, alpha=0.2, linewidth=0)
    return _finished(ax, xlabel, ylabel)


def _step(points: FloatArray, grid: FloatArray) -> FloatArray:
    """Return for each place the smallest second value at or left of it; NaN where there is none."""
    order = np.argsort(points[:, 0], kind="stable")
    best = np.concatenate([[np.nan], np.minimum.accumulate(points[order, 1])])
    return np.asarray(best[np.searchsorted(points[order, 0], grid, side="right")])


def plot_attainment_difference(
    difference: AttainmentDifference,
    *,
    ax: Axes | None = None,
    left: str = "left",
    right: str = "right",
    xlabel: str = "bit operations (GBOPs)",
    ylabel: str = "output difference",
) -> Axes:
    """Draw where the runs of one algorithm attain more often than another's.

    Args:
        difference: What :func:`evoq_moo.analysis.attainment_difference` returns.
        ax: Where to draw; None for a new figure at column width.
        left: Name of the left side; positive values (blue) are in its favour.
        right: Name of the other (red).
        xlabel: Name and unit of the first objective.
        ylabel: Name and unit of the second.

    Returns:
        The axes.

    Raises:
        ArgumentError: The sides attain the same everywhere, so there is nothing to draw.
    """
    if len(difference.rectangles) == 0:
        raise ArgumentError("difference: holds no rectangle: both sides attain the same; nothing to draw")
    rectangles = difference.rectangles
    finite = rectangles.reshape(-1, 2)
    low, high = (np.array([f(column[np.isfinite(column)]) for column in finite.T]) for f in (np.min, np.max))
    margin = np.where(high > low, 0.1 * (high - low), 0.1 * np.maximum(np.abs(high), 1e-12))
    end = high + margin
    corners = np.minimum(rectangles[:, 2:], end)
    patches = [Rectangle((x, y), w - x, h - y) for (x, y), (w, h) in zip(rectangles[:, :2], corners, strict=True)]
    ax = new_axes() if ax is None else ax
    scale = Normalize(-1, 1)
    collection = PatchCollection(patches, cmap="RdBu", norm=scale)
    collection.set_array(difference.values)
    ax.add_collection(collection)
    ax.set_xlim(low[0] - margin[0], end[0])
    ax.set_ylim(low[1] - margin[1], end[1])
    figure = ax.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(ScalarMappable(scale, "RdBu"), ax=ax)
        bar.set_label(f"share of runs: {shown(left)} (+) less {shown(right)} (-)")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return ax


def plot_hypervolume(
    curves: Mapping[str, Sequence[npt.ArrayLike]],
    *,
    ax: Axes | None = None,
    start: int = 1,
    ylabel: str = "hypervolume (share of the box)",
) -> Axes:
    """Draw an indicator against evaluations: the median over runs as a line, the quartiles as a band.

    Args:
        curves: For each algorithm its runs, each the indicator after 1, 2, ... evaluations, `(evaluations,)`. Runs of
            different length are drawn to the end of the shortest.
        ax: Where to draw; None for a new figure at column width.
        start: Number of evaluations of the first value, e.g. 253 after a scan of 252.
        ylabel: Name and unit of the indicator.

    Returns:
        The axes.

    Raises:
        ArgumentError: No algorithm, one without runs, or a run without values.
    """
    _check_given("curves", curves)
    ax_values = {}
    for name, runs in curves.items():
        values = [np.asarray(run, dtype=np.float64) for run in runs]
        if not values or any(v.ndim != 1 or len(v) == 0 for v in values):
            raise ArgumentError(f"curves[{name!r}]: allowed: one or more runs (evaluations,), none empty")
        shortest = min(len(v) for v in values)
        ax_values[name] = np.percentile(np.stack([v[:shortest] for v in values]), [25, 50, 75], axis=0)
    ax = new_axes() if ax is None else ax
    for i, (name, (low, median, high)) in enumerate(ax_values.items()):
        color = COLORS[i % len(COLORS)]
        evaluations = np.arange(start, start + len(median))
        ax.plot(evaluations, median, color=color, linestyle=DASHES[i % 4], label=shown(name))
        ax.fill_between(evaluations, low, high, color=color, alpha=0.2, linewidth=0)
    return _finished(ax, "evaluations (policies)", ylabel)


def plot_ecdf(ecdfs: Mapping[str, RuntimeECDF], *, ax: Axes | None = None) -> Axes:
    """Draw the share of (run, target) pairs reached against evaluations.

    Args:
        ecdfs: For each algorithm what :func:`evoq_moo.analysis.runtime_ecdf` returns.
        ax: Where to draw; None for a new figure at column width.

    Returns:
        The axes.

    Raises:
        ArgumentError: No algorithm.
    """
    _check_given("ecdfs", ecdfs)
    end = max((float(e.evaluations[-1]) for e in ecdfs.values() if len(e.evaluations)), default=1.0)
    ax = new_axes() if ax is None else ax
    for i, (name, ecdf) in enumerate(ecdfs.items()):
        x = np.concatenate([[0.0], ecdf.evaluations, [end]])
        ax.step(x, ecdf.at(x), where="post", color=COLORS[i % len(COLORS)], linestyle=DASHES[i % 4], label=shown(name))
    ax.set_ylim(-0.02, 1.02)
    return _finished(ax, "evaluations (policies)", "share of (run, target) pairs reached")


def _check_given(argument: str, values: Mapping[str, object]) -> None:
    if not values:
        raise ArgumentError(f"{argument}: given none; allowed: one algorithm or more")


def _finished(ax: Axes, xlabel: str, ylabel: str) -> Axes:
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(visible=True, alpha=0.3)
    ax.legend(fontsize=8)
    return ax
