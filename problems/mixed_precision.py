"""Mixed-precision quantization of one network as a pymoo Problem."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from evoq_moo.calibration import CalibratingNetwork, CalibratingRecipe
from evoq_moo.cost import cost_matrix
from evoq_moo.errors import ArgumentError
from evoq_moo.evaluation import Evaluator
from evoq_moo.latency import LatencyTable
from evoq_moo.network import QuantizedNetwork
from evoq_moo.space import FloatArray, IntArray
from evoq_moo.store import EvaluationStore
from evoq_moo.workers import NetworkFactory

from ._base import BitWidthProblem


class MixedPrecisionProblem(BitWidthProblem):
    """Find bit-widths with little output difference and little cost.

    A vector holds one int64 bit-width for each gene of `network.space`. Vectors with other values are an error, never
    rounded silently: pymoo's real-valued operators need `repair=BitWidthRepair()`.

    Args:
        network: The network to quantize.
        objectives: Any of ``"difference"``, ``"size"``, ``"bops"`` and ``"latency"``, all minimized, in this order in
            `F`.
        budgets: Limits as constraints: ``"difference"``, ``"size_mib"`` (MiB), ``"bops"`` (10^9 BOPs),
            ``"latency_ms"`` (ms). Each gives one inequality `value / limit - 1 <= 0` in `G`. With one objective this
            is the paper's search under the budget of a uniform k-bit network.
        latency: Times of the layers; needed where latency is an objective or has a budget.
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
        latency: LatencyTable | None = None,
        store: EvaluationStore | str | Path | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        recipe: NetworkFactory | None = None,
        calibrate: str | None = None,
    ) -> None:
        if not isinstance(network, QuantizedNetwork):
            raise ArgumentError(f"network: given {type(network).__name__}; allowed: a QuantizedNetwork")
        super().__init__(network.space, objectives=objectives, budgets=budgets, latency=latency)
        self.network = network
        self.on_result: Callable[[], None] | None = None
        evaluated = network
        if calibrate is not None:
            evaluated = CalibratingNetwork(network, calibrate)
            recipe = None if recipe is None else CalibratingRecipe(recipe, calibrate)
        self.evaluator = Evaluator(evaluated, store=store, workers=workers, executor=executor, recipe=recipe)
        self._check_difference_budget()

    def _values(self, X: IntArray, *, difference: bool) -> dict[str, FloatArray]:
        bits = self.space.decode(X)
        costs = cost_matrix(self.space.layers, bits)
        values = {"size": costs[:, 0], "bops": costs[:, 1]}
        if difference:
            values["difference"] = self.evaluator.differences(bits, on_result=self.on_result)
        return values

    def close(self) -> None:
        """End worker processes and close the store, unless it was given open."""
        self.evaluator.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "on_result": None}
