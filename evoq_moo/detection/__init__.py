"""Detection: decoding, ground truth in the common formats, and mean average precision.

A search quantizes a network that gives raw heads (class logits and box regressions); everything behind them stays in
float, here.
"""

from evoq_moo.detection._decode import HEADS, BoxDecoder, Detections, attribute_of
from evoq_moo.detection._detector import Detector
from evoq_moo.detection._evaluate import evaluate_detection
from evoq_moo.detection._read import read_coco, read_corners, read_detection, read_voc, read_yolo
from evoq_moo.detection._score import DetectionAccuracy, mean_average_precision
from evoq_moo.detection._truth import DetectionSet, Truth

__all__ = [
    "HEADS",
    "BoxDecoder",
    "DetectionAccuracy",
    "DetectionSet",
    "Detections",
    "Detector",
    "Truth",
    "attribute_of",
    "evaluate_detection",
    "mean_average_precision",
    "read_coco",
    "read_corners",
    "read_detection",
    "read_voc",
    "read_yolo",
]
