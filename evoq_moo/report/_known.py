"""What a run's store knows already: policies and their differences, without the network."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evoq_moo.cost import cost_matrix
from evoq_moo.errors import MissingFileError
from evoq_moo.front import FrontPoint, ParetoFront
from evoq_moo.latency import LatencyTable
from evoq_moo.problems._base import BUDGETS
from evoq_moo.space import FloatArray, IntArray, SearchSpace
from evoq_moo.store import EvaluationStore


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
        latency: Times of the layers, where the run has a table of them.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    X: IntArray = field(repr=False)
    differences: FloatArray = field(repr=False)
    fingerprint: str
    evaluations: int
    latency: LatencyTable | None = None

    @classmethod
    def read(
        cls,
        path: str | Path,
        space: SearchSpace,
        objectives: tuple[str, ...],
        *,
        fingerprint: str | None = None,
        latency: LatencyTable | None = None,
    ) -> "KnownPolicies":
        """Read a store.

        Args:
            path: The store's file.
            space: The search space of the run.
            objectives: Its objectives.
            fingerprint: Of the evaluations to read; None for that with the most.
            latency: Times of the layers, or None.

        Raises:
            MissingFileError: No such file.
            StoreError: Not a store, damaged or locked.
        """
        if not Path(path).is_file():
            raise MissingFileError(f"no such file: {path}")
        with EvaluationStore(path, shared=True) as store:
            counts = store.fingerprints()
            chosen = fingerprint or max(counts, key=lambda key: counts[key], default="")
            bits, differences = store.archive(chosen, len(space.layers))
        X = bits[:, [g.layer for g in space.genes], [g.columns[0] for g in space.genes]].reshape(len(bits), space.n_var)
        snapped = space.snap(X)
        inside = (snapped == X).all(axis=1) & (space.decode(snapped) == bits).all(axis=(1, 2))
        return cls(
            space=space,
            objectives=objectives,
            X=X[inside],
            differences=differences[inside],
            fingerprint=chosen,
            evaluations=len(bits),
            latency=latency,
        )

    def values(self, X: IntArray, *, all_values: bool = True) -> dict[str, FloatArray]:
        """Return the named values of known vectors `(n, n_var)`.

        Raises:
            KeyError: A vector is not known.
        """
        table = {x.tobytes(): float(d) for x, d in zip(self.X, self.differences, strict=True)}
        bits = self.space.decode(X)
        costs = cost_matrix(self.space.layers, bits)
        differences = np.array([table[x.tobytes()] for x in X], dtype=np.float64)
        values = {"difference": differences, "size": costs[:, 0], "bops": costs[:, 1]}
        if self.latency is not None:
            values["latency"] = self.latency.of(self.space.layers, bits)
        return values

    def front(self, budgets: dict[str, float]) -> ParetoFront:
        """Return the front of the policies within budgets; it is empty where there is none."""
        values = self.values(self.X)
        feasible = np.ones(len(self.X), dtype=bool)
        for name, limit in budgets.items():
            feasible &= values[BUDGETS[name]] <= limit
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
        return tuple(
            FrontPoint(
                policy=self.space.policy(x),
                difference=float(values["difference"][i]),
                size_mib=float(values["size"][i]),
                gbops=float(values["bops"][i]),
                latency_ms=float(values["latency"][i]) if "latency" in values else None,
            )
            for i, x in enumerate(found)
        )
