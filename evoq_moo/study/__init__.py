"""Repeated runs of several algorithms on several problems, on disk as they finish, and what they show."""

from ._algorithms import ALGORITHMS, PymooSearch, RandomSearch, Search, named_algorithm
from ._problems import NetworkProblem
from ._results import StudyResults
from ._runs import Run
from ._study import Study

__all__ = [
    "ALGORITHMS",
    "NetworkProblem",
    "PymooSearch",
    "RandomSearch",
    "Run",
    "Search",
    "Study",
    "StudyResults",
    "named_algorithm",
]
