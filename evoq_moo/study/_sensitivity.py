"""The sensitivity table that a run's algorithm reads from its problem, and what its scan costs."""

from typing import Any

from pymoo.core.problem import Problem

from evoq_moo.errors import ArgumentError
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.sensitivity import Method, SensitivityTable, measure_sensitivity, scan_policies, sparse_table


def sensitivity_for(problem: Problem, search: Any) -> tuple[SensitivityTable | None, int]:
    """Return the table that a search reads, and how many evaluations its scan takes.

    Args:
        problem: The problem.
        search: The search; its attribute `scan`, if it has one, says how the network is scanned for it.

    Returns:
        None and 0 for a search that reads no table.

    Raises:
        ArgumentError: The search needs a table, and the problem has none.
    """
    if not search.uses_sensitivity:
        return None, 0
    method: Method = getattr(search, "scan", "full")
    table = _table(problem, method)
    return table, len(scan_policies(table.space, method)[0])


def _table(problem: Problem, method: Method) -> SensitivityTable:
    """Return a problem's table, measured where it is a real network's (from the store if known)."""
    if isinstance(problem, MixedPrecisionProblem):
        return measure_sensitivity(problem.network, evaluator=problem.evaluator, method=method, progress=False)
    check_sensitivity_of(problem)
    table: SensitivityTable = problem.sensitivity
    return sparse_table(table) if method == "sparse" else table


def check_sensitivity_of(problem: Problem) -> None:
    """Raise unless a problem has a sensitivity table, or one can be measured.

    Raises:
        ArgumentError: It has none.
    """
    if isinstance(problem, MixedPrecisionProblem) or isinstance(
        getattr(problem, "sensitivity", None), SensitivityTable
    ):
        return
    raise ArgumentError(
        f"problem: {type(problem).__name__} has no SensitivityTable as its `sensitivity`; allowed with an algorithm "
        "that uses it: a problem of the suite, a NetworkProblem, or one with that attribute"
    )
