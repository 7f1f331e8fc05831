"""Algorithms of a study: pymoo's by name, ours, random search, and bridges to other libraries."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import numpy as np
from pymoo.core.algorithm import Algorithm
from pymoo.core.problem import Problem

from evoq_moo.algorithms import EvoQGA, guided_nsga2
from evoq_moo.baselines import random_policies, spread
from evoq_moo.costs import name_of
from evoq_moo.errors import ArgumentError, MissingPackageError, check_count, check_name
from evoq_moo.operators import BitWidthRepair, UniformBitCrossover, UniformBitMutation, table_front
from evoq_moo.problems import problem_space, traded_costs
from evoq_moo.runs import Record, run_algorithm
from evoq_moo.study._default import DefaultSearch
from evoq_moo.zoo import call_function, import_function

ETA = 3
"""Distribution index of SBX and PM: pymoo's default of 20 hardly ever moves a gene of few choices."""
POP_SIZE = 40


@runtime_checkable
class Search(Protocol):
    """What a study runs: evaluates through the record until it stops or the budget is spent.

    One that uses the sensitivity table may have an attribute `scan = "sparse"`, to get and pay for a sparse one. One
    with a method `check(name, problem)` is asked before any run whether a problem is one for it, where the problem's
    objectives are known by then; it raises `ArgumentError` if not.
    """

    @property
    def uses_sensitivity(self) -> bool:
        """Whether it needs `problem.sensitivity`, whose scan then counts in its budget."""

    def __call__(self, problem: Problem, record: Record, seed: int) -> None:
        """Search.

        Args:
            problem: The problem.
            record: Keeps every evaluation, and ends the search when the budget is spent.
            seed: Seed of all randomness.
        """


@dataclass(frozen=True)
class PymooSearch:
    """Runs a pymoo algorithm.

    Args:
        make: Makes a new algorithm for a problem. For runs in other processes it must be picklable: a function at the
            top level of a module, or a `functools.partial` of one.
        uses_sensitivity: Whether it reads `problem.sensitivity`.
    """

    make: Callable[[Problem], Algorithm]
    uses_sensitivity: bool = False

    def __call__(self, problem: Problem, record: Record, seed: int) -> None:
        """Run the algorithm until the budget is spent or it finds no new offspring.

        Raises:
            ArgumentError: `make` did not return a new pymoo algorithm.
        """
        algorithm = self.make(problem)
        if not isinstance(algorithm, Algorithm) or algorithm.is_initialized:
            raise ArgumentError(
                f"algorithm: {describe(self)} made {type(algorithm).__name__}; allowed: a pymoo algorithm not yet run"
            )
        run_algorithm(algorithm, problem, record, seed)


@dataclass(frozen=True)
class RandomSearch:
    """Random policies.

    Args:
        matched: None draws every gene uniformly; the name of a cost that the problem knows, or ``"auto"``
            (the first that it trades) spreads the policies evenly over it (:func:`evoq_moo.baselines.random_policies`).
    """

    matched: str | None = None
    uses_sensitivity: bool = field(default=False, init=False)

    def __call__(self, problem: Problem, record: Record, seed: int) -> None:
        """Evaluate random policies until the budget is spent."""
        space = problem_space(problem)
        if self.matched is None:
            record.evaluate(space.sample(record.left, np.random.default_rng(seed)))
            return
        cost = traded_costs(problem)[0]
        if self.matched != "auto":
            name = name_of(self.matched, "matched", allowed=[cost.name for cost in problem.costs])
            cost = next(cost for cost in problem.costs if cost.name == name)
        X = random_policies(space, record.left, seed, cost=cost)
        record.evaluate(np.random.default_rng(seed).permutation(X))


