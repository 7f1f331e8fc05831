"""Our default search: a surrogate proposes policies, a few samples screen them, real evaluations decide."""

from evoq_moo.sample_subset import SampleSubset

from ._archive import supports
from ._samples import hardest_samples
from .surrogate_search import SurrogateSearch

__all__ = ["SampleSubset", "SurrogateSearch", "hardest_samples", "supports"]
