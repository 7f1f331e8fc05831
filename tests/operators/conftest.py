"""An in-memory problem with interactions between layers, for tests of the operators."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pymoo.core.problem import Problem

from evoq_moo.costs import Cost, cost_matrix, known_costs
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FloatArray, LayerInfo, SearchSpace


def toy_space(n_layers: int = 20, seed: int = 0, **options: Any) -> SearchSpace:
    rng = np.random.default_rng(seed)
    layers = [
        LayerInfo(
            name=f"layer{i}",
            kind="Conv2d",
            params=int(10 ** rng.uniform(3, 6)),
            macs=int(10 ** rng.uniform(5, 8)),
        )
        for i in range(n_layers)
    ]
    return SearchSpace.build(layers, **{"weight_bits": range(2, 9), "activation_bits": range(2, 9)} | options)


class ToyProblem(Problem):
    """Every gene adds an error that halves with each bit; errors of different genes are correlated.

    difference = u' M u with u_j = sqrt(s_j) 2^-b_j and M a correlation matrix: the table's additive prediction is the
    diagonal of it, the rest is pairwise interactions of either sign.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        objectives: tuple[str, ...] = ("difference", "bops"),
        seed: int = 0,
        costs: tuple[Cost, ...] = (),
    ):
        rng = np.random.default_rng(seed)
        self.space = space
        self.objectives = objectives
        self.budgets: dict[str, float] = {}
        self.costs = known_costs(costs)
        self.scale = np.sqrt(10 ** rng.uniform(-1.5, 1.5, size=space.n_var))
        factors = rng.normal(size=(space.n_var, 6))
        factors = np.hstack([factors, 1.5 * np.eye(space.n_var)])
        factors /= np.linalg.norm(factors, axis=1, keepdims=True)
        self.correlation = factors @ factors.T
        super().__init__(n_var=space.n_var, n_obj=len(objectives), xl=space.lower, xu=space.upper, vtype=int)

    def difference(self, X: np.ndarray) -> FloatArray:
        u = self.scale * 2.0 ** -self.space.check(X)
        return np.asarray(np.einsum("ni,ij,nj->n", u, self.correlation, u))  # no BLAS: one row gives the same as many

    def values(self, X: np.ndarray, *, all_values: bool = False) -> dict[str, FloatArray]:
        costs = cost_matrix(self.space.layers, self.space.decode(X), self.costs)
        return {"difference": self.difference(X)} | {cost.name: costs[:, k] for k, cost in enumerate(self.costs)}

    def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        values = self.values(X)
        out["F"] = np.stack([values[name] for name in self.objectives], axis=1)

    def sensitivity(self) -> SensitivityTable:
        bits = sorted({b for gene in self.space.genes for b in gene.choices})
        values = np.array(
            [
                [s**2 * 4.0**-b if b in gene.choices else np.nan for b in bits]
                for s, gene in zip(self.scale, self.space.genes, strict=True)
            ]
        )
        return SensitivityTable(space=self.space, bits=tuple(bits), values=values, metric="toy")


@dataclass(frozen=True)
class Toys:
    """The builders, as a fixture: tests can't import a conftest."""

    space = staticmethod(toy_space)
    problem = ToyProblem


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture(scope="module")
def toys_module() -> Toys:
    """For hypothesis, which objects to fixtures that are built once for many examples."""
    return Toys()
