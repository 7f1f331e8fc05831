"""Detection: decoding, ground truth in the common formats, and mean average precision.

A search quantizes a network that gives raw heads (class logits and box regressions); everything behind them stays in
float, here.
"""

from evoq_moo.detection._decode import HEADS, BoxDecoder, Detections
from evoq_moo.detection._detector import Detector

__all__ = ["HEADS", "BoxDecoder", "Detections", "Detector"]
