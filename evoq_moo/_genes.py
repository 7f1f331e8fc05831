"""Array form of a search space's genes, so that operators work on whole populations at once."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from evoq_moo.cost import COSTS
from evoq_moo.errors import ArgumentError
from evoq_moo.space import ACTIVATION, WEIGHT, FloatArray, IntArray, SearchSpace

BoolArray = npt.NDArray[np.bool_]

COST_OF = {"size": "size_mib", "size_mib": "size_mib", "bops": "gbops", "gbops": "gbops"}
"""Cost that an objective or budget of a problem is about."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneTables:
    """What the operators need of a search space, as arrays over genes.

    Attributes:
        space: The search space.
        bits: Int64 `(c,)`: the bit-widths that some gene allows, ascending.
        allowed: Bool `(n_var, c)`: which gene allows which bit-width.
        rank: Int64 `(n_var, c)`: position of a bit-width among the gene's own choices (meaningless where not allowed).
        choices: Int64 `(n_var, most)`: the choices of each gene, ascending, padded with its largest.
        counts: Int64 `(n_var,)`: number of choices of each gene.
        layer: Int64 `(n_var,)`: layer of each gene.
        sets_weight: Bool `(n_var,)`: whether the gene sets its layer's weight bit-width.
        sets_activation: Bool `(n_var,)`: whether the gene sets its layer's activation bit-width.
        mib_per_bit: Float64 `(n_var,)`: size of one bit of the gene (MiB); 0 where it sets no weights.
        gmacs: Float64 `(n_var,)`: 10^9 MACs of the gene's layer.
    """

    space: SearchSpace
    bits: IntArray = field(repr=False)
    allowed: BoolArray = field(repr=False)
    rank: IntArray = field(repr=False)
    choices: IntArray = field(repr=False)
    counts: IntArray = field(repr=False)
    layer: IntArray = field(repr=False)
    sets_weight: BoolArray = field(repr=False)
    sets_activation: BoolArray = field(repr=False)
    mib_per_bit: FloatArray = field(repr=False)
    gmacs: FloatArray = field(repr=False)

    def columns(self, X: npt.ArrayLike) -> IntArray:
        """Return the index into `bits` of every value of vectors.

        Args:
            X: Vectors of allowed bit-widths, any numeric dtype, `(n, n_var)`.

        Returns:
            Int64 `(n, n_var)`.

        Raises:
            BitWidthError: A value is not among its gene's choices.
        """
        given = np.asarray(X)
        if given.ndim != 2 or given.shape[1] != len(self.layer) or given.dtype == object:
            given = self.space.check(X)
        columns = np.minimum(np.searchsorted(self.bits, given), len(self.bits) - 1).astype(np.int64)
        fine = (self.bits[columns] == given) & self.allowed[np.arange(len(self.layer)), columns]
        if not fine.all():
            self.space.check(X)
        return columns

    def bit_widths(self, X: IntArray) -> tuple[IntArray, IntArray]:
        """Return weight and activation bit-widths of all layers, each int64 `(n, layers)`.

        Args:
            X: Vectors `(n, n_var)`, already known to be allowed.
        """
        base = np.repeat(self.space.base[None], len(X), axis=0)
        weight, activation = base[..., WEIGHT], base[..., ACTIVATION]
        weight[:, self.layer[self.sets_weight]] = X[:, self.sets_weight]
        activation[:, self.layer[self.sets_activation]] = X[:, self.sets_activation]
        return weight, activation

    def cost_changes(self, X: IntArray, cost: str) -> FloatArray:
        """Return what every single-gene move changes in a cost.

        Args:
            X: Vectors `(n, n_var)`, already known to be allowed.
            cost: ``"size_mib"`` or ``"gbops"``.

        Returns:
            Float64 `(n, n_var, c)`: the change (MiB or GBOPs) when gene `j` of vector `i` is set to `bits[k]`.
        """
        step = self.bits[None, None, :] - X[:, :, None]
        if cost == "size_mib":
            return np.asarray(step * self.mib_per_bit[:, None])
        weight, activation = self.bit_widths(X)
        partner = np.where(self.sets_weight, activation[:, self.layer], weight[:, self.layer])
        changes: FloatArray = step * (self.gmacs * partner)[:, :, None]
        tied = self.sets_weight & self.sets_activation
        if tied.any():  # b^2 - x^2 = (b - x) (b + x)
            total = self.bits[None, None, :] + X[:, tied, None]
            changes[:, tied] = step[:, tied] * total * self.gmacs[tied][:, None]
        return changes


