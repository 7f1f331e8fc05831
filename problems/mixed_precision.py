"""Mixed-precision quantization of one network as a pymoo Problem."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from pymoo.core.problem import Problem

from evoq_moo.calibration import CalibratingNetwork, CalibratingRecipe
from evoq_moo.cost import COSTS, cost_matrix
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, check_name
from evoq_moo.evaluation import Evaluator
from evoq_moo.network import QuantizedNetwork
from evoq_moo.space import FloatArray, IntArray
from evoq_moo.store import EvaluationStore
from evoq_moo.workers import NetworkFactory

OBJECTIVES = ("difference", "size", "bops")
"""Names of the objectives: output difference, weight size (MiB), bit operations (10^9 BOPs)."""
BUDGETS = {"difference": "difference", "size_mib": "size", "bops": "bops"}
"""For each budget, the objective it limits."""
_UNITS = {"difference": "", "size_mib": " MiB", "bops": " GBOPs"}


class MixedPrecisionProblem(Problem):  # type: ignore[misc]
    """Find bit-widths with little output difference and little cost.

    A vector holds one int64 bit-width for each gene of `network.space`. Vectors with other values are an error, never
    rounded silently: pymoo's real-valued operators need `repair=BitWidthRepair()`.

    Args:
        network: The network to quantize.
        objectives: Any of ``"difference"``, ``"size"`` and ``"bops"``, all minimized, in this order in `F`.
        budgets: Limits as constraints: ``"difference"``, ``"size_mib"`` (MiB), ``"bops"`` (10^9 BOPs). Each gives
            one inequality `value / limit - 1 <= 0` in `G`. With one objective this is the paper's search under the
            budget of a uniform k-bit network.
        store: Where evaluations are kept: a path, an :class:`EvaluationStore`, or None for memory.
        workers: Evaluate on this many processes of our own.
        executor: Or on this `concurrent.futures.Executor` (Dask: `client.get_executor()`).
        recipe: With `executor`: a picklable function of no arguments that makes the same network in a worker.
        calibrate: ``"light"`` calibrates features inside each evaluation, so that the search ranks what will be
            shipped (a :class:`~evoq_moo.calibration.CalibratingNetwork` evaluates, under its own fingerprint, by
            float32 fake quantization: slower than the integer engine). None evaluates the plain quantized network.

    Attributes:
        network: The network.
        space: Its search space.
        objectives: Names of the objectives.
        budgets: The limits.
        evaluator: Gives differences, from the store where they are known.
        on_result: Called after every policy that had to be computed; for progress displays.

    Raises:
        ArgumentError: An argument is not allowed, or the space has no gene.
        UnknownNameError: An objective or budget is unknown.
        InfeasibleBudgetError: No policy meets a budget; the message states the smallest reachable value.
        StoreError: The store can't be used or belongs to another network.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        *,
        objectives: Sequence[str] = ("difference", "bops"),
        budgets: Mapping[str, float] | None = None,
        store: EvaluationStore | str | Path | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        recipe: NetworkFactory | None = None,
        calibrate: str | None = None,
    ) -> None:
        if not isinstance(network, QuantizedNetwork):
            raise ArgumentError(f"network: given {type(network).__name__}; allowed: a QuantizedNetwork")
        if isinstance(objectives, str) or not objectives or len(set(objectives)) != len(objectives):
            raise ArgumentError(f"objectives: given {objectives!r}; allowed: different names among {OBJECTIVES}")
        for objective in objectives:
            check_name("objectives", objective, OBJECTIVES)
        self.network = network
        self.space = network.space
        if self.space.n_var == 0:
            raise ArgumentError("network: its search space has no gene; allow more than one bit-width somewhere")
        self.objectives = tuple(objectives)
        self.budgets = self._checked_budgets(budgets or {})
        self.on_result: Callable[[], None] | None = None
        evaluated = network
        if calibrate is not None:
            evaluated = CalibratingNetwork(network, calibrate)
            recipe = None if recipe is None else CalibratingRecipe(recipe, calibrate)
        self.evaluator = Evaluator(evaluated, store=store, workers=workers, executor=executor, recipe=recipe)
        super().__init__(
            n_var=self.space.n_var,
            n_obj=len(self.objectives),
            n_ieq_constr=len(self.budgets),
            xl=self.space.lower,
            xu=self.space.upper,
            vtype=int,
        )
        if "difference" in self.budgets:
            self._check_difference_budget()

    def _checked_budgets(self, budgets: Mapping[str, float]) -> dict[str, float]:
        smallest = dict(zip(COSTS, cost_matrix(self.space.layers, self.space.decode(self.space.lower))[0], strict=True))
        reachable = {"size_mib": float(smallest["size_mib"]), "bops": float(smallest["gbops"])}
        for name, limit in budgets.items():
            check_name("budgets", name, BUDGETS)
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < float("inf"):
                raise ArgumentError(f"budgets[{name!r}]: given {limit!r}; allowed: a positive number")
            if name in reachable and limit < reachable[name]:
                raise InfeasibleBudgetError(
                    f"budgets[{name!r}]: given {limit:g}; the smallest reachable is {reachable[name]:.6g}{_UNITS[name]}"
                )
        return {name: float(limit) for name, limit in budgets.items()}

    def _check_difference_budget(self) -> None:
        widest = float(self.evaluator.differences(self.space.decode(self.space.upper))[0])
        if self.budgets["difference"] < widest:
            raise InfeasibleBudgetError(
                f"budgets['difference']: given {self.budgets['difference']:g}; the smallest known to be reachable, "
                f"with every gene at its widest, is {widest:.6g}"
            )

    def values(self, X: IntArray, *, all_values: bool = False) -> dict[str, FloatArray]:
        """Return the named values of vectors, evaluating what is not in the store.

        Args:
            X: Vectors `(n, n_var)`.
            all_values: Give the difference even where neither an objective nor a budget needs it.

        Returns:
            For each of ``"difference"``, ``"size"`` and ``"bops"``, float64 `(n,)`.

        Raises:
            BitWidthError: A value is not an allowed bit-width of its gene.
        """
        bits = self.space.decode(X)
        costs = cost_matrix(self.space.layers, bits)
        values = {"size": costs[:, 0], "bops": costs[:, 1]}
        if all_values or "difference" in self.objectives or "difference" in self.budgets:
            values["difference"] = self.evaluator.differences(bits, on_result=self.on_result)
        return values

    def _evaluate(self, X: IntArray, out: dict[str, Any], *_args: Any, **_kwargs: Any) -> None:
        values = self.values(X)
        out["F"] = np.stack([values[name] for name in self.objectives], axis=1)
        if self.budgets:
            limits = [values[BUDGETS[name]] / limit - 1 for name, limit in self.budgets.items()]
            out["G"] = np.stack(limits, axis=1)

    def close(self) -> None:
        """End worker processes and close the store, unless it was given open."""
        self.evaluator.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "on_result": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "MixedPrecisionProblem":
        # pymoo copies the problem once a generation with save_history=True; this one holds a network and does not
        # change as it is used.
        return self
