"""Mixed-precision quantization of one network as a pymoo Problem."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from evoq_moo.calibration import CalibratingNetwork, CalibratingRecipe
from evoq_moo.costs import BoolArray, Cost
from evoq_moo.errors import ArgumentError
from evoq_moo.evaluation import EvaluationStore, Evaluator, NetworkFactory
from evoq_moo.network import EvaluatedNetwork, QuantizedNetwork
from evoq_moo.space import FloatArray, IntArray

from ._base import BitWidthProblem


class MixedPrecisionProblem(BitWidthProblem):
    """Find bit-widths with little output difference and little cost.

    A vector holds one int64 bit-width for each gene of `network.space`. Vectors with other values are an error, never
    rounded silently: pymoo's real-valued operators need `repair=BitWidthRepair()`.

    Args:
        network: The network to quantize.
        objectives: ``"difference"`` and names of costs (``"size"``, ``"bops"``, ...), all minimized, in this order in
            `F`.
        budgets: Limits by the same names, each in its unit (MiB, 10^9 BOPs, ...). Each gives one inequality
            `value / limit - 1 <= 0` in `G`. With one objective this is the paper's search under the budget of a
            uniform k-bit network.
        costs: Costs beside size and bit operations: a :class:`LatencyTable` where ``"latency"`` is an objective or
            has a budget, or any :class:`~evoq_moo.costs.Cost`.
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
        costs: All costs that it knows.
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
        costs: Sequence[Cost] = (),
        store: EvaluationStore | str | Path | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        recipe: NetworkFactory | None = None,
        calibrate: str | None = None,
    ) -> None:
        if not isinstance(network, QuantizedNetwork):
            raise ArgumentError(f"network: given {type(network).__name__}; allowed: a QuantizedNetwork")
        super().__init__(network.space, objectives=objectives, budgets=budgets, costs=costs)
        self.network = network
        evaluated: EvaluatedNetwork = network
        if calibrate is not None:
            evaluated = CalibratingNetwork(network, calibrate)
            recipe = None if recipe is None else CalibratingRecipe(recipe, calibrate)
        self.evaluator = Evaluator(evaluated, store=store, workers=workers, executor=executor, recipe=recipe)
        self._check_difference_budget()

    def _values(self, X: IntArray, *, difference: bool) -> dict[str, FloatArray]:
        values = self._costs(X)
        if difference:
            values["difference"] = self.evaluator.differences(self.space.decode(X), on_result=self.on_result)
        return values

    def known(self, X: IntArray) -> BoolArray:
        """Return for which vectors `(n, n_var)` the difference is in the store, bool `(n,)`."""
        return self.evaluator.known(self.space.decode(X))

    @property
    def provenance(self) -> dict[str, Any]:
        """The metric, and the fingerprint of what was evaluated."""
        evaluated = self.evaluator.network
        return {"metric": evaluated.metric, "fingerprint": evaluated.fingerprint}

    def close(self) -> None:
        """End worker processes and close the store, unless it was given open."""
        self.evaluator.close()
