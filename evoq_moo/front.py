"""Pareto fronts of policies: a table, a knee, budgets, a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import moocore
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from rich.table import Table

from evoq_moo._files import write_atomically
from evoq_moo._front_table import front_table
from evoq_moo._pick import row_by_text
from evoq_moo._schema import Amount, BitWidth, Number, Text, convert, read_json, reading
from evoq_moo.choosing import Choice
from evoq_moo.cost import cost_matrix
from evoq_moo.errors import ArgumentError, FormatError, InfeasibleBudgetError, check_name
from evoq_moo.space import FloatArray, IntArray, Policy, SearchSpace

FORMAT = "evoq-moo/front"
OBJECTIVES = ("difference", "size", "bops", "latency")
_ATTRIBUTES = {"difference": "difference", "size": "size_mib", "bops": "gbops", "latency": "latency_ms"}
_SMALLEST_DIFFERENCE = 1e-12


class PolicyProblem(Protocol):
    """What a front needs to know of a problem."""

    @property
    def space(self) -> SearchSpace:
        """Its search space."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of its objectives."""

    def values(self, X: IntArray, *, all_values: bool = ...) -> dict[str, FloatArray]:
        """Return ``"difference"``, ``"size"``, ``"bops"`` and, where it is known, ``"latency"`` of vectors."""


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One policy of a front with its values.

    Attributes:
        policy: The bit-widths.
        difference: Output difference to the pre-trained network, in the metric's unit.
        size_mib: Size of the quantized weights (MiB).
        gbops: Bit operations (10^9 BOPs).
        latency_ms: Sum of the layers' times (ms); None where no table of times was given.
    """

    policy: Policy
    difference: float
    size_mib: float
    gbops: float
    latency_ms: float | None = None

    def value(self, objective: str) -> float:
        """Return ``"difference"``, ``"size"`` (MiB), ``"bops"`` (10^9 BOPs) or ``"latency"`` (ms).

        Raises:
            ArgumentError: The latency is not known.
        """
        check_name("objective", objective, OBJECTIVES)
        found = getattr(self, _ATTRIBUTES[objective])
        if found is None:
            raise ArgumentError("objective: given 'latency', which this front has no table of times for")
        return float(found)


class _PointData(Struct):
    difference: Number
    size_mib: Amount
    gbops: Amount
    weight_bits: tuple[BitWidth, ...]
    activation_bits: tuple[BitWidth, ...]
    latency_ms: Amount | None = None


class _FrontData(Struct):
    objectives: tuple[str, ...]
    layers: tuple[Text, ...]
    points: tuple[_PointData, ...]
    provenance: dict[str, Any]


class _Provenance(Struct):
    """What is read of a front's provenance, where it is there."""

    fingerprint: Text | None = None
    metric: str | None = None
    settings: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ParetoFront:
    """Nondominated policies, ordered by the first cost objective from small to large.

    Attributes:
        points: The policies with their values.
        objectives: What they are nondominated in.
        provenance: Where the front comes from: plain JSON data.
    """

    points: tuple[FrontPoint, ...]
    objectives: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ArgumentError(f"objectives: given none; allowed: one or more of {OBJECTIVES}")
        for objective in self.objectives:
            check_name("objectives", objective, OBJECTIVES)

    @classmethod
    def from_result(cls, result: Any) -> "ParetoFront":
        """Build the front of a pymoo result on a :class:`MixedPrecisionProblem`.

        It holds what the algorithm ended with; with `archive=` in the algorithm, all that it found.

        Args:
            result: What `pymoo.optimize.minimize` returns.

        Raises:
            ArgumentError: The result is of another kind of problem.
            InfeasibleBudgetError: The search found no policy that meets the budgets.
        """
        problem: Any = getattr(result, "problem", None)
        if not hasattr(problem, "space") or not hasattr(problem, "values"):
            raise ArgumentError(
                f"result: is of problem {type(problem).__name__}; allowed: a pymoo result on a MixedPrecisionProblem"
            )
        if result.X is None:
            raise InfeasibleBudgetError(f"result: no policy within the budgets {dict(problem.budgets)} was found")
        X = np.atleast_2d(result.X)
        if result.archive is not None and len(result.archive):
            members = result.archive[result.archive.get("FEAS").flatten()]
            X = np.concatenate([X, members.get("X")])
        return cls.from_vectors(problem, X)

    @classmethod
    def from_vectors(
        cls, problem: PolicyProblem, X: npt.ArrayLike, *, provenance: Mapping[str, Any] | None = None
    ) -> "ParetoFront":
        """Build the front of some vectors of a problem; equal values are kept once, dominated vectors dropped.

        Args:
            problem: The problem; values that it does not know yet are evaluated.
            X: Vectors `(n, n_var)`, all feasible.
            provenance: Where they come from: plain JSON data.
        """
        vectors = np.unique(problem.space.check(X), axis=0)
        values = problem.values(vectors, all_values=True)
        F = np.stack([values[name] for name in problem.objectives], axis=1)
        kept = np.flatnonzero(moocore.is_nondominated(F, keep_weakly=False))
        policies = [problem.space.policy(vectors[i]) for i in kept]
        points = [
            FrontPoint(
                policy=policy,
                difference=float(values["difference"][i]),
                size_mib=float(values["size"][i]),
                gbops=float(values["bops"][i]),
                latency_ms=float(values["latency"][i]) if "latency" in values else None,
            )
            for policy, i in zip(policies, kept, strict=True)
        ]
        return cls(
            points=_ordered(points, problem.objectives), objectives=problem.objectives, provenance=provenance or {}
        )

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[FrontPoint]:
        return iter(self.points)

    def __getitem__(self, index: int) -> FrontPoint:
        return self.points[index]

    def values(self, objective: str) -> FloatArray:
        """Return one objective of every point, float64 `(points,)`; see :meth:`FrontPoint.value`."""
        return np.array([point.value(objective) for point in self.points], dtype=np.float64)

    def point_of(self, policy: Policy) -> FrontPoint:
        """Return the point of a policy.

        Raises:
            ArgumentError: The policy is not on the front.
        """
        for point in self.points:
            if point.policy == policy:
                return point
        raise ArgumentError("policy: is not on this front")

    def best(self, objective: str) -> Policy:
        """Return the policy with the smallest value of an objective.

        Args:
            objective: ``"difference"``, ``"size"``, ``"bops"`` or ``"latency"``.

        Raises:
            UnknownNameError: No such objective.
            ArgumentError: The front is empty.
        """
        check_name("objective", objective, OBJECTIVES)
        return min(self._some_points(), key=lambda point: point.value(objective)).policy

    def under(
        self,
        *,
        bops: float | None = None,
        size_mib: float | None = None,
        difference: float | None = None,
        latency_ms: float | None = None,
    ) -> "ParetoFront":
        """Return the part of the front within limits.

        Args:
            bops: At most so many bit operations (10^9 BOPs).
            size_mib: At most this weight size (MiB).
            difference: At most this difference.
            latency_ms: At most this latency (ms).

        Raises:
            InfeasibleBudgetError: No point is within the limits; states the smallest on the front.
        """
        limits = {"bops": bops, "size": size_mib, "difference": difference, "latency": latency_ms}
        points: Sequence[FrontPoint] = self._some_points()
        for objective, limit in limits.items():
            if limit is None:
                continue
            within = [point for point in points if point.value(objective) <= limit]
            if not within:
                smallest = min(point.value(objective) for point in points)
                raise InfeasibleBudgetError(
                    f"{objective}: given at most {limit:g}; the smallest on this front"
                    f"{' within the other limits' if len(points) < len(self) else ''} is {smallest:.6g}"
                )
            points = within
        return ParetoFront(points=tuple(points), objectives=self.objectives, provenance=self.provenance)

    def knee(self) -> Policy:
        """Return the policy farthest below the hyperplane through the front's extremes.

        Objectives are scaled to 0..1 over the front, the difference on a log10 scale where it is positive
        (differences span decades). The distance to the hyperplane sum(f) = 1 is that of Das (1999); a tie goes to the
        smaller difference.

        Raises:
            ArgumentError: The front is empty.
        """
        points = self._some_points()
        F = self.scaled()
        return min(zip(F.sum(axis=1), points, strict=True), key=lambda pair: (pair[0], pair[1].difference))[1].policy

    def scaled(self) -> FloatArray:
        """Return the objectives scaled to 0..1 over the front, float64 `(points, objectives)`.

        The difference is on a log10 scale where it is a non-negative one.
        """
        values = np.stack([self.values(objective) for objective in self.objectives], axis=1)
        return self.scale(values)

    def scale(self, values: FloatArray) -> FloatArray:
        """Return objective values `(n, objectives)` on the scale where the front spans 0..1."""
        columns = []
        for objective, given in zip(self.objectives, values.T, strict=True):
            own, column = self.values(objective), given
            if objective == "difference" and (own >= 0).all():
                own, column = (
                    np.log10(np.maximum(own, _SMALLEST_DIFFERENCE)),
                    np.log10(np.maximum(given, _SMALLEST_DIFFERENCE)),
                )
            low, spread = own.min(), own.max() - own.min()
            columns.append((column - low) / spread if spread > 0 else np.zeros_like(column))
        return np.stack(columns, axis=1)

    def pick(self, how: str) -> Policy:
        """Return a policy by a short text, as the command line takes it: :meth:`choose` without the reason."""
        return self.choose(how).policy

    def choose(self, how: str) -> Choice:
        """Return a policy by a short text, with a sentence that says what was chosen and why.

        Args:
            how: One of

                - ``"knee"``: farthest below the hyperplane through the front's extremes (:meth:`knee`);
                - ``"knee-angle"``: where a front of two objectives bends most; the knee where it does not bend;
                - ``"hypervolume"``: the point that adds most hypervolume;
                - ``"difference"``, ``"size"``, ``"bops"`` or ``"latency"``: the smallest of it;
                - budgets like ``"bops<=5"`` or ``"bops<=5,size_mib<=2"``: the smallest difference within them (where
                  the difference itself is limited, the smallest of the first cost);
                - ``"weights=0.7,0.3"``: pseudo-weights, one for each objective in their order;
                - ``"aspiration=0.05,4.0"``: achievement scalarization against wished-for objective values;
                - a row number of :meth:`table`, from 0.

        Raises:
            ArgumentError: None of these, or the front is empty.
            InfeasibleBudgetError: No point is within the budgets.
        """
        self._some_points()
        row, reason = row_by_text(self, how)
        return Choice(policy=self.points[row].policy, rule=how, reason=reason)

    def table(self, *, title: str | None = None, max_rows: int | None = None) -> Table:
        """Return the front as a rich table; notebooks and terminals show it.

        Args:
            title: Above the table.
            max_rows: Show at most so many points, spread evenly, the ends and the knee among them; None for all.
        """
        return front_table(self, title=title, max_rows=max_rows)

    def save(self, path: str | Path) -> None:
        """Write the front as JSON, whole or not at all."""
        layers = list(self.points[0].policy.layers) if self.points else []
        data = {
            "format": FORMAT,
            "version": 1,
            "objectives": list(self.objectives),
            "layers": layers,
            "points": [
                {
                    "difference": point.difference,
                    "size_mib": point.size_mib,
                    "gbops": point.gbops,
                    **({} if point.latency_ms is None else {"latency_ms": point.latency_ms}),
                    "weight_bits": list(point.policy.weight_bits),
                    "activation_bits": list(point.policy.activation_bits),
                }
                for point in self.points
            ],
            "provenance": dict(self.provenance),
        }
        write_atomically(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> "ParetoFront":
        """Read a front that :meth:`save` wrote.

        Raises:
            MissingFileError: No such file.
            FormatError: Not a front, damaged, or of an unknown version.
        """
        data = read_json(path, _FrontData, format_name=FORMAT, version=1)
        with reading(f"{path}: not a front"):
            points = tuple(
                FrontPoint(
                    policy=Policy(data.layers, point.weight_bits, point.activation_bits),
                    difference=point.difference,
                    size_mib=point.size_mib,
                    gbops=point.gbops,
                    latency_ms=point.latency_ms,
                )
                for point in data.points
            )
            if "latency" in data.objectives and any(point.latency_ms is None for point in points):
                raise FormatError(f"{path}: not a front: latency is an objective, and a point has none")
            convert(data.provenance, _Provenance)
            return cls(points=points, objectives=data.objectives, provenance=data.provenance)

    def _some_points(self) -> tuple[FrontPoint, ...]:
        if not self.points:
            raise ArgumentError("front: is empty; allowed: at least one point")
        return self.points


def _ordered(points: Sequence[FrontPoint], objectives: Sequence[str]) -> tuple[FrontPoint, ...]:
    costs = [name for name in objectives if name != "difference"]
    known = [name for name in OBJECTIVES if all(getattr(point, _ATTRIBUTES[name]) is not None for point in points)]
    return tuple(sorted(points, key=lambda point: [point.value(name) for name in (*costs, *known)]))


def check_costs(points: Sequence[FrontPoint], space: SearchSpace) -> None:
    """Raise unless the points' costs are those of a network's layers.

    Raises:
        FormatError: The front is of another network.
    """
    for point in points:
        if point.policy.layers != space.layer_names:
            raise FormatError("front: is of another network's layers")
        size, gbops = cost_matrix(space.layers, point.policy.to_array()[None])[0]
        if not np.allclose([size, gbops], [point.size_mib, point.gbops]):
            raise FormatError(
                f"front: a point has {point.size_mib:g} MiB and {point.gbops:g} GBOPs, "
                f"this network {size:g} and {gbops:g}; the front is of another network or input size"
            )
