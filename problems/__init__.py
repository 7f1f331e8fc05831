"""pymoo Problems over integer bit-width vectors."""

from .mixed_precision import OBJECTIVES, MixedPrecisionProblem

__all__ = ["OBJECTIVES", "MixedPrecisionProblem"]
