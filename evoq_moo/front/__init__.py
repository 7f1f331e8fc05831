"""Pareto fronts of policies, and the rules that choose a point of one."""

from evoq_moo.front.by_accuracy import choose_by_accuracy
from evoq_moo.front.choosing import PICKS, Choice
from evoq_moo.front.front import ParetoFront, check_costs
from evoq_moo.front.point import FrontPoint

__all__ = [
    "PICKS",
    "Choice",
    "FrontPoint",
    "ParetoFront",
    "check_costs",
    "choose_by_accuracy",
]
