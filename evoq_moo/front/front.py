"""Pareto fronts of policies: a table, a knee, budgets, a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import GenericAlias
from typing import Any, cast

import moocore
import numpy as np
import numpy.typing as npt
from msgspec import Struct, defstruct
from rich.table import Table

from evoq_moo._text import html_table
from evoq_moo.accuracy import AccuracyCurve
from evoq_moo.calibration import CalibratingNetwork
from evoq_moo.costs import (
    checked_budgets,
    cost_class,
    cost_matrix,
    cost_names,
    known_costs,
    name_of,
    objective_names,
)
from evoq_moo.errors import ArgumentError, FormatError, InfeasibleBudgetError, NonFiniteError
from evoq_moo.evaluation import Measured, mirror_images
from evoq_moo.files import Amount, BitWidth, Number, Text, convert, read_json, reading, write_atomically
from evoq_moo.front._pick import row_by_text
from evoq_moo.front._table import front_table, rows_of
from evoq_moo.front.choosing import Choice
from evoq_moo.front.point import FrontPoint
from evoq_moo.indicators import logarithm
from evoq_moo.network import QuantizedNetwork
from evoq_moo.problems import PolicyProblem, policy_problem
from evoq_moo.progress import track
from evoq_moo.space import FloatArray, Policy, SearchSpace

FORMAT = "evoq-moo/front"


class _PointData(Struct):
    difference: Number
    weight_bits: tuple[BitWidth, ...]
    activation_bits: tuple[BitWidth, ...]
    size_mib: Amount
    gbops: Amount
    expected: Measured | None = None


class _FrontData(Struct):
    objectives: tuple[str, ...]
    layers: tuple[Text, ...]
    points: tuple[_PointData, ...]
    provenance: dict[str, Any]


def _data_type() -> type[_FrontData]:
    """Return what a file of a front may hold: columns of all costs of today, those that every front has among them."""
    columns = [cost_class(name).column for name in cost_names()]
    others = [(name, Amount | None, None) for name in columns if name not in _PointData.__struct_fields__]
    point = defstruct("_Point", others, bases=(_PointData,), kw_only=True)
    front = defstruct("_Front", [("points", GenericAlias(tuple, (point, ...)))], bases=(_FrontData,))
    return cast("type[_FrontData]", front)


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
        curve: Measured accuracies of some of its points, which `choose` and `table` use; None where there are none. It
            has a file of its own, beside the front's in the folder of a run.
    """

    points: tuple[FrontPoint, ...]
    objectives: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    curve: AccuracyCurve | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ArgumentError(f"objectives: given none; allowed: one or more of {objective_names()}")
        object.__setattr__(self, "objectives", tuple(name_of(name, "objectives") for name in self.objectives))

    @classmethod
    def from_result(cls, result: Any) -> "ParetoFront":
        """Build the front of a pymoo result on a :class:`PolicyProblem`, such as :class:`MixedPrecisionProblem`.

        It holds what the algorithm ended with; with `archive=` in the algorithm, all that it found.

        Args:
            result: What `pymoo.optimize.minimize` returns.

        Raises:
            ArgumentError: The result is of another kind of problem.
            InfeasibleBudgetError: The search found no policy that meets the budgets.
        """
        problem = policy_problem(getattr(result, "problem", None))
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

        Policies without a difference (NaN or infinite) are dropped too.

        Args:
            problem: The problem; values that it does not know yet are evaluated.
            X: Vectors `(n, n_var)`, all feasible.
            provenance: Where they come from: plain JSON data.
        """
        vectors = np.unique(problem.space.check(X), axis=0)
        values = problem.values(vectors, all_values=True)
        F = np.stack([values[name] for name in problem.objectives], axis=1)
        rows = np.flatnonzero(np.isfinite(values["difference"]))
        kept = rows[moocore.is_nondominated(F[rows], keep_weakly=False)] if len(rows) else rows
        points = [FrontPoint.of(problem.space.policy(vectors[i]), values, int(i)) for i in kept]
        return cls(
            points=_ordered(points, problem.objectives), objectives=problem.objectives, provenance=provenance or {}
        )

    def __repr__(self) -> str:
        ranges = [f"{name} {values.min():.3g}..{values.max():.3g}" for name, values in self._columns()]
        return f"ParetoFront({', '.join([f'{len(self)} points', *ranges])})"

    def _repr_html_(self) -> str:
        return html_table(self.table(title=repr(self), max_rows=15))

    def _columns(self) -> list[tuple[str, FloatArray]]:
        return [(name, self.values(name)) for name in self.objectives] if self.points else []

    def expecting(self, network: QuantizedNetwork | CalibratingNetwork, *, progress: bool = True) -> "ParetoFront":
        """Return the front with what to expect of each point on new images, at one evaluation a point.

        Each policy is measured on the mirror images of the samples, which the search did not see, with an interval of
        90 % from leaving out parts of them (our choice; :class:`~evoq_moo.evaluation.Measured`). Samples that are no
        images `(N, channels, height, width)` have none: the front stays as it is.

        Args:
            network: The network that the front's differences are of.
            progress: Show progress on a terminal.

        Raises:
            ArgumentError: The front is of another network's layers.
        """
        mirror = mirror_images(network)
        if mirror is None:
            return self
        points = []
        with track(len(self), "expecting", enabled=progress) as bar:
            for point in self.points:
                try:
                    points.append(replace(point, expected=mirror.measure(point.policy)))
                except NonFiniteError:
                    points.append(point)
                bar.advance()
        return replace(self, points=tuple(points))

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
            objective: ``"difference"`` or the name of a cost.

        Raises:
            UnknownNameError: No such objective.
            ArgumentError: The front is empty, or the cost is not known of its points.
        """
        return min(self._some_points(), key=lambda point: point.value(objective)).policy

    def under(self, **limits: float | None) -> "ParetoFront":
        """Return the part of the front within limits.

        Args:
            **limits: By the name of the difference or of a cost, the largest allowed value in its unit, like
                ``bops=5.0, size=2.0``; None for no limit.

        Raises:
            UnknownNameError: Neither the difference nor a cost.
            ArgumentError: A limit is not a positive number, or the cost is not known of the front's points.
            InfeasibleBudgetError: No point is within the limits; states the smallest on the front.
        """
        given = checked_budgets({name: limit for name, limit in limits.items() if limit is not None})
        points: Sequence[FrontPoint] = self._some_points()
        for objective, limit in given.items():
            within = [point for point in points if point.value(objective) <= limit]
            if not within:
                smallest = min(point.value(objective) for point in points)
                raise InfeasibleBudgetError(
                    f"{objective}: given at most {limit:g}; the smallest on this front"
                    f"{' within the other limits' if len(points) < len(self) else ''} is {smallest:.6g}"
                )
            points = within
        return replace(self, points=tuple(points))

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
                own, column = logarithm(own), logarithm(given)
            low, spread = own.min(), own.max() - own.min()
            columns.append((column - low) / spread if spread > 0 else np.zeros_like(column))
        return np.stack(columns, axis=1)

    def rows(self, count: int | None = None) -> tuple[int, ...]:
        """Return rows of at most so many points, spread evenly, the ends and the knee among them; None for all."""
        return rows_of(self, count)

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
                - ``"difference"`` or the name of a cost: the smallest of it;
                - budgets like ``"bops<=5"`` or ``"bops<=5,size<=2"``: the smallest difference within them (where
                  the difference itself is limited, the smallest of the first cost);
                - ``"weights=0.7,0.3"``: pseudo-weights, one for each objective in their order;
                - ``"aspiration=0.05,4.0"``: achievement scalarization against wished-for objective values;
                - ``"accuracy"``: the most accurate of the points that were measured; ``"accuracy>=75"`` (percent) and
                  ``"drop<=1"`` (points of percent below the float network): the cheapest of them in the first cost;
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
                    **{cost_class(name).column: value for name, value in point.costs.items()},
                    "weight_bits": list(point.policy.weight_bits),
                    "activation_bits": list(point.policy.activation_bits),
                    **({} if point.expected is None else {"expected": asdict(point.expected)}),
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
        data = read_json(path, _data_type(), format_name=FORMAT, version=1)
        columns = {name: cost_class(name).column for name in cost_names()}
        with reading(f"{path}: not a front"):
            points = tuple(
                FrontPoint(
                    policy=Policy(data.layers, point.weight_bits, point.activation_bits),
                    difference=point.difference,
                    expected=point.expected,
                    costs={
                        name: value for name, column in columns.items() if (value := getattr(point, column)) is not None
                    },
                )
                for point in data.points
            )
            front = cls(points=points, objectives=data.objectives, provenance=data.provenance)
            for name in front.objectives:
                if name != "difference" and any(name not in point.costs for point in points):
                    raise ValueError(f"{name} is an objective, and a point has none")
            convert(data.provenance, _Provenance)
            return front

    def _some_points(self) -> tuple[FrontPoint, ...]:
        if not self.points:
            raise ArgumentError("front: is empty; allowed: at least one point")
        return self.points


def _ordered(points: Sequence[FrontPoint], objectives: Sequence[str]) -> tuple[FrontPoint, ...]:
    costs = [name for name in objectives if name != "difference"]
    known = [name for name in cost_names() if all(name in point.costs for point in points)]
    return tuple(sorted(points, key=lambda point: [point.value(name) for name in (*costs, "difference", *known)]))


def check_costs(points: Sequence[FrontPoint], space: SearchSpace) -> None:
    """Raise unless the points' costs that need no table are those of a network's layers.

    Raises:
        FormatError: The front is of another network.
    """
    costs = known_costs()
    for point in points:
        if point.policy.layers != space.layer_names:
            raise FormatError("front: is of another network's layers")
        found = cost_matrix(space.layers, point.policy.to_array(), costs)
        if not np.allclose(found, [point.value(cost.name) for cost in costs]):
            given = ", ".join(f"{point.value(cost.name):g} {cost.unit}" for cost in costs)
            wanted = ", ".join(f"{value:g} {cost.unit}" for value, cost in zip(found, costs, strict=True))
            raise FormatError(
                f"front: a point has {given}, this network {wanted}; the front is of another network or input size"
            )
