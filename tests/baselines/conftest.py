"""Small random spaces and tables whose every policy can be enumerated."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from pymoo.core.problem import Problem

from evoq_moo.costs import cost_matrix, known_costs
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import LayerInfo, SearchSpace

GRAIN = 2.0**-20
"""Table entries are whole multiples of this, so that float64 sums are exact."""
SETS = ([8], [2, 3], [4, 8], [2, 5, 8], [3, 4, 16], [2, 32], [2, 3, 4, 6])


@st.composite
def tables(draw: Any, *, most: int = 4000) -> SensitivityTable:
    """Draw a table with ties, negative and non-monotone entries, on a space with whatever a space may have."""
    n_layers = draw(st.integers(1, 4))
    sizes = st.sampled_from([0, 1, 3, 7, 12, 100, 144, 997])
    layers = [LayerInfo(name=f"l{i}", kind="Conv2d", params=draw(sizes), macs=draw(sizes)) for i in range(n_layers)]
    tied = draw(st.booleans())
    bit_sets = st.sampled_from(SETS)
    weight_bits = draw(bit_sets)
    activation_bits = weight_bits if tied else draw(bit_sets)
    overrides = {}
    for layer in layers:
        if draw(st.integers(0, 2)) == 0:
            first = draw(bit_sets)
            overrides[layer.name] = {
                "weight_bits": first,
                "activation_bits": first if tied else draw(bit_sets),
            }
    pinned = {layer.name: 8 for layer in layers if draw(st.integers(0, 4)) == 0}
    space = SearchSpace.build(
        layers, weight_bits=weight_bits, activation_bits=activation_bits, pinned=pinned, tied=tied, overrides=overrides
    )
    if not 1 < space.cardinality <= most:
        space = SearchSpace.build(layers[:2], weight_bits=[2, 3, 8], activation_bits=[8])
    bits = tuple(sorted({b for gene in space.genes for b in gene.choices}))
    entry = draw(st.sampled_from([st.integers(-2, 3), st.integers(0, 2**24), st.integers(-(2**24), 2**24)]))
    values = [[draw(entry) * GRAIN if b in gene.choices else np.nan for b in bits] for gene in space.genes]
    return SensitivityTable(space=space, bits=bits, values=np.array(values), metric="toy")


def smooth_table(n_layers: int, seed: int = 0, **options: Any) -> SensitivityTable:
    """Return a table like measured ones: entries fall by about four with each bit, with noise."""
    rng = np.random.default_rng(seed)
    layers = [
        LayerInfo(
            name=f"l{i}", kind="Conv2d", params=16 * int(rng.integers(10, 3000)), macs=784 * int(rng.integers(10, 3000))
        )
        for i in range(n_layers)
    ]
    space = SearchSpace.build(layers, **{"weight_bits": range(2, 9), "activation_bits": range(2, 9)} | options)
    bits = tuple(sorted({b for gene in space.genes for b in gene.choices}))
    scale = 10 ** rng.uniform(-2, 1, size=(space.n_var, 1))
    values = scale * 4.0 ** -np.array(bits) * rng.lognormal(0, 0.4, size=(space.n_var, len(bits)))
    return SensitivityTable(space=space, bits=bits, values=values, metric="toy")


class TableProblem(Problem):
    """The additive prediction plus interactions between neighbouring genes, as a problem."""

    def __init__(self, table: SensitivityTable, *, objectives: tuple[str, ...] = ("difference", "bops"), **budgets):
        self.table, self.space, self.objectives, self.budgets = table, table.space, objectives, budgets
        self.costs = known_costs()
        super().__init__(
            n_var=self.space.n_var,
            n_obj=len(objectives),
            n_ieq_constr=len(budgets),
            xl=self.space.lower,
            xu=self.space.upper,
            vtype=int,
        )

    def values(self, X: np.ndarray, *, all_values: bool = False) -> dict[str, np.ndarray]:
        costs = cost_matrix(self.space.layers, self.space.decode(X))
        entries = self.table.values[np.arange(self.space.n_var), self.table.columns(X)]
        mixed = np.sqrt(entries[:, 1:] * entries[:, :-1]).sum(axis=1)
        return {"difference": entries.sum(axis=1) + mixed, "size": costs[:, 0], "bops": costs[:, 1]}

    def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        values = self.values(X)
        out["F"] = np.stack([values[name] for name in self.objectives], axis=1)
        if self.budgets:
            out["G"] = np.stack([values[k] / limit - 1 for k, limit in self.budgets.items()], axis=1)


@dataclass(frozen=True)
class Tables:
    """The builders, as a fixture: tests can't import a conftest."""

    random = staticmethod(tables)
    smooth = staticmethod(smooth_table)
    problem = TableProblem


@pytest.fixture(scope="session")
def make() -> Tables:
    return Tables()
