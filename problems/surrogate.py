"""Surrogate problems: the difference from a fitted model, the costs exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evoq_moo.costs import Cost
from evoq_moo.errors import ArgumentError
from evoq_moo.evaluation import EvaluationStore, Evaluator
from evoq_moo.indicators import FrozenReference
from evoq_moo.network import QuantizedNetwork
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FloatArray, IntArray

from ._base import BitWidthProblem
from ._gather import LayerSums
from ._surrogate_model import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class Surrogate:
    """A network's fitted model and what it was fitted on.

    Attributes:
        network: Name of the network.
        sensitivity: Its measured sensitivity table; its space is the problem's.
        model: The model of the difference.
        provenance: How it was made: identity of the network, samples, number of evaluations, script.
        fidelity: What was measured on real evaluations that no fit has seen.
    """

    network: str
    sensitivity: SensitivityTable = field(repr=False)
    model: Model = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)
    fidelity: Mapping[str, Any] = field(repr=False)


TRAINED_HERE = ("digits",)
"""Networks that are trained where they are used: on another processor the weights come out slightly different."""


class SurrogateProblem(BitWidthProblem):
    """A problem like :class:`MixedPrecisionProblem` that evaluates a fitted model instead of a network.

    Args:
        surrogate: The model.
        objectives: As :class:`MixedPrecisionProblem` takes them.
        budgets: The same.
        costs: The same.
        name: Name of the problem.
        reference: Its frozen reference, if it has one.

    Attributes:
        surrogate: The model.
        space: Its search space.
        objectives: Names of the objectives.
        budgets: The limits.
        name: Name of the problem.
        reference: Its frozen reference: ideal, nadir and reference set.
        sensitivity: The real network's sensitivity table, for the operators that take one.

    Raises:
        ArgumentError: An argument is not allowed.
        UnknownNameError: An objective or budget is unknown.
        InfeasibleBudgetError: No policy meets a budget.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        *,
        objectives: Sequence[str] = ("difference", "bops"),
        budgets: Mapping[str, float] | None = None,
        costs: Sequence[Cost] = (),
        name: str = "",
        reference: FrozenReference | None = None,
    ) -> None:
        if not isinstance(surrogate, Surrogate):
            raise ArgumentError(f"surrogate: given {type(surrogate).__name__}; allowed: a Surrogate")
        super().__init__(surrogate.sensitivity.space, objectives=objectives, budgets=budgets, costs=costs)
        self.surrogate = surrogate
        self._model = surrogate.model
        self.name = name
        self.reference = reference
        self.sensitivity = surrogate.sensitivity
        self._sums = LayerSums(self.space, self.costs, self._model.terms, surrogate.sensitivity.bits)
        self._check_difference_budget()

    def _values(self, X: IntArray, *, difference: bool) -> dict[str, FloatArray]:
        sums = self._sums(X)
        values = {cost.name: sums[:, k] / cost.scale for k, cost in enumerate(self.costs)}
        if difference:
            values["difference"] = self._model.differences(sums[:, len(self.costs) :])
        return values

    def true_evaluate(
        self, X: IntArray, network: QuantizedNetwork, *, store: EvaluationStore | str | None = None
    ) -> FloatArray:
        """Return the objectives as the real network gives them.

        Args:
            X: Vectors `(n, n_var)`.
            network: The network, e.g. made by :class:`evoq_moo.Recipe` from the weights and samples that
                `surrogate.provenance` names. Other samples give another, equally real difference.
            store: Where its evaluations are kept: a path, an open store, or None for memory.

        Returns:
            Float64 `(n, objectives)`.

        Raises:
            ArgumentError: The network is another one, by its search space or its weights (those of ``"digits"`` are
                not compared, see `TRAINED_HERE`), or has another difference than the surrogate's.
            BitWidthError: A value is not an allowed bit-width of its gene.
        """
        if not isinstance(network, QuantizedNetwork):
            raise ArgumentError(f"network: given {type(network).__name__}; allowed: a QuantizedNetwork")
        expected = self.surrogate.provenance.get("identity")
        same = network.identity == expected or self.surrogate.network in TRAINED_HERE
        if not same or network.space.to_json() != self.space.to_json():
            raise ArgumentError(
                f"network: given one of identity {network.identity[:12]}... and {network.space.n_var} genes; allowed: "
                f"{self.surrogate.network}, identity {str(expected)[:12]}..., {self.space.n_var} genes"
            )
        fitted = self.sensitivity.metric
        if network.metric != fitted:
            raise ArgumentError(
                f"network: its difference is {network.metric!r}; allowed: {fitted!r}, which the surrogate was fitted on"
            )
        values = self.values(X)
        evaluator = Evaluator(network, store=store)
        try:
            values["difference"] = evaluator.differences(self.space.decode(X))
        finally:
            evaluator.close()
        return np.stack([values[name] for name in self.objectives], axis=1)
