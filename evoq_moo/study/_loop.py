"""Running a pymoo algorithm within a record's budget."""

from typing import Any

from pymoo.core.algorithm import Algorithm
from pymoo.core.population import Population

from evoq_moo.study._record import Record


def run_algorithm(algorithm: Algorithm, problem: Any, record: Record, seed: int) -> None:
    """Run a pymoo algorithm until the budget is spent or it finds no new offspring.

    What it counts in its `n_eval` beside the policies it asks for (our default search: screenings on some of the
    samples) is spent as well.

    Args:
        algorithm: One that was not run yet; it is used up.
        problem: The problem.
        record: Keeps every evaluation.
        seed: Seed of the algorithm.
    """
    algorithm.setup(problem, termination=("n_eval", record.left), seed=seed)
    counted = 0
    while algorithm.has_next():
        generation = algorithm.ask()
        record.spend(algorithm.evaluator.n_eval - counted)
        if generation is None or record.left == 0:  # no new offspring: it knows every policy it can reach
            return
        asked = generation if isinstance(generation, Population) else Population.create(generation)
        within = asked[: record.left]
        algorithm.evaluator.eval(problem, within, algorithm=algorithm)
        counted = algorithm.evaluator.n_eval
        record.add(*within.get("X", "F", "G"))
        if len(within) < len(asked):
            return
        algorithm.tell(infills=generation)
