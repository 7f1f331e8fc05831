"""`PolicyProblem`: what algorithms, operators and fronts need of a problem whose vectors are bit-widths."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from evoq_moo.costs import Cost
from evoq_moo.errors import ArgumentError
from evoq_moo.space import FloatArray, IntArray, SearchSpace


@runtime_checkable
class PolicyProblem(Protocol):
    """A problem over the vectors of a search space, beside what pymoo needs of it."""

    @property
    def space(self) -> SearchSpace:
        """The search space."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives, in the order of `F`: the difference and costs."""

    @property
    def budgets(self) -> Mapping[str, float]:
        """Limits, by the names of what they limit."""

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The costs it knows."""

    @property
    def n_obj(self) -> int:
        """Number of objectives."""

    def values(self, X: IntArray, *, all_values: bool = ...) -> dict[str, FloatArray]:
        """Return the named values of vectors `(n, n_var)`.

        Args:
            X: The vectors.
            all_values: Give the difference even where neither an objective nor a budget needs it.

        Returns:
            For each known cost, and the difference where it is needed, float64 `(n,)`.
        """


def policy_problem(problem: object) -> PolicyProblem:
    """Return a problem over policies.

    Raises:
        ArgumentError: It is none; the message names what is missing.
    """
    if not isinstance(problem, PolicyProblem):
        needed = ("space", "objectives", "budgets", "costs", "values")
        missing = [name for name in needed if not hasattr(problem, name)]
        raise ArgumentError(
            f"problem: given {type(problem).__name__}, which has no {', '.join(missing)}; allowed: a PolicyProblem "
            "(e.g. MixedPrecisionProblem)"
        )
    return problem


def problem_space(problem: object) -> SearchSpace:
    """Return the search space of a problem.

    Raises:
        ArgumentError: The problem has no search space.
    """
    space = getattr(problem, "space", None)
    if not isinstance(space, SearchSpace):
        raise ArgumentError(
            f"problem: given {type(problem).__name__}, whose `space` is {space!r}; allowed: a problem with a "
            "SearchSpace as its attribute `space`"
        )
    return space


def check_same_genes(problem: object, space: SearchSpace) -> None:
    """Raise unless a problem's genes are those of a sensitivity table's space.

    Args:
        problem: A problem with a search space.
        space: The space of the sensitivity table.

    Raises:
        ArgumentError: The genes differ in number, choices, or in what they set.
    """
    given = problem_space(problem)
    if given is space:
        return
    if given.n_var != space.n_var:
        raise ArgumentError(f"sensitivity: is of {space.n_var} genes; the problem has {given.n_var}")
    for name, gene, other_name, other in zip(given.gene_names, given.genes, space.gene_names, space.genes, strict=True):
        if name != other_name or gene.choices != other.choices:
            raise ArgumentError(
                f"sensitivity: has gene {other_name} with bit-widths {list(other.choices)} where the problem has "
                f"{name} with {list(gene.choices)}; measure the table on the problem's own space"
            )


def traded_costs(problem: object) -> tuple[Cost, ...]:
    """Return the costs that a problem trades against the difference.

    Our choice: the costs among its objectives and budgets; all that it knows where it names none.

    Raises:
        ArgumentError: Not a problem over policies.
    """
    checked = policy_problem(problem)
    wanted = {*checked.objectives, *checked.budgets}
    return tuple(cost for cost in checked.costs if cost.name in wanted) or checked.costs


def cost_limits(problem: object) -> dict[str, float]:
    """Return a problem's limits on costs, by their names.

    Raises:
        ArgumentError: Not a problem over policies.
    """
    return {name: limit for name, limit in policy_problem(problem).budgets.items() if name != "difference"}
