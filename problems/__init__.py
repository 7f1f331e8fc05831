"""pymoo Problems over integer bit-width vectors."""

from ._base import OBJECTIVES, BitWidthProblem
from ._suite import get_problem, problem_names
from .mixed_precision import MixedPrecisionProblem
from .surrogate import Surrogate, SurrogateProblem

__all__ = [
    "OBJECTIVES",
    "BitWidthProblem",
    "MixedPrecisionProblem",
    "Surrogate",
    "SurrogateProblem",
    "get_problem",
    "problem_names",
]
