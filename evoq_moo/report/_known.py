"""What a run's store knows already: policies and their differences, without the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evoq_moo.costs import Cost, cost_matrix, known_costs
from evoq_moo.errors import MissingFileError
from evoq_moo.evaluation import EvaluationStore
from evoq_moo.front import FrontPoint, ParetoFront
from evoq_moo.space import FloatArray, IntArray, SearchSpace


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownPolicies:
    """Evaluated policies of a search space; nothing is computed that the store does not hold.

    It stands for a problem where a :class:`ParetoFront` needs one.

    Attributes:
        space: The search space.
        objectives: Names of the objectives.
        X: Their vectors, int64 `(n, n_var)`.
        differences: Float64 `(n,)`.
        fingerprint: What the differences belong to.
        evaluations: Evaluations in the store, policies outside the space (a sensitivity scan's) counted.
        costs: All costs that the run knows.
        budgets: Its limits.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    X: IntArray = field(repr=False)
    differences: FloatArray = field(repr=False)
    fingerprint: str
    evaluations: int
    costs: tuple[Cost, ...]
    budgets: Mapping[str, float] = field(default_factory=dict)

    @property
    def n_obj(self) -> int:
        """Number of objectives."""
        return len(self.objectives)

    @classmethod
    def read(
        cls,
        path: str | Path,
        space: SearchSpace,
        objectives: tuple[str, ...],
        *,
        fingerprint: str | None = None,
        costs: Sequence[Cost] = (),
        budgets: Mapping[str, float] | None = None,
    ) -> "KnownPolicies":
        """Read a store.

        Args:
            path: The store's file.
            space: The search space of the run.
            objectives: Its objectives.
            fingerprint: Of the evaluations to read; None, or one that the store does not hold (fronts of calibrated
                searches of version 0.1 name the plain network's), for that with the most.
            costs: The run's costs that are read from a table.
            budgets: Its limits.

        Raises:
            MissingFileError: No such file.
            StoreError: Not a store, damaged or locked.
        """
        if not Path(path).is_file():
            raise MissingFileError(f"no such file: {path}")
        with EvaluationStore(path, shared=True) as store:
            counts = store.fingerprints()
            most = max(counts, key=lambda key: counts[key], default="")
            chosen = fingerprint if fingerprint in counts else most
            bits, differences = store.archive(chosen, len(space.layers))
        X = bits[:, [g.layer for g in space.genes], [g.columns[0] for g in space.genes]].reshape(len(bits), space.n_var)
        snapped = space.snap(X)
        inside = (
            np.isfinite(differences) & (snapped == X).all(axis=1) & (space.decode(snapped) == bits).all(axis=(1, 2))
        )
        return cls(
            space=space,
            objectives=objectives,
            X=X[inside],
            differences=differences[inside],
            fingerprint=chosen,
            evaluations=len(bits),
            costs=known_costs(costs),
            budgets=budgets or {},
        )

    def values(self, X: IntArray, *, all_values: bool = True) -> dict[str, FloatArray]:
        """Return the named values of known vectors `(n, n_var)`.

        Raises:
            KeyError: A vector is not known.
        """
        table = {x.tobytes(): float(d) for x, d in zip(self.X, self.differences, strict=True)}
        costs = cost_matrix(self.space.layers, self.space.decode(X), self.costs)
        values = {cost.name: costs[:, k] for k, cost in enumerate(self.costs)}
        return {**values, "difference": np.array([table[x.tobytes()] for x in X], dtype=np.float64)}

    def front(self) -> ParetoFront:
        """Return the front of the policies within budgets; it is empty where there is none."""
        values = self.values(self.X)
        feasible = np.ones(len(self.X), dtype=bool)
        for name, limit in self.budgets.items():
            feasible &= values[name] <= limit
        provenance = {"fingerprint": self.fingerprint}
        if not feasible.any():
            return ParetoFront(points=(), objectives=self.objectives, provenance=provenance)
        return ParetoFront.from_vectors(self, self.X[feasible], provenance=provenance)

    def uniform(self) -> tuple[FrontPoint, ...]:
        """Return the known policies with one bit-width for every gene."""
        rows = [self.space.uniform(bits) for bits in range(2, 9)]
        known = {x.tobytes() for x in self.X}
        found = np.array([x for x in rows if x.tobytes() in known], dtype=np.int64).reshape(-1, self.space.n_var)
        values = self.values(found)
        return tuple(FrontPoint.of(self.space.policy(x), values, i) for i, x in enumerate(found))
