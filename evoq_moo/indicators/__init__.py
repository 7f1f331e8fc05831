"""Quality of one set of points: hypervolume, IGD+, epsilon, and the reference they are measured against."""

from evoq_moo.indicators._check import check_archive, check_point, check_runs, check_sample
from evoq_moo.indicators._reference import FrozenReference
from evoq_moo.indicators._sets import (
    additive_epsilon,
    check_reference_set,
    hypervolume,
    igd_plus,
    nondominated,
    normalized_hypervolume,
    scale_to_box,
)
from evoq_moo.indicators.scale import log_difference, log_scale, logarithm

__all__ = [
    "FrozenReference",
    "additive_epsilon",
    "check_archive",
    "check_point",
    "check_reference_set",
    "check_runs",
    "check_sample",
    "hypervolume",
    "igd_plus",
    "log_difference",
    "log_scale",
    "logarithm",
    "nondominated",
    "normalized_hypervolume",
    "scale_to_box",
]