@dataclass(frozen=True)
class AdditiveFrontLookup:
    """No search: points of the additive model's front, evenly spread, as many as the budget has after the scan."""

    uses_sensitivity: bool = field(default=True, init=False)

    def __call__(self, problem: Problem, record: Record, seed: int) -> None:
        """Evaluate points of the front; each cost among the objectives gets as many."""
        costs = traded_costs(problem)
        share = -(-record.left // len(costs))
        points = [spread(table_front(problem.sensitivity, cost), share) for cost in costs]
        X = np.concatenate(points)[: record.left]
        record.evaluate(np.random.default_rng(seed).permutation(X))


def _operators(problem: Problem, *, uniform: bool = False) -> dict[str, Any]:
    """Return pymoo's operators made fit for integers, or uniform crossover and reset."""
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    repair = BitWidthRepair() if hasattr(problem, "space") else RoundingRepair()
    if uniform:
        crossover, mutation = UniformBitCrossover(), UniformBitMutation()
    else:
        crossover, mutation = (operator(eta=ETA, vtype=float, repair=repair) for operator in (SBX, PM))
    return {"sampling": IntegerRandomSampling(), "crossover": crossover, "mutation": mutation, "repair": repair}


def _directions(problem: Problem, pop_size: int) -> Any:
    """Return as many reference directions as there are individuals, or the most of Das and Dennis below that."""
    from pymoo.util.ref_dirs import get_reference_directions

    partitions = 1
    while True:
        directions = get_reference_directions("das-dennis", problem.n_obj, n_partitions=partitions)
        more = get_reference_directions("das-dennis", problem.n_obj, n_partitions=partitions + 1)
        if len(more) > pop_size:
            return directions
        partitions += 1


def _nsga2(problem: Problem, *, pop_size: int, uniform: bool = False) -> Algorithm:
    from pymoo.algorithms.moo.nsga2 import NSGA2

    return NSGA2(pop_size=pop_size, **_operators(problem, uniform=uniform))


def _smaller_violation(pop: Any, P: Any, random_state: np.random.Generator, **_kwargs: Any) -> Any:
    """Return the winner of each pair `(n, 2)`: the smaller violation, ties at random. NSGA3's own has no seed."""
    violation = pop.get("CV")[:, 0][P]
    second = violation[:, 1] < violation[:, 0]
    tie = violation[:, 0] == violation[:, 1]
    second = np.where(tie, random_state.random(len(P)) < 0.5, second)
    return np.take_along_axis(P, second[:, None].astype(int), axis=1)


def _nsga3(problem: Problem, *, pop_size: int) -> Algorithm:
    from pymoo.algorithms.moo.nsga3 import NSGA3
    from pymoo.operators.selection.tournament import TournamentSelection

    selection = TournamentSelection(func_comp=_smaller_violation)
    return NSGA3(_directions(problem, pop_size), pop_size=pop_size, selection=selection, **_operators(problem))


def _moead(problem: Problem, *, pop_size: int) -> Algorithm:
    from pymoo.algorithms.moo.moead import ParallelMOEAD

    if problem.has_constraints():
        raise ArgumentError("algorithm: moead takes no constraints; allowed: another one on a problem with budgets")
    return ParallelMOEAD(_directions(problem, pop_size), **_operators(problem))


def _spea2(problem: Problem, *, pop_size: int) -> Algorithm:
    from pymoo.algorithms.moo.spea2 import SPEA2, SPEA2Survival

    # The default survival is one object for all runs, and keeps what it normalized with.
    return SPEA2(pop_size=pop_size, survival=SPEA2Survival(normalize=True), **_operators(problem))


def _sms_emoa(problem: Problem, *, pop_size: int) -> Algorithm:
    from pymoo.algorithms.moo.sms import SMSEMOA

    return SMSEMOA(pop_size=pop_size, **_operators(problem))


def _age_moea(problem: Problem, *, pop_size: int) -> Algorithm:
    try:
        from pymoo.algorithms.moo.age import AGEMOEA
    except Exception as error:  # pymoo raises a plain Exception where numba is missing
        raise MissingPackageError(f"age_moea needs numba: pip install 'evoq-moo[algorithms]' ({error})") from error

    return AGEMOEA(pop_size=pop_size, **_operators(problem))


def _guided(problem: Problem, *, pop_size: int) -> Algorithm:
    if problem.n_obj == 1:
        return EvoQGA(problem.sensitivity, pop_size=pop_size)
    return guided_nsga2(problem.sensitivity, pop_size=pop_size)


_PYMOO: dict[str, Callable[..., Algorithm]] = {
    "nsga2": _nsga2,
    "nsga2_uniform": partial(_nsga2, uniform=True),
    "nsga3": _nsga3,
    "moead": _moead,
    "spea2": _spea2,
    "sms_emoa": _sms_emoa,
    "age_moea": _age_moea,
}
_OURS: dict[str, Callable[[int], Search]] = {
    "surrogate": DefaultSearch,
    "guided": lambda pop_size: PymooSearch(partial(_guided, pop_size=pop_size), uses_sensitivity=True),
}
_SIMPLE: dict[str, Callable[[], Search]] = {
    "random": RandomSearch,
    "random_matched": partial(RandomSearch, matched="auto"),
    "additive_front": AdditiveFrontLookup,
}
ALGORITHMS = (*_OURS, *_PYMOO, *_SIMPLE, "optuna_nsga2", "deap_nsga2")
"""Names that :func:`named_algorithm` knows."""


def named_algorithm(name: str, *, pop_size: int = POP_SIZE) -> Search:
    """Return an algorithm by name.

    Ours are ``surrogate``, the default of :func:`evoq_moo.search` (:class:`SurrogateSearch` after a sparse scan; for
    the difference and one or two costs), and ``guided``: the sensitivity-guided operators in NSGA-II (in
    :class:`EvoQGA` with one objective) after a full scan. pymoo's
    have SBX and PM with `eta=3` and repair to allowed values (our choice; its default of 20 mutates next to nothing on
    a handful of values), ``nsga2_uniform`` uniform crossover and uniform reset instead. ``random`` draws genes
    uniformly, ``random_matched`` spreads policies evenly over the cost, ``additive_front`` looks points of the
    sensitivity table's front up. ``optuna_nsga2`` and ``deap_nsga2`` run those libraries' NSGA-II.

    Args:
        name: One of :data:`ALGORITHMS`.
        pop_size: Population size, where there is one; at least 4 and a multiple of 4 for DEAP's tournament.

    Raises:
        UnknownNameError: Unknown name; the message suggests the nearest.
        ArgumentError: `pop_size` is not an integer from 4.
        MissingPackageError: The library isn't installed; the message says how.
    """
    check_name("algorithm", name, ALGORITHMS)
    check_count("pop_size", pop_size, lowest=4)
    if name in _OURS:
        return _OURS[name](pop_size)
    if name in _PYMOO:
        if name == "age_moea":
            _require("numba", name)
        return PymooSearch(partial(_PYMOO[name], pop_size=pop_size))
    if name in _SIMPLE:
        return _SIMPLE[name]()
    from evoq_moo.study._bridges import DeapNSGA2, OptunaNSGA2

    _require(name.removesuffix("_nsga2"), name)
    return OptunaNSGA2(pop_size=pop_size) if name == "optuna_nsga2" else DeapNSGA2(pop_size=pop_size)


def _require(package: str, name: str) -> None:
    if find_spec(package) is None:
        raise MissingPackageError(f"algorithm {name!r} needs {package}: pip install 'evoq-moo[algorithms]'")


def imported_algorithm(function: str, *, uses_sensitivity: bool = False) -> Search:
    """Return the algorithm that a user's function makes.

    Args:
        function: ``"package.module:function"``; it gets the problem and returns a new pymoo algorithm.
        uses_sensitivity: Whether it reads `problem.sensitivity`.

    Raises:
        ArgumentError: The function can't be imported.
    """
    import_function(function)
    return PymooSearch(partial(_imported, function), uses_sensitivity=uses_sensitivity)


def _imported(function: str, problem: Problem) -> Algorithm:
    made: Algorithm = call_function(function, problem)
    return made


def check_algorithm(name: str, given: Any) -> Search:
    """Return what a study runs for one entry of its `algorithms`.

    Args:
        name: The entry's name, for messages.
        given: A name of ours, a search, or a function that makes a pymoo algorithm for a problem.

    Raises:
        ArgumentError: Neither of these.
        UnknownNameError: Unknown name.
    """
    if isinstance(given, str):
        return named_algorithm(given)
    if isinstance(given, Algorithm):
        raise ArgumentError(
            f"algorithms[{name!r}]: given a {type(given).__name__} object, which one run uses up; allowed: a function "
            "that makes one for a problem"
        )
    if isinstance(given, Search):
        return given
    if callable(given):
        return PymooSearch(given)
    raise ArgumentError(
        f"algorithms[{name!r}]: given {type(given).__name__}; allowed: one of {list(ALGORITHMS)}, or a function that "
        "makes a pymoo algorithm for a problem"
    )


def describe(search: Any) -> str:
    """Return what tells a search from another, the same in every process."""
    if isinstance(search, partial):
        given = [*map(repr, search.args), *(f"{key}={value!r}" for key, value in sorted(search.keywords.items()))]
        options = ", ".join(given)
        return f"{describe(search.func)}({options})"
    if inspect.isroutine(search) or inspect.isclass(search):
        return f"{search.__module__}.{search.__qualname__}"
    if is_dataclass(search):
        parts = [f"{f.name}={describe(getattr(search, f.name))}" for f in fields(search)]
        return f"{describe(type(search))}({', '.join(parts)})"
    if isinstance(search, str | int | float | bool | type(None)):
        return repr(search)
    return describe(type(search))
