"""Our default search: a surrogate proposes policies, a few samples screen them, real evaluations decide."""

from ._archive import supports
from ._samples import SampleSubset, hardest_samples
from .surrogate_search import SurrogateSearch

__all__ = ["SampleSubset", "SurrogateSearch", "hardest_samples", "supports"]
