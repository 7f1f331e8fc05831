"""Our default search in a study."""

from dataclasses import dataclass, field

from pymoo.core.problem import Problem

from evoq_moo.algorithms import SurrogateSearch, supports
from evoq_moo.errors import ArgumentError
from evoq_moo.runs import Record, run_algorithm
from evoq_moo.sensitivity import Method
from evoq_moo.study._problems import NetworkProblem


@dataclass(frozen=True)
class DefaultSearch:
    """What :func:`evoq_moo.search` runs: :class:`SurrogateSearch` after a sparse sensitivity scan.

    Args:
        pop_size: Policies to start with from each lookup.
    """

    pop_size: int
    uses_sensitivity: bool = field(default=True, init=False)
    scan: Method = field(default="sparse", init=False)

    def check(self, name: str, problem: Problem | NetworkProblem) -> None:
        """Raise where the problem is none for this search, from its objectives alone.

        Args:
            name: The problem's name, for the message.
            problem: The problem, or what it will be made from, with `objectives`.

        Raises:
            ArgumentError: The objectives are not the difference and one or two costs.
        """
        objectives = tuple(getattr(problem, "objectives", ()))
        if not supports(objectives):
            raise ArgumentError(
                f"algorithms: surrogate can't run on {name}, whose objectives are {list(objectives)}; allowed: "
                "'difference' with one or two costs (others: guided)"
            )

    def __call__(self, problem: Problem, record: Record, seed: int) -> None:
        """Search until the budget is spent.

        Raises:
            ArgumentError: The problem is none for this search.
        """
        self.check(str(getattr(problem, "name", None) or type(problem).__name__), problem)
        run_algorithm(SurrogateSearch(problem.sensitivity, pop_size=self.pop_size), problem, record, seed)
