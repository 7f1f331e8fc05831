"""Counting what a search evaluates, and keeping it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from evoq_moo.space import FloatArray, IntArray


class BudgetSpentError(Exception):
    """Ends a search that asks for more than its budget; never seen outside of a run."""


class Record:
    """Every evaluation of one run, in order, up to its budget.

    Args:
        problem: The problem.
        budget: Number of evaluations.
        paid: How many of them are spent before the search begins (a sensitivity scan).
    """

    def __init__(self, problem: Any, budget: int, *, paid: int = 0) -> None:
        self.problem = problem
        self.budget = budget
        self.paid = paid
        self._X: list[IntArray] = []
        self._F: list[FloatArray] = []
        self._G: list[FloatArray] = []
        self._counts: list[IntArray] = []
        self.evaluations = paid

    @property
    def left(self) -> int:
        """Evaluations that are left."""
        return self.budget - self.evaluations

    def spend(self, evaluations: int) -> None:
        """Count evaluations that are of no policy of the space, as many as the budget has left."""
        self.evaluations += min(evaluations, self.left)

    def add(self, X: npt.ArrayLike, F: npt.ArrayLike, G: npt.ArrayLike | None) -> None:
        """Keep evaluated vectors, objectives and constraints, as many as the budget has left."""
        n = min(len(np.asarray(X)), self.left)
        self._X.append(np.asarray(X, dtype=np.int64)[:n])
        self._F.append(np.asarray(F, dtype=np.float64)[:n])
        if self.problem.n_ieq_constr:
            self._G.append(np.asarray(G, dtype=np.float64)[:n])
        self._counts.append(self.evaluations + 1 + np.arange(n))
        self.evaluations += n

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
