"""Sensitivities re-estimated from what a search has evaluated around its front.

EvoQ's abstract does not say whether sensitivities change during the search; all of this is our choice.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.core.population import Population
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from evoq_moo.errors import ArgumentError, check_number
from evoq_moo.problems import PolicyProblem, policy_problem
from evoq_moo.sensitivity import SensitivityTable, check_sensitivity
from evoq_moo.space import FloatArray, IntArray

RIDGE = 0.5
"""Our choice: the weight that holds a gene's factor (natural logarithm) at the table's; about the variance of a log
difference around the prediction, over the variance expected of the factors."""

LARGEST = 10.0
"""Our choice: a gene's differences change by at most this factor, up or down."""

WINDOW = 3
"""Our choice: the regression uses this many policies for each gene, those of the best nondominated ranks."""

_KEY = "evoq_moo.network.evaluated"


def adapted_sensitivity(
    sensitivity: SensitivityTable, X: npt.ArrayLike, differences: npt.ArrayLike, *, ridge: float = RIDGE
) -> SensitivityTable:
    """Return a table whose genes are scaled so that it predicts some policies' differences better.

    One step of Gauss and Newton on the logarithm of the additive prediction: a gene's factor changes it by the gene's
    share in the sum, so the logarithm of difference over prediction is regressed on the shares, with an intercept, and
    with a ridge that holds the factors at 1. Genes that matter in none of the policies stay as they are.

    Args:
        sensitivity: The table.
        X: Vectors of allowed bit-widths `(n, n_var)`.
        differences: Their real differences `(n,)`; those of 0 are left out.
        ridge: Weight of the ridge, above 0.

    Returns:
        The table with row `j` scaled by a factor from 0.1 to 10; the same one where nothing can be learned.

    Raises:
        ArgumentError: An argument is not of its allowed values, or the table has negative entries.
        BitWidthError: A value of `X` is not an allowed bit-width.
    """
    check_number("ridge", ridge, 0, np.inf, open_low=True)
    values = check_sensitivity(sensitivity).values
    if (values[sensitivity.allowed] < 0).any():
        raise ArgumentError(f"sensitivity: {sensitivity.metric!r} has negative entries; allowed: 0 or more")
    parts = values[np.arange(sensitivity.space.n_var), sensitivity.columns(X)]
    total = parts.sum(axis=1)
    real = np.asarray(differences, dtype=np.float64)
    if real.shape != total.shape:
        raise ArgumentError(f"differences: given shape {real.shape}; allowed: one for each of {len(total)} vectors")
    usable = (total > 0) & (real > 0)
    if usable.sum() < 2:
        return sensitivity
    shares = parts[usable] / total[usable, None]
    missing = np.log(real[usable] / total[usable])
    shares = shares - shares.mean(axis=0)
    normal = shares.T @ shares + ridge * np.eye(shares.shape[1])
    factors = np.linalg.solve(normal, shares.T @ (missing - missing.mean()))
    limit = np.log(LARGEST)
    scaled = values * np.exp(np.clip(factors, -limit, limit))[:, None]
    return SensitivityTable(space=sensitivity.space, bits=sensitivity.bits, values=scaled, metric=sensitivity.metric)


def follow(algorithm: Any) -> None:
    """Keep what an algorithm has evaluated since the last time, in its `data`.

    Args:
        algorithm: A pymoo algorithm after its first generation.
    """
    known: dict[bytes, tuple[IntArray, FloatArray]] = algorithm.data.setdefault(_KEY, {})
    for population in (algorithm.pop, algorithm.off):
        if population is None or not len(population):
            continue
        evaluated = Population.create(*(ind for ind in population if "F" in ind.evaluated))
        for x, f in zip(evaluated.get("X"), evaluated.get("F"), strict=True):
            vector = np.asarray(x, dtype=np.int64)
            known.setdefault(vector.tobytes(), (vector, np.asarray(f, dtype=np.float64)))


def adapted_to_front(sensitivity: SensitivityTable, problem: PolicyProblem, data: dict[str, Any]) -> SensitivityTable:
    """Return the table adapted to the evaluated policies around an algorithm's front.

    Args:
        sensitivity: The table.
        problem: The problem, with ``"difference"`` among its objectives.
        data: The `data` of an algorithm that was followed.

    Raises:
        ArgumentError: The difference is not an objective.
    """
    objectives = policy_problem(problem).objectives
    if "difference" not in objectives:
        raise ArgumentError(f"adaptive: the problem has the objectives {objectives}; allowed: with 'difference'")
    known = list(data.get(_KEY, {}).values())
    if len(known) < 2:
        return sensitivity
    F = np.array([f for _, f in known])
    wanted = WINDOW * sensitivity.space.n_var
    ranks = NonDominatedSorting().do(F, n_stop_if_ranked=min(wanted, len(F)))
    rows = np.concatenate(ranks)[:wanted]
    X = np.array([known[i][0] for i in rows])
    return adapted_sensitivity(sensitivity, X, F[rows, objectives.index("difference")])
