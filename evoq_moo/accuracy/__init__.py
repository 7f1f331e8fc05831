"""Accuracy of classification networks on labelled images."""

from evoq_moo.accuracy.accuracy import Accuracy, evaluate_accuracy

__all__ = [
    "Accuracy",
    "evaluate_accuracy",
]
