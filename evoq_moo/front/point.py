"""One policy of a front with its values, and what the rules and tables of a front know of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from evoq_moo.accuracy import AccuracyCurve
from evoq_moo.costs import CostValues, cost_names, name_of
from evoq_moo.evaluation import Measured
from evoq_moo.space import FloatArray, Policy


@dataclass(frozen=True, kw_only=True)
class FrontPoint(CostValues):
    """One policy of a front with its values.

    Attributes:
        policy: The bit-widths.
        difference: Output difference to the pre-trained network, in the metric's unit.
        costs: For each known cost its value in its unit.
        expected: What it changes on the mirror images of the samples: what to expect of new ones. None where that was
            not measured.
    """

    policy: Policy
    difference: float
    expected: Measured | None = None

    @classmethod
    def of(cls, policy: Policy, values: Mapping[str, FloatArray], row: int) -> "FrontPoint":
        """Return a policy with one row of what :meth:`PolicyProblem.values` gives."""
        costs = {name: float(values[name][row]) for name in cost_names() if name in values}
        return cls(policy=policy, difference=float(values["difference"][row]), costs=costs)

    def value(self, name: str) -> float:
        """Return the difference or a cost by its name, in its unit.

        Raises:
            UnknownNameError: Neither.
            ArgumentError: It is not known of this policy.
        """
        return self.difference if name == "difference" else super().value(name_of(name, "objective"))


class Front(Protocol):
    """What choosing and showing a point needs of a :class:`ParetoFront`."""

    @property
    def points(self) -> tuple[FrontPoint, ...]:
        """The policies with their values."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """What they are nondominated in."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the front comes from."""

    @property
    def curve(self) -> AccuracyCurve | None:
        """Measured accuracies."""

    def __len__(self) -> int: ...

    def best(self, objective: str) -> Policy:
        """Return the policy with the smallest value of an objective."""

    def knee(self) -> Policy:
        """Return the policy farthest below the hyperplane through the front's extremes."""

    def under(self, **limits: float | None) -> "Front":
        """Return the part of the front within limits."""

    def scaled(self) -> FloatArray:
        """Return the objectives scaled to 0..1 over the front."""

    def scale(self, values: FloatArray) -> FloatArray:
        """Return objective values on the scale where the front spans 0..1."""
