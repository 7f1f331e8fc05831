"""The one loop that runs algorithms, for searches, run folders and studies: it counts and keeps what they evaluate."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pymoo.core.algorithm import Algorithm
from pymoo.core.population import Population
from pymoo.core.problem import Problem

from evoq_moo.costs import BoolArray
from evoq_moo.problems import UNDEFINED
from evoq_moo.space import FloatArray, IntArray


class BudgetSpentError(Exception):
    """Ends a search that asks for more than its budget; never seen outside of a run."""


class Record:
    """Every evaluation of one run, in order, up to its budget.

    Args:
        problem: The problem.
        budget: Number of evaluations.
        paid: How many of them are spent before the search begins (a sensitivity scan).

    Attributes:
        evaluations: How many are spent.
        asked: The vectors that a pymoo algorithm asked for last, int64 `(n, n_var)`.
    """

    def __init__(self, problem: Problem, budget: int, *, paid: int = 0) -> None:
        self.problem = problem
        self.budget = budget
        self.paid = paid
        self.evaluations = paid
        self.asked: IntArray = np.empty((0, problem.n_var), dtype=np.int64)
        self._X: list[IntArray] = []
        self._F: list[FloatArray] = []
        self._G: list[FloatArray] = []
        self._counts: list[IntArray] = []

    @property
    def left(self) -> int:
        """Evaluations that are left."""
        return self.budget - self.evaluations

    def spend(self, evaluations: int) -> None:
        """Count evaluations that are of no policy of the space, as many as the budget has left."""
        self.evaluations += min(evaluations, self.left)

    def add(self, X: npt.ArrayLike, F: npt.ArrayLike, G: npt.ArrayLike | None) -> None:
        """Keep evaluated vectors, objectives and constraints, as many as the budget has left.

        All objectives of a policy without a difference become infinite.
        """
        n = min(len(np.asarray(X)), self.left)
        values = np.array(F, dtype=np.float64)[:n]
        values[(values >= UNDEFINED).any(axis=1)] = np.inf
        self._X.append(np.asarray(X, dtype=np.int64)[:n])
        self._F.append(values)
        if self.problem.n_ieq_constr:
            self._G.append(np.asarray(G, dtype=np.float64)[:n])
        self._counts.append(self.evaluations + 1 + np.arange(n))
        self.evaluations += n
        self.asked = self.asked[:0]

    def evaluate(self, X: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Evaluate vectors, for searches that are not pymoo's.

        Args:
            X: Vectors `(n, n_var)`.

        Returns:
            Objectives `(n, objectives)` and constraints `(n, constraints)`; 0 and less is feasible.

        Raises:
            BudgetSpentError: The budget has less than `n` evaluations left; those it has are made and kept.
        """
        vectors = np.atleast_2d(np.asarray(X, dtype=np.int64))
        left = self.left
        if left > 0:
            found = self.problem.evaluate(vectors[:left], return_as_dictionary=True)
            self.add(vectors[:left], found["F"], found.get("G"))
        if left < len(vectors):
            raise BudgetSpentError
        return found["F"], found.get("G", np.empty((len(vectors), 0)))

    @property
    def counts(self) -> IntArray:
        """Evaluations spent when each vector was known, its own and those before the search included, int64 `(n,)`."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self._counts])

    def arrays(self) -> tuple[IntArray, FloatArray, FloatArray]:
        """Return all vectors, objectives and constraints, without what was paid before the search."""
        X = np.concatenate([np.empty((0, self.problem.n_var), dtype=np.int64), *self._X])
        F = np.concatenate([np.empty((0, self.problem.n_obj)), *self._F])
        G = np.concatenate([np.empty((0, self.problem.n_ieq_constr)), *self._G])
        return X, F, G.reshape(len(X), -1)

    def feasible(self) -> BoolArray:
        """Return which of the vectors meet all constraints and have finite objectives, bool `(n,)`."""
        _, F, G = self.arrays()
        return np.asarray((G <= 0).all(axis=1) & np.isfinite(F).all(axis=1))


def run_algorithm(
    algorithm: Algorithm,
    problem: Problem,
    record: Record,
    seed: int,
    *,
    on_generation: Callable[[], None] | None = None,
) -> None:
    """Run a pymoo algorithm until the budget is spent or it finds no new offspring.

    What it counts in its `n_eval` beside the policies it asks for is spent as well.

    Args:
        algorithm: One that was not run yet; it is used up.
        problem: The problem.
        record: Keeps every evaluation.
        seed: Seed of the algorithm.
        on_generation: Called after every generation.
    """
    algorithm.setup(problem, termination=("n_eval", record.left), seed=seed)
    counted = 0

    def spend() -> None:
        nonlocal counted
        record.spend(algorithm.evaluator.n_eval - counted)
        counted = algorithm.evaluator.n_eval

    while algorithm.has_next():
        generation = algorithm.ask()
        spend()
        if generation is None or record.left == 0:  # no new offspring: it knows every policy it can reach
            return
        asked = generation if isinstance(generation, Population) else Population.create(generation)
        within = asked[: record.left]
        record.asked = within.get("X").astype(np.int64)
        algorithm.evaluator.eval(problem, within, algorithm=algorithm)
        counted = algorithm.evaluator.n_eval
        record.add(*within.get("X", "F", "G"))
        whole = len(within) == len(asked)
        if whole:
            algorithm.tell(infills=generation)
            spend()
        if on_generation is not None:
            on_generation()
        if not whole:
            return
