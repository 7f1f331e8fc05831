"""A run as one HTML file: its accuracies, what was searched, its front, maps, chosen policy, calibration, provenance.

The file holds everything it shows (pictures as SVG, data as JSON, one script of ours) and refers to nothing outside;
names are escaped wherever they are written.
"""

from evoq_moo.report._compare import compare_runs, write_comparison
from evoq_moo.report._render import render_report, write_report
from evoq_moo.report._run_data import RunData, read_run
from evoq_moo.report._serve import ReportServer

__all__ = [
    "ReportServer",
    "RunData",
    "compare_runs",
    "read_run",
    "render_report",
    "write_comparison",
    "write_report",
]
