"""A run as one HTML file: what was searched, its front, maps, chosen policy, calibration and provenance.

The file holds everything it shows (pictures as SVG, data as JSON, one script of ours) and refers to nothing outside;
names are escaped wherever they are written.
"""

from evoq_moo.report._known import KnownPolicies
from evoq_moo.report._render import render_report, write_report
from evoq_moo.report._run_data import RunData, read_run

__all__ = [
    "KnownPolicies",
    "RunData",
    "read_run",
    "render_report",
    "write_report",
]
