"""Initial population from the sensitivity table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pymoo.core.sampling import Sampling

from evoq_moo.baselines import AdditiveFront, additive_front, additive_optimum, greedy_path, spread
from evoq_moo.costs import Cost, as_cost, gene_tables
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, check_name, check_number
from evoq_moo.problems import PolicyProblem, check_same_genes, cost_limits, traded_costs
from evoq_moo.sensitivity import SensitivityTable, check_sensitivity
from evoq_moo.space import IntArray, SearchSpace

DEFAULT_MIX = {"additive": 0.8, "diagonal": 0.1, "random": 0.1}
"""Our choice: shares of the initial population; see :class:`SensitivitySampling`."""

KINDS = ("additive", "greedy", "diagonal", "random")

STEPS = 20_000
"""Our choice: costs count in steps of this share of the space's range, which keeps the additive front below a second
for a hundred genes (measured: MobileNetV2 0.25 s) and at most `layers / STEPS` of the range from the exact one."""

OPTIMA = 16
"""Our choice: at most so many integer programs are solved for a start within two budgets, and ..."""
TIGHTER = 0.005
"""... each one's budgets are smaller than the last one's by this share."""

JITTER = 0.1
"""Our choice: probability that a gene of a jittered diagonal point is one choice narrower or wider."""


class SensitivitySampling(Sampling):  # type: ignore[misc]
    """Start the search from what the sensitivity table alone can tell.

    Four kinds of points, by the shares in `mix`, and always the widest and the narrowest policy:

    - ``"additive"``: points of the additive model's front (:func:`evoq_moo.baselines.additive_front`), evenly spread;
      for a problem of one objective whose budget limits the cost, those nearest within the budget instead, and where
      budgets limit several costs, first the additive model's optima within all of them
      (:func:`evoq_moo.baselines.additive_optimum`) and within slightly smaller ones;
    - ``"greedy"``: points of :func:`greedy_path`, evenly spread over its steps;
    - ``"diagonal"``: one bit-width for all genes, first exactly, then with every gene moved to a neighbouring choice
      with probability `JITTER`;
    - ``"random"``: every gene drawn uniformly from its choices.

    Our choice; a table lookup alone ties a naive search (normalized hypervolume 0.670 for the greedy path
    without search, 0.666 for NSGA-II with guided mutation from a diagonal start, 0.687 from points of the path), so
    most points are of the additive front. The others keep the table's errors from deciding everything.

    Where the space is large enough no vector occurs twice, random ones filling up; else all vectors occur.

    Args:
        sensitivity: The sensitivity table, measured on the problem's own space.
        mix: Shares of ``"additive"``, ``"greedy"``, ``"diagonal"`` and ``"random"``, each 0 or more, scaled to sum to
            1; a missing one is 0. None: `DEFAULT_MIX`.
        cost: A cost, or the name of one that needs no table. None: the additive and the greedy points are split
            between the costs among the problem's objectives and budgets, or all that it knows where it names none.

    Raises:
        ArgumentError: An argument is not of its allowed values.
    """

    def __init__(
        self, sensitivity: SensitivityTable, *, mix: Mapping[str, float] | None = None, cost: str | Cost | None = None
    ) -> None:
        super().__init__()
        self.sensitivity = check_sensitivity(sensitivity)
        given = dict(DEFAULT_MIX if mix is None else mix)
        for kind, share in given.items():
            check_name("mix", kind, KINDS)
            check_number(f"mix[{kind!r}]", share, 0, np.inf)
        total = sum(given.values())
        if total <= 0:
            raise ArgumentError(f"mix: given {given}; allowed: at least one share above 0")
        self.mix = {kind: given.get(kind, 0.0) / total for kind in KINDS}
        self.cost = None if cost is None else as_cost(cost)

    def _do(
        self, problem: PolicyProblem, n_samples: int, *_args: Any, random_state: np.random.Generator, **_kwargs: Any
    ) -> IntArray:
        """Return the initial vectors.

        Args:
            problem: A problem with a search space of the table's genes.
            n_samples: Number of vectors; with 1 the widest policy alone.
            random_state: Source of all randomness.

        Returns:
            Int64 `(n_samples, n_var)`.

        Raises:
            ArgumentError: The problem has no search space or other genes than the table.
        """
        space = self.sensitivity.space
        check_same_genes(problem, space)
        costs = (self.cost,) if self.cost is not None else traded_costs(problem)
        n_additive = round(self.mix["additive"] * n_samples)
        n_greedy = min(round(self.mix["greedy"] * n_samples), n_samples - n_additive)
        n_diagonal = min(round(self.mix["diagonal"] * n_samples), n_samples - n_additive - n_greedy)
        points = [space.upper, space.lower]
        # The front is what several objectives ask for, whatever the budgets.
        limits = cost_limits(problem) if problem.n_obj == 1 else {}
        if len(costs) > 1 and all(cost.name in limits for cost in costs):
            optima = _within_all(self.sensitivity, limits, costs, min(n_additive, OPTIMA))
            points += optima
            n_additive -= len(optima)
        for k, cost in enumerate(costs):
            n = _part(n_additive, k, len(costs))
            points += _along_front(self.sensitivity, cost, n, limits.get(cost.name))
            points += _along_path(self.sensitivity, cost, _part(n_greedy, k, len(costs)))
        points += _diagonal(space, n_diagonal, random_state)
        return _distinct(space, points, n_samples, random_state)


def _part(n: int, k: int, parts: int) -> int:
    """Return the size of the `k`-th of some parts of `n`, as equal as can be."""
    return n * (k + 1) // parts - n * k // parts


def table_front(sensitivity: SensitivityTable, cost: Cost) -> AdditiveFront:
    """Return the additive front, in steps of a cost (`STEPS` of its range) that keep it fast."""
    low, high = cost.bounds(sensitivity.space)
    resolution = (high - low) / STEPS if high > low else None
    return additive_front(sensitivity, cost=cost, resolution=resolution, progress=False)


def _along_front(sensitivity: SensitivityTable, cost: Cost, n: int, limit: float | None) -> list[IntArray]:
    """Return `n` points of the additive front, or all where there are fewer.

    Args:
        sensitivity: The sensitivity table.
        cost: The cost.
        n: Number of points.
        limit: None for points evenly spread over the front; else those nearest within this cost, in its unit.
    """
    if n == 0:
        return []
    front = table_front(sensitivity, cost)
    if limit is None:
        return list(spread(front, n))
    within = int(np.searchsorted(front.costs, limit, side="right"))
    return list(front.vectors(np.arange(max(0, within - n), within)))


def _within_all(
    sensitivity: SensitivityTable, limits: Mapping[str, float], costs: Sequence[Cost], n: int
) -> list[IntArray]:
    """Return up to `n` different optima of the additive model within all limits, and within smaller and smaller ones.

    Args:
        sensitivity: The sensitivity table.
        limits: Limits of the costs.
        costs: The costs.
        n: Number of programs to solve.
    """
    found: dict[bytes, IntArray] = {}
    for k in range(n):
        budgets = {cost.name: (1 - TIGHTER * k) * limits[cost.name] for cost in costs}
        try:
            x = additive_optimum(sensitivity, budgets=budgets, costs=costs)
        except InfeasibleBudgetError:
            break
        found.setdefault(x.tobytes(), x)
    return list(found.values())


def _along_path(sensitivity: SensitivityTable, cost: Cost, n: int) -> list[IntArray]:
    """Return `n` points of the greedy path, or all where there are fewer, evenly spread over its steps.

    Args:
        sensitivity: The sensitivity table.
        cost: The cost.
        n: Number of points.
    """
    path = greedy_path(sensitivity, cost)
    return list(path[np.unique(np.linspace(0, len(path) - 1, n).round().astype(int))])


def _diagonal(space: SearchSpace, n: int, random_state: np.random.Generator) -> list[IntArray]:
    """Return `n` vectors of one bit-width for all genes, evenly spread; after all bit-widths again, with jitter.

    Args:
        space: The search space.
        n: Number of vectors.
        random_state: Source of all randomness.
    """
    tables = gene_tables(space)
    genes = np.arange(space.n_var)
    exact = min(n, len(tables.bits))
    columns = np.linspace(0, len(tables.bits) - 1, exact).round().astype(int)
    points = []
    for i in range(n):
        x = space.uniform(int(tables.bits[columns[i % exact]]))
        if i >= exact:
            rank = tables.rank[genes, tables.columns(x[None])[0]]
            step = np.where(random_state.random(space.n_var) < JITTER, random_state.choice([-1, 1], space.n_var), 0)
            x = tables.choices[genes, np.clip(rank + step, 0, tables.counts - 1)]
        points.append(x)
    return points


def _distinct(space: SearchSpace, points: list[IntArray], n: int, random_state: np.random.Generator) -> IntArray:
    """Return the first `n` distinct points, filled up with random ones.

    Args:
        space: The search space.
        points: Vectors to begin with; may hold one twice.
        n: Number of vectors.
        random_state: Source of all randomness.

    Returns:
        Int64 `(n, n_var)` without duplicates, or with all vectors of the space where it has fewer than `n`.
    """
    chosen = list({x.tobytes(): x for x in points}.values())[:n]
    seen = {x.tobytes() for x in chosen}
    if space.cardinality <= 4 * n:  # too small for drawing until enough are distinct
        rest = [x for x in space.enumerate() if x.tobytes() not in seen]
        chosen += [rest[i] for i in random_state.permutation(len(rest))[: n - len(chosen)]]
        chosen += list(space.sample(n - len(chosen), random_state))
    while len(chosen) < n:
        for x in space.sample(n - len(chosen), random_state):
            if x.tobytes() not in seen:
                seen.add(x.tobytes())
                chosen.append(x)
    return np.array(chosen, dtype=np.int64)
