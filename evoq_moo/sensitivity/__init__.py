"""How much each gene alone changes the outputs: the table and the scan that measures it."""

from evoq_moo.sensitivity.scan import Method, measure_sensitivity, scan_policies, sparse_table
from evoq_moo.sensitivity.table import SensitivityTable, check_sensitivity

__all__ = [
    "Method",
    "SensitivityTable",
    "check_sensitivity",
    "measure_sensitivity",
    "scan_policies",
    "sparse_table",
]
