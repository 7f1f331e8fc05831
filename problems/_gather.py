"""Sums over layers of table rows that bit-widths choose: costs and surrogate terms of many policies at once."""

import numpy as np

from evoq_moo.cost import bit_operations, weight_bit_count
from evoq_moo.space import ALLOWED_BITS, FloatArray, IntArray, SearchSpace

BLOCK = 2048
"""Policies summed at once: their sums stay in the processor's cache (measured)."""


class LayerSums:
    """Adds up, for each policy, one row of a table for every layer; the row is chosen by the layer's bit-widths.

    A row holds the layer's weight bits, its BOPs, and terms of the caller's: sums of the genes' own. Costs are whole
    numbers far below 2^53, so their float64 sums are exact.

    A policy's sums are added in the same order whatever it is evaluated with, so they don't depend on it.

    Args:
        space: The search space, with at least one gene.
        terms: Float64 `(n_var, bits, terms)`: what each gene adds at each of `bits`.
        bits: Bit-widths of the second axis, ascending.
    """

    def __init__(self, space: SearchSpace, terms: FloatArray, bits: tuple[int, ...]) -> None:
        self._space = space
        count = len(bits)
        self._column = np.zeros(max(ALLOWED_BITS) + 1, dtype=np.int64)
        self._column[list(bits)] = np.arange(count)
        self._allows = np.zeros((max(ALLOWED_BITS) + 1, space.n_var), dtype=bool)
        for j, gene in enumerate(space.genes):
            self._allows[list(gene.choices), j] = True
        layers = np.array([gene.layer for gene in space.genes])
        fixed = sorted(set(range(len(space.layers))) - set(layers.tolist()))
        self._start = np.zeros(2 + terms.shape[2])
        self._start[:2] = _costs(space, fixed, space.base[None, fixed])[0]
        self._parts: list[tuple[IntArray, FloatArray]] = []
        for layer in sorted(set(layers.tolist())):
            genes = np.flatnonzero(layers == layer)
            options = np.stack(np.meshgrid(*[np.arange(count)] * len(genes), indexing="ij"), axis=-1)
            options = options.reshape(-1, len(genes))
            widths = np.repeat(space.base[None, [layer]], len(options), axis=0)
            rows = np.zeros((len(options), 2 + terms.shape[2]))
            for k, j in enumerate(genes.tolist()):
                widths[:, 0, list(space.genes[j].columns)] = np.array(bits)[options[:, k], None]
                rows[:, 2:] += terms[j, options[:, k]]
            rows[:, :2] = _costs(space, [layer], widths)
            self._parts.append((genes, rows))
        self._count = count

    def __call__(self, X: IntArray) -> FloatArray:
        """Return the sums of vectors `(n, n_var)`: weight bits, BOPs, then the terms, float64 `(n, 2 + terms)`.

        Raises:
            BitWidthError: A value is not an allowed bit-width of its gene.
        """
        vectors = self._checked(X)
        sums = np.repeat(self._start[None], len(vectors), axis=0)
        for start in range(0, len(vectors), BLOCK):
            part = sums[start : start + BLOCK]
            columns = self._column[vectors[start : start + BLOCK].T]
            for genes, rows in self._parts:
                index = columns[genes[0]]
                for j in genes[1:]:
                    index = index * self._count + columns[j]
                part += rows[index]
        return sums

    def _checked(self, X: IntArray) -> IntArray:
        given = np.asarray(X)
        if given.ndim != 2 or given.shape[1] != self._space.n_var or not np.issubdtype(given.dtype, np.integer):
            return self._space.check(given)
        in_range = given.size == 0 or (given.min() >= 0 and given.max() < len(self._allows))
        if not in_range or not self._allows[given, np.arange(given.shape[1])].all():
            return self._space.check(given)  # which names what is not allowed
        return given


def _costs(space: SearchSpace, layers: list[int], bits: IntArray) -> FloatArray:
    """Return weight bits and BOPs of some layers' bit-widths `(n, layers, 2)`, float64 `(n, 2)`, exact."""
    chosen = [space.layers[i] for i in layers]
    counts = [weight_bit_count(chosen, bits), bit_operations(chosen, bits)]
    return np.stack(counts, axis=-1).astype(np.float64)
