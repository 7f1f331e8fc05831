"""Our default search: a surrogate proposes policies, a few samples screen them, real evaluations decide."""

from evoq_moo.algorithms.surrogate._archive import supports
from evoq_moo.algorithms.surrogate._samples import hardest_samples
from evoq_moo.algorithms.surrogate.surrogate_search import SurrogateSearch

__all__ = [
    "SurrogateSearch",
    "hardest_samples",
    "supports",
]
