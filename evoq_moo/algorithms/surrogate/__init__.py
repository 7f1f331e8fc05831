"""Our default search: from lookups, a surrogate proposes policies, real evaluations decide."""

from evoq_moo.algorithms.surrogate._archive import supports
from evoq_moo.algorithms.surrogate.surrogate_search import SurrogateSearch

__all__ = [
    "SurrogateSearch",
    "supports",
]
