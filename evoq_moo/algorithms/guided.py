"""Our algorithms: pymoo's own with the sensitivity-guided operators, ready to run."""

from typing import Any

from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.algorithm import Algorithm

from evoq_moo.algorithms.surrogate import SurrogateSearch, supports
from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.network import QuantizedNetwork
from evoq_moo.operators import SensitivityGuidedMutation, SensitivitySampling, UniformBitCrossover
from evoq_moo.problems import PolicyProblem
from evoq_moo.sensitivity import SensitivityTable


def guided_nsga2(sensitivity: SensitivityTable, *, pop_size: int = 40) -> NSGA2:
    """Return NSGA-II with the sensitivity-guided operators.

    Args:
        sensitivity: Table of the problem's space.
        pop_size: Population size.

    Raises:
        ArgumentError: An argument is not of its allowed values.
    """
    return NSGA2(pop_size=check_count("pop_size", pop_size, lowest=2), **_operators(sensitivity))


class EvoQGA(GA):  # type: ignore[misc]
    """EvoQ's search in its single-objective form: the smallest difference within a budget.

    The abstract names an evolutionary search whose mutation is shaped by sensitivity. Our choice of the rest: binary
    tournaments, elitist survival of parents and offspring together, a crossover of whole layers, and a start from the
    additive model's policies just within the budget. Run it on a problem of one objective with one or more budgets,
    such as :func:`uniform_budget`'s.

    Args:
        sensitivity: Table of the problem's space.
        pop_size: Population size.

    Raises:
        ArgumentError: An argument is not of its allowed values.
    """

    def __init__(self, sensitivity: SensitivityTable, *, pop_size: int = 40) -> None:
        super().__init__(pop_size=check_count("pop_size", pop_size, lowest=2), **_operators(sensitivity))

    def _setup(self, problem: PolicyProblem, **kwargs: Any) -> None:
        if problem.n_obj != 1:
            raise ArgumentError(f"problem: given {problem.n_obj} objectives; EvoQGA takes one, with budgets")
        super()._setup(problem, **kwargs)


def default_algorithm(problem: PolicyProblem, sensitivity: SensitivityTable, *, pop_size: int = 40) -> Algorithm:
    """Return our algorithm for a problem.

    :class:`SurrogateSearch` for the difference and one or two costs, :class:`EvoQGA` for one objective, and guided
    NSGA-II for anything else.

    Args:
        problem: The problem.
        sensitivity: Table of its space.
        pop_size: Population size.

    Raises:
        ArgumentError: `pop_size` is not an integer from 2.
    """
    if problem.n_obj == 1:
        return EvoQGA(sensitivity, pop_size=pop_size)
    if supports(problem.objectives):
        return SurrogateSearch(sensitivity, pop_size=pop_size)
    return guided_nsga2(sensitivity, pop_size=pop_size)


def _operators(sensitivity: SensitivityTable) -> dict[str, Any]:
    return {
        "sampling": SensitivitySampling(sensitivity),
        "crossover": UniformBitCrossover(),
        "mutation": SensitivityGuidedMutation(sensitivity),
    }


def uniform_budget(network: QuantizedNetwork, bits: int) -> dict[str, float]:
    """Return the costs of a uniform network that need no table (MiB, 10^9 BOPs), as a problem's budgets.

    Args:
        network: The network.
        bits: Every gene's bit-width, or the nearest it allows; pinned layers stay pinned.
    """
    return dict(network.cost(network.uniform(bits)).costs)
