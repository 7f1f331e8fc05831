"""How well the difference, which needs no labels, ranks accuracy."""

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from scipy.stats import kendalltau

from evoq_moo.errors import ArgumentError
from evoq_moo.plots._style import BLUE, new_axes, shown


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