@lru_cache(maxsize=16)
def gene_tables(space: SearchSpace) -> GeneTables:
    """Return the array form of a space (kept for the last few spaces)."""
    counts = np.array([len(gene.choices) for gene in space.genes], dtype=np.int64)
    most = int(counts.max(initial=0))
    bits = np.array(sorted({b for gene in space.genes for b in gene.choices}), dtype=np.int64)
    allowed = np.array([[b in gene.choices for b in bits] for gene in space.genes], dtype=bool)
    allowed = allowed.reshape(len(counts), len(bits))
    padded = [gene.choices + gene.choices[-1:] * (most - len(gene.choices)) for gene in space.genes]
    layer = np.array([gene.layer for gene in space.genes], dtype=np.int64)
    sets_weight = np.array([WEIGHT in gene.columns for gene in space.genes], dtype=bool)
    params = np.array([info.params for info in space.layers], dtype=np.float64)
    macs = np.array([info.macs for info in space.layers], dtype=np.float64)
    return GeneTables(
        space=space,
        bits=bits,
        allowed=allowed,
        rank=np.cumsum(allowed, axis=1, dtype=np.int64) - 1,
        choices=np.array(padded, dtype=np.int64).reshape(len(counts), most),
        counts=counts,
        layer=layer,
        sets_weight=sets_weight,
        sets_activation=np.array([ACTIVATION in gene.columns for gene in space.genes], dtype=bool),
        mib_per_bit=np.where(sets_weight, params[layer] / 8 / 2**20, 0.0),
        gmacs=macs[layer] / 1e9,
    )


def problem_space(problem: Any) -> SearchSpace:
    """Return the search space of a problem.

    Raises:
        ArgumentError: The problem has no search space.
    """
    space = getattr(problem, "space", None)
    if not isinstance(space, SearchSpace):
        raise ArgumentError(
            f"problem: given {type(problem).__name__}, whose `space` is {space!r}; allowed: a problem with a "
            "SearchSpace as its attribute `space`"
        )
    return space


def check_same_genes(problem: Any, space: SearchSpace) -> None:
    """Raise unless a problem's genes are those of a sensitivity table's space.

    Args:
        problem: A problem with a search space.
        space: The space of the sensitivity table.

    Raises:
        ArgumentError: The genes differ in number, choices, or in what they set.
    """
    given = problem_space(problem)
    if given is space:
        return
    if given.n_var != space.n_var:
        raise ArgumentError(f"sensitivity: is of {space.n_var} genes; the problem has {given.n_var}")
    for name, gene, other_name, other in zip(given.gene_names, given.genes, space.gene_names, space.genes, strict=True):
        if name != other_name or gene.choices != other.choices:
            raise ArgumentError(
                f"sensitivity: has gene {other_name} with bit-widths {list(other.choices)} where the problem has "
                f"{name} with {list(gene.choices)}; measure the table on the problem's own space"
            )


def costs_of(problem: Any) -> tuple[str, ...]:
    """Return the costs that a problem trades against the difference.

    Our choice: the costs among its objectives and budgets; both where it names none.

    Args:
        problem: A problem, with `objectives` and `budgets` if it has any.

    Returns:
        One or both of ``"size_mib"`` and ``"gbops"``.
    """
    names = (*getattr(problem, "objectives", ()), *(getattr(problem, "budgets", None) or ()))
    wanted = {COST_OF.get(name) for name in names}
    return tuple(cost for cost in COSTS if cost in wanted) or COSTS
