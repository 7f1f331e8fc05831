"""Pareto fronts of policies, and the rules that choose a point of one."""

from evoq_moo.front.by_accuracy import choose_by_accuracy
from evoq_moo.front.choosing import (
    PICKS,
    Choice,
    by_aspiration,
    by_hypervolume_contribution,
    by_pseudo_weights,
    knee_by_angle,
    nearest_rows,
)
from evoq_moo.front.front import ParetoFront, check_costs
from evoq_moo.front.point import FrontPoint

__all__ = [
    "PICKS",
    "Choice",
    "FrontPoint",
    "ParetoFront",
    "by_aspiration",
    "by_hypervolume_contribution",
    "by_pseudo_weights",
    "check_costs",
    "choose_by_accuracy",
    "knee_by_angle",
    "nearest_rows",
]
