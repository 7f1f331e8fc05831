"""Indicators, attainment, runtimes and statistics of repeated runs.

Archives are float64 `(evaluations, objectives)`, all minimized, one row an evaluation in the order they were made; a
row that is infinite or NaN anywhere (an infeasible policy, say) counts as an evaluation that found nothing. Runs are
sequences of archives.
"""

from evoq_moo.analysis._attainment import (
    AttainmentDifference,
    AttainmentSurface,
    attainment_difference,
    attainment_surfaces,
)
from evoq_moo.analysis._curves import additive_epsilon_curve, hypervolume_curve, igd_plus_curve
from evoq_moo.analysis._groups import FriedmanResult, friedman_nemenyi
from evoq_moo.analysis._pairs import PairResult, a12, compare_pairs, holm, mann_whitney, wilcoxon_signed_rank
from evoq_moo.analysis._runtime import RuntimeECDF, runtime_ecdf, runtimes
from evoq_moo.analysis._spread import Interval, bootstrap_interval
from evoq_moo.indicators import (
    FrozenReference,
    additive_epsilon,
    hypervolume,
    igd_plus,
    log_difference,
    nondominated,
    normalized_hypervolume,
)

__all__ = [
    "AttainmentDifference",
    "AttainmentSurface",
    "FriedmanResult",
    "FrozenReference",
    "Interval",
    "PairResult",
    "RuntimeECDF",
    "a12",
    "additive_epsilon",
    "additive_epsilon_curve",
    "attainment_difference",
    "attainment_surfaces",
    "bootstrap_interval",
    "compare_pairs",
    "friedman_nemenyi",
    "holm",
    "hypervolume",
    "hypervolume_curve",
    "igd_plus",
    "igd_plus_curve",
    "log_difference",
    "mann_whitney",
    "nondominated",
    "normalized_hypervolume",
    "runtime_ecdf",
    "runtimes",
    "wilcoxon_signed_rank",
]
