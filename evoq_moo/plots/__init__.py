"""Pictures by matplotlib: each function draws on some axes, or on a new figure, and returns the axes.

Figures are 5 inches wide with 10-point text: printed at a column's 3.5 inches the text has 7 points. Colours are Okabe
and Ito's, which colour-blind readers tell apart; no meaning is in a colour alone where a marker or dash can say it too.
Indicators and statistics are not computed here but drawn as :mod:`evoq_moo.analysis` returns them.
"""

from ._accuracy import plot_difference_accuracy
from ._bits import plot_bit_allocation, plot_policy
from ._calibration import plot_calibration, plot_layer_errors
from ._front import plot_front
from ._parallel import plot_parallel_coordinates
from ._ranks import plot_critical_difference
from ._runs import plot_attainment, plot_attainment_difference, plot_ecdf, plot_hypervolume
from ._sensitivity import plot_sensitivity
from ._style import COLORS, new_axes, save_axes

__all__ = [
    "COLORS",
    "new_axes",
    "plot_attainment",
    "plot_attainment_difference",
    "plot_bit_allocation",
    "plot_calibration",
    "plot_critical_difference",
    "plot_difference_accuracy",
    "plot_ecdf",
    "plot_front",
    "plot_hypervolume",
    "plot_layer_errors",
    "plot_parallel_coordinates",
    "plot_policy",
    "plot_sensitivity",
    "save_axes",
]
