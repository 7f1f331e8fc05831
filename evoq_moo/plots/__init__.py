"""Pictures by matplotlib: each function draws on some axes, or on a new figure, and returns the axes.

Figures are 5 inches wide with 10-point text: printed at a column's 3.5 inches the text has 7 points. Colours are Okabe
and Ito's, which colour-blind readers tell apart; no meaning is in a colour alone where a marker or dash can say it too.
Indicators and statistics are not computed here but drawn as :mod:`evoq_moo.analysis` returns them.
"""

from evoq_moo.plots._accuracy import plot_difference_accuracy
from evoq_moo.plots._bits import plot_bit_allocation, plot_policy
from evoq_moo.plots._calibration import plot_calibration, plot_layer_errors
from evoq_moo.plots._front import plot_front
from evoq_moo.plots._parallel import plot_parallel_coordinates
from evoq_moo.plots._ranks import plot_critical_difference
from evoq_moo.plots._runs import plot_attainment, plot_attainment_difference, plot_ecdf, plot_hypervolume
from evoq_moo.plots._sensitivity import plot_sensitivity
from evoq_moo.plots._style import COLORS, image_bytes, new_axes, save_axes

__all__ = [
    "COLORS",
    "image_bytes",
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
