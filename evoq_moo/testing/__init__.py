"""Conformance checks for pymoo problems, operators and algorithms, ours and yours, to be called from any pytest.

    def test_my_mutation():
        check_mutation(MyMutation(), make_problem())

Each check returns nothing, or raises a :class:`ConformanceError` that begins with the check's name and says what was
seen and what was expected. The checks' names:

- ``bounds``, ``allowed-values``, ``dtype``, ``count``, ``shape``, ``finite``: what comes out is well-formed;
- ``inputs-untouched``: arrays that were given are not written to;
- ``same-seed``, ``different-seed``, ``global-rng``: all randomness, and nothing else, comes from the seed;
- ``pickle``: a copy through pickle works like the original;
- ``batch``, ``order``, ``duplicates``: a vector's values don't depend on what it is evaluated with;
- ``fixed-point``: a repair leaves allowed vectors alone;
- ``parallel``, ``resume``: neither workers nor a restart change a result.

Comparisons are bit for bit unless said otherwise. Where a problem has a :class:`~evoq_moo.space.SearchSpace` as its
`space` that says which values are allowed, else its bounds and `vtype` do, so pymoo's own problems can be checked too.
Factories must build a new object at each call; problems with a `close` method are closed after use.
"""

from evoq_moo.testing.testing import (
    ConformanceError,
    check_algorithm,
    check_crossover,
    check_mutation,
    check_problem,
    check_repair,
    check_sampling,
)

__all__ = [
    "ConformanceError",
    "check_algorithm",
    "check_crossover",
    "check_mutation",
    "check_problem",
    "check_repair",
    "check_sampling",
]
