"""One call from a network to its front."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from evoq_moo.algorithms import default_algorithm
from evoq_moo.costs import Cost
from evoq_moo.errors import check_count
from evoq_moo.evaluation import EvaluationStore, NetworkFactory
from evoq_moo.network import QuantizedNetwork
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.runs._run_search import SearchRun, run_search, with_expectations
from evoq_moo.sensitivity import measure_sensitivity


def search(
    network: QuantizedNetwork,
    *,
    objectives: Sequence[str] = ("difference", "bops"),
    budgets: Mapping[str, float] | None = None,
    costs: Sequence[Cost] = (),
    evaluations: int = 1000,
    pop_size: int = 40,
    seed: int = 0,
    store: EvaluationStore | str | Path | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    recipe: NetworkFactory | None = None,
    calibrate: str | None = None,
    progress: bool = True,
) -> SearchRun:
    """Search for the front of a network by our best method: a sparse sensitivity scan, then our default algorithm.

    With two or three objectives that is :class:`SurrogateSearch`, with one :class:`EvoQGA`.

    With a store, calling it again with the same arguments after a kill or Ctrl-C goes on where it was.

    Args:
        network: The network.
        objectives: As :class:`MixedPrecisionProblem` takes them.
        budgets: The same.
        costs: The same.
        evaluations: Evaluations of the search; the scan's, two for each gene, come on top, and one for each
            point of the front on the samples' mirror images.
        pop_size: Policies to start with from each lookup; with one objective, the population size.
        seed: Seed of the search.
        store: Where evaluations are kept: a path, an open store, or None for memory.
        workers: Evaluate on this many processes of our own.
        executor: Or on this `concurrent.futures.Executor`.
        recipe: With `executor`: makes the network in a worker.
        calibrate: ``"light"``: scan and search networks after light calibration, for a policy that will be calibrated;
            see :class:`MixedPrecisionProblem`.
        progress: Show progress on a terminal.

    Returns:
        What the search found.

    Raises:
        ArgumentError: An argument is not of its allowed values.
        InfeasibleBudgetError: No policy meets the budgets.
        StoreError: The store can't be used or belongs to another network.
    """
    check_count("evaluations", evaluations)
    check_count("pop_size", pop_size, lowest=2)
    check_count("seed", seed, lowest=0)
    problem = MixedPrecisionProblem(
        network,
        objectives=objectives,
        budgets=budgets,
        costs=costs,
        store=store,
        workers=workers,
        executor=executor,
        recipe=recipe,
        calibrate=calibrate,
    )
    try:
        sensitivity = measure_sensitivity(network, evaluator=problem.evaluator, method="sparse", progress=progress)
        algorithm = default_algorithm(problem, sensitivity, pop_size=pop_size)
        run = run_search(problem, algorithm, evaluations=evaluations, seed=seed, progress=progress)
        return with_expectations(run, problem, progress=progress)
    finally:
        problem.close()
