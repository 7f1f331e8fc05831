"""Sums over layers of table rows that bit-widths choose: costs and surrogate terms of many policies at once."""

from collections.abc import Sequence

import numpy as np

from evoq_moo.costs import Cost, layer_choices
from evoq_moo.space import ALLOWED_BITS, FloatArray, IntArray, SearchSpace

BLOCK = 2048
"""Policies summed at once: their sums stay in the processor's cache (measured)."""


class LayerSums:
    """Adds up, for each policy, one row of a table for every layer; the row is chosen by the layer's bit-widths.

    A row holds the layer's counts of each cost, then the sums over its genes of the model's terms. Counts are whole
    numbers far below 2^53, so their float64 sums are exact.

    A policy's sums are added in the same order whatever it is evaluated with, so they don't depend on it.

    Args:
        space: The search space, with at least one gene.
        costs: The costs.
        terms: Float64 `(n_var, bits, terms)`: what each gene adds at each of `bits`.
        bits: Bit-widths of the second axis, ascending.
    """

    def __init__(self, space: SearchSpace, costs: Sequence[Cost], terms: FloatArray, bits: tuple[int, ...]) -> None:
        self._space = space
        self._column = np.zeros(max(ALLOWED_BITS) + 1, dtype=np.int64)
        self._column[list(bits)] = np.arange(len(bits))
        self._allows = np.zeros((max(ALLOWED_BITS) + 1, space.n_var), dtype=bool)
        for j, gene in enumerate(space.genes):
            self._allows[list(gene.choices), j] = True
        counts = [cost.options(space) for cost in costs]
        self._start = np.zeros(len(costs) + terms.shape[2])
        self._start[: len(costs)] = [cost.fixed for cost in costs]
        self._parts: list[tuple[IntArray, FloatArray]] = []
        for choices in layer_choices(space):
            spent = np.stack([of_cost[choices.layer] for of_cost in counts], axis=1)
            if not choices.genes:
                self._start[: len(costs)] += spent[0]
                continue
            columns = self._column[choices.bits]
            place = np.zeros(len(columns), dtype=np.int64)
            for column in columns.T:
                place = place * len(bits) + column
            rows = np.full((len(bits) ** len(choices.genes), len(self._start)), np.nan)
            rows[place, : len(costs)] = spent
            rows[place, len(costs) :] = terms[list(choices.genes), columns].sum(axis=1)
            self._parts.append((np.array(choices.genes), rows))
        self._count = len(bits)

    def __call__(self, X: IntArray) -> FloatArray:
        """Return the sums of vectors `(n, n_var)`: counts of costs, then the terms, float64 `(n, costs + terms)`.

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
