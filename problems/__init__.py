"""pymoo Problems over integer bit-width vectors."""

from ._base import UNDEFINED, BitWidthProblem
from ._suite import get_problem, problem_names
from .mixed_precision import MixedPrecisionProblem
from .protocol import PolicyProblem, check_same_genes, cost_limits, policy_problem, problem_space, traded_costs
from .surrogate import Surrogate, SurrogateProblem

__all__ = [
    "UNDEFINED",
    "BitWidthProblem",
    "MixedPrecisionProblem",
    "PolicyProblem",
    "Surrogate",
    "SurrogateProblem",
    "check_same_genes",
    "cost_limits",
    "get_problem",
    "policy_problem",
    "problem_names",
    "problem_space",
    "traded_costs",
]
