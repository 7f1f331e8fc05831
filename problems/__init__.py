"""pymoo Problems over integer bit-width vectors."""

from ._base import OBJECTIVES, BitWidthProblem
from .mixed_precision import MixedPrecisionProblem

__all__ = ["OBJECTIVES", "BitWidthProblem", "MixedPrecisionProblem"]
