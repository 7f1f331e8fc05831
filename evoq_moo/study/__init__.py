"""Repeated runs of several algorithms on several problems, on disk as they finish, and what they show."""

from evoq_moo.study._algorithms import ALGORITHMS, PymooSearch, RandomSearch, Search, named_algorithm
from evoq_moo.study._problems import NetworkProblem
from evoq_moo.study._results import INDICATORS, StudyResults
from evoq_moo.study._runs import Run
from evoq_moo.study._study import Study
from evoq_moo.study._toml import read_study

__all__ = [
    "ALGORITHMS",
    "INDICATORS",
    "NetworkProblem",
    "PymooSearch",
    "RandomSearch",
    "Run",
    "Search",
    "Study",
    "StudyResults",
    "named_algorithm",
    "read_study",
]
