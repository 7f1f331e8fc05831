"""Differences between the outputs of the quantized and the pre-trained network on the samples.

A network's output may be any nesting of tuples, lists, mappings and dataclasses; its floating-point tensors, in order,
are its heads. Each head counts equally. All sums run in float64.

A new named difference is one entry of :data:`METRICS`; a user's own is any callable of (float heads, quantized heads).
"""

from evoq_moo.difference._identity import identity_of
from evoq_moo.difference._interval import CONFIDENCE, FEWEST, difference_interval
from evoq_moo.difference._metrics import (
    CLASS_METRICS,
    METRICS,
    Metric,
    class_axis,
    cosine_distance,
    kl_divergence,
    negative_sqnr,
    normalized_mse,
    top1_flips,
)
from evoq_moo.difference._outputs import Rebuild, heads_of, map_tensors, skeleton
from evoq_moo.difference._resolve import AUTO, DEFAULT, Difference, resolve

__all__ = [
    "AUTO",
    "CLASS_METRICS",
    "CONFIDENCE",
    "DEFAULT",
    "FEWEST",
    "METRICS",
    "Difference",
    "Metric",
    "Rebuild",
    "class_axis",
    "cosine_distance",
    "difference_interval",
    "heads_of",
    "identity_of",
    "kl_divergence",
    "map_tensors",
    "negative_sqnr",
    "normalized_mse",
    "resolve",
    "skeleton",
    "top1_flips",
]
