"""What calibration did: after each step, and layer by layer."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from evoq_moo.calibration import CalibrationReport
from evoq_moo.errors import ArgumentError
from evoq_moo.plots._style import BLUE, COLORS, MARKERS, ORANGE, axes_for_rows, name_rows, new_axes, shown


def plot_calibration(report: CalibrationReport, *, ax: Axes | None = None) -> Axes:
    """Draw the difference before and after each step, on the samples and held out of them.

    Args:
        report: Of a calibrated network.
        ax: Where to draw; None for a new figure at column width.

    Returns:
        The axes; a step that was rolled back is named so, and the network goes on with what was before it.

    Raises:
        ArgumentError: The report has no step.
    """
    if not report.steps:
        raise ArgumentError("report: has no step; allowed: one or more")
    ax = new_axes() if ax is None else ax
    series = (
        ("on the samples", BLUE, "o-", "before", "after"),
        ("held out", ORANGE, "s--", "held_out_before", "held_out_after"),
    )
    all_values = []
    for label, color, style, before, after in series:
        values = [getattr(report.steps[0], before), *(getattr(step, after) for step in report.steps)]
        all_values += values
        ax.plot(range(len(values)), values, style, color=color, markersize=4, label=label)
    names = [s.step if s.outcome == "kept" else f"{s.step}\n({s.outcome})" for s in report.steps]
    ax.set_xticks(range(len(names) + 1), ["plain", *map(shown, names)])
    if min(all_values) > 0:
        ax.set_yscale("log")
    ax.set_xlabel("after step")
    ax.set_ylabel(f"output difference ({shown(report.metric)})")
    ax.grid(visible=True, alpha=0.3)
    ax.legend(fontsize=8)
    return ax


def plot_layer_errors(
    layers: Sequence[str],
    errors: Mapping[str, npt.ArrayLike],
    *,
    ax: Axes | None = None,
    xlabel: str = "normalized MSE of the layer's output",
) -> Axes:
    """Draw one value a layer for several networks, e.g. the error of its output before and after calibration.

    Args:
        layers: Names of the layers.
        errors: For each network one value a layer, `(layers,)`, as :func:`evoq_moo.calibration.layer_errors` gives.
        ax: Where to draw; None for a new figure.
        xlabel: Name and unit of the values.

    Returns:
        The axes; the scale is logarithmic where all values are positive.

    Raises:
        ArgumentError: Nothing to draw, or not one value a layer.
    """
    values = {name: np.asarray(given, dtype=np.float64) for name, given in errors.items()}
    wrong = [name for name, given in values.items() if given.shape != (len(layers),)]
    if wrong or not values or not layers:
        raise ArgumentError(
            f"errors: given {list(values)}, wrong {wrong}; allowed: one value for each of {len(layers)} layers"
        )
    ax = axes_for_rows(len(layers)) if ax is None else ax
    for i, (name, given) in enumerate(values.items()):
        ax.plot(given, range(len(layers)), MARKERS[i % 7], color=COLORS[i % 7], markersize=4, label=shown(name))
    if all((given > 0).all() for given in values.values()):
        ax.set_xscale("log")
    name_rows(ax, layers)
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.set_ylabel("layer")
    ax.grid(visible=True, alpha=0.3)
    ax.legend(fontsize=8)
    return ax
