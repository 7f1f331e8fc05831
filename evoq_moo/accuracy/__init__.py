"""Accuracy of networks on labelled images: of one network, and the curve of a run."""

from evoq_moo.accuracy.accuracy import Accuracy, evaluate_accuracy
from evoq_moo.accuracy.curve import (
    CURVE_FILE,
    FLOAT,
    FRONT,
    UNIFORM,
    AccuracyCurve,
    Kind,
    MeasuredPolicy,
    as_percent,
    check_same_images,
    float_policy,
    read_curve,
)
from evoq_moo.accuracy.judge import Judge, map_judge, top1_judge

__all__ = [
    "CURVE_FILE",
    "FLOAT",
    "FRONT",
    "UNIFORM",
    "Accuracy",
    "AccuracyCurve",
    "Judge",
    "Kind",
    "MeasuredPolicy",
    "as_percent",
    "check_same_images",
    "evaluate_accuracy",
    "float_policy",
    "map_judge",
    "read_curve",
    "top1_judge",
]
