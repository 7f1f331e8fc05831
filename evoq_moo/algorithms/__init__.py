"""Our algorithms: pymoo's own with the sensitivity-guided operators, and searches of our own."""

from evoq_moo.algorithms.guided import EvoQGA, default_algorithm, guided_nsga2, uniform_budget
from evoq_moo.algorithms.level_switch import LevelSwitch
from evoq_moo.algorithms.surrogate._archive import supports
from evoq_moo.algorithms.surrogate.surrogate_search import SurrogateSearch

__all__ = [
    "EvoQGA",
    "LevelSwitch",
    "SurrogateSearch",
    "default_algorithm",
    "guided_nsga2",
    "supports",
    "uniform_budget",
]
