"""The frozen references that `surrogate_fit.py` gives the surrogate problems: no command of its own.

The problem's own best known front, by a Pareto local search on the surrogate from the additive fronts (moves of one or
two genes and exchanges between points, for a number of rounds), thinned evenly along the curve; the additive problems'
are their exact fronts by dynamic programming. Ideal and nadir are those of that set.
"""

from typing import Any

import numpy as np
from surrogate_data import front_of

from evoq_moo.baselines import spread_rows
from evoq_moo.costs import as_cost, known_costs
from evoq_moo.indicators import FrozenReference, log_scale, nondominated
from evoq_moo.problems._suite import VARIANTS, variant_budgets
from evoq_moo.problems.surrogate import Surrogate, SurrogateProblem

REFERENCE_POINTS = 500
Array = np.ndarray[Any, Any]


def pareto_local_search(problem: SurrogateProblem, X: Array, *, points: int, rounds: int, seed: int) -> Array:
    """Return vectors of a front that no neighbour of one gene improves, thinned to so many points in each round."""
    rng = np.random.default_rng(seed)
    space = problem.space
    archive = keep(problem, X, points)
    for _ in range(rounds):
        near = np.repeat(archive, 40, axis=0)
        near[np.arange(len(near)), rng.integers(space.n_var, size=len(near))] += rng.choice([-1, 1], size=len(near))
        mates = archive[rng.integers(len(archive), size=len(archive) * 10)]
        mixed = np.where(
            rng.random(mates.shape) < rng.choice([0.02, 0.1, 0.5], size=(len(mates), 1)),
            mates,
            np.repeat(archive, 10, axis=0),
        )
        swap = near[rng.integers(len(near), size=len(near))].copy()
        swap[np.arange(len(swap)), rng.integers(space.n_var, size=len(swap))] += rng.choice([-1, 1], size=len(swap))
        found = space.snap(np.concatenate([archive, near, mixed, swap]))
        archive = keep(problem, found, points)
    return archive


def keep(problem: SurrogateProblem, X: Array, points: int) -> Array:
    """Return the feasible nondominated vectors, at most so many, evenly along the curve."""
    values = problem.evaluate(X, return_as_dictionary=True)
    feasible = (values["G"] <= 0).all(axis=1) if problem.budgets else np.ones(len(X), dtype=bool)
    X, F = X[feasible], values["F"][feasible]
    rows = np.flatnonzero(nondominated(F))
    return X[rows[thinned(F[rows], problem.objectives, points)]]


def thinned(F: Array, objectives: tuple[str, ...], points: int) -> Array:
    """Return rows of at most so many points: one of each cell of a grid on the logged, scaled objectives; the ends."""
    if len(F) <= points:
        return np.arange(len(F))
    values = np.where(log_scale(objectives), np.log(np.maximum(F, 1e-12)), F)
    scaled = (values - values.min(axis=0)) / np.ptp(values, axis=0)
    ends = np.concatenate([scaled.argmin(axis=0), scaled.argmax(axis=0)])
    cells = 2 * points
    while True:
        grid = np.floor(scaled[:, 1:] * cells ** (1 / (F.shape[1] - 1)))
        order = np.lexsort((scaled[:, 0], *grid.T))
        _, first = np.unique(grid[order], axis=0, return_index=True)
        rows = np.union1d(order[first], ends)
        if len(rows) <= points:
            return rows
        cells *= 0.9


def reference_of(surrogate: Surrogate, variant: str, *, rounds: int, points: int) -> FrozenReference:
    """Return the frozen reference of a variant, by so many rounds of search (twice the points in three objectives)."""
    objectives = VARIANTS[variant]
    table = surrogate.sensitivity
    if variant.startswith("additive"):
        cost = as_cost("size" if "size" in objectives else "bops")
        front = front_of(table, cost)
        rows = spread_rows(front, REFERENCE_POINTS)
        F = np.column_stack([front.differences[rows], front.costs[rows]])
        exact = "the exact front" if front.exact else f"the front within {front.error_bound:.3g} of the cost"
        provenance = f"{REFERENCE_POINTS} points of {exact}, by dynamic programming (evoq_moo.baselines)"
    else:
        problem = SurrogateProblem(surrogate, objectives=objectives, budgets=variant_budgets(surrogate, variant))
        points *= len(objectives) - 1
        starts = [front_of(table, cost) for cost in known_costs()]
        X = np.concatenate([front.vectors(spread_rows(front, 1000)) for front in starts])
        X = np.concatenate([X, table.space.lower[None], table.space.upper[None]])
        X = pareto_local_search(problem, X, points=points, rounds=rounds, seed=0)
        F = problem.evaluate(X, return_values_of=["F"])
        F = F[thinned(F, objectives, REFERENCE_POINTS)]
        provenance = (
            f"best known front of the surrogate: {rounds} rounds of Pareto local search from {points} points "
            "(benchmarks/surrogate_fit.py)"
        )
    F = F[np.lexsort(F.T)]
    return FrozenReference(
        objectives=objectives,
        log=log_scale(objectives),
        ideal=F.min(axis=0),
        nadir=F.max(axis=0),
        points=F,
        provenance=provenance,
    )
