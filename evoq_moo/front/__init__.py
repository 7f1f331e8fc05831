"""Pareto fronts of policies, and the rules that choose a point of one."""

from evoq_moo.front.choosing import PICKS, Choice, choose_by_accuracy
from evoq_moo.front.front import FrontPoint, ParetoFront, check_costs

__all__ = [
    "PICKS",
    "Choice",
    "FrontPoint",
    "ParetoFront",
    "check_costs",
    "choose_by_accuracy",
]
