"""A search space's genes as arrays, so that operators and costs work on whole populations at once."""

import itertools
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from evoq_moo.space import ACTIVATION, WEIGHT, IntArray, SearchSpace

BoolArray = npt.NDArray[np.bool_]


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

    def nearest(self, X: IntArray, wanted: BoolArray) -> IntArray:
        """Return the nearest of the wanted choices of each gene, the narrower of two as near.

        Args:
            X: Vectors `(n, n_var)`, already known to be allowed.
            wanted: Which moves are wanted, bool `(n, n_var, c)`.

        Returns:
            Int64 `(n, n_var)`: the bit-width; 0 where none is wanted.
        """
        genes = np.arange(len(self.layer))
        steps = np.abs(self.rank[None] - self.rank[genes, self.columns(X)][..., None])
        steps = np.where(wanted & self.allowed, steps, len(self.bits) + 1)
        column = steps.argmin(axis=2)
        some = np.take_along_axis(steps, column[..., None], axis=2)[..., 0] <= len(self.bits)
        return np.where(some, self.bits[column], 0)


@lru_cache(maxsize=16)
def gene_tables(space: SearchSpace) -> GeneTables:
    """Return the array form of a space (kept for the last few spaces)."""
    counts = np.array([len(gene.choices) for gene in space.genes], dtype=np.int64)
    most = int(counts.max(initial=0))
    bits = np.array(sorted({b for gene in space.genes for b in gene.choices}), dtype=np.int64)
    allowed = np.array([[b in gene.choices for b in bits] for gene in space.genes], dtype=bool)
    allowed = allowed.reshape(len(counts), len(bits))
    padded = [gene.choices + gene.choices[-1:] * (most - len(gene.choices)) for gene in space.genes]
    return GeneTables(
        space=space,
        bits=bits,
        allowed=allowed,
        rank=np.cumsum(allowed, axis=1, dtype=np.int64) - 1,
        choices=np.array(padded, dtype=np.int64).reshape(len(counts), most),
        counts=counts,
        layer=np.array([gene.layer for gene in space.genes], dtype=np.int64),
        sets_weight=np.array([WEIGHT in gene.columns for gene in space.genes], dtype=bool),
        sets_activation=np.array([ACTIVATION in gene.columns for gene in space.genes], dtype=bool),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerChoices:
    """Every combination of bit-widths that one layer may have, the widest first.

    Attributes:
        layer: The layer.
        genes: Positions of its genes in a vector; there may be none.
        bits: Int64 `(k, genes)`: bit-width of each gene.
        widths: Int64 `(k, 2)`: weight and activation bit-widths.
    """

    layer: int
    genes: tuple[int, ...]
    bits: IntArray = field(repr=False)
    widths: IntArray = field(repr=False)


@lru_cache(maxsize=16)
def layer_choices(space: SearchSpace) -> tuple[LayerChoices, ...]:
    """Return the choices of every layer of a space, in the order of layers."""
    found = []
    for layer in range(len(space.layers)):
        genes = tuple(j for j, gene in enumerate(space.genes) if gene.layer == layer)
        products = itertools.product(*(sorted(space.genes[j].choices, reverse=True) for j in genes))
        bits = np.array(list(products), dtype=np.int64)
        widths = np.repeat(space.base[None, layer], len(bits), axis=0)
        for j, chosen in zip(genes, bits.T, strict=True):
            widths[:, list(space.genes[j].columns)] = chosen[:, None]
        found.append(LayerChoices(layer=layer, genes=genes, bits=bits, widths=widths))
    return tuple(found)
