"""Expected gain of hypervolume where costs are exact and the (log) difference is uncertain."""

from dataclasses import dataclass

import moocore
import numpy as np

from evoq_moo.algorithms.surrogate._model import expected_shortfall
from evoq_moo.space import FloatArray

MOST_EDGES = 24
"""Our choice: with two costs, the plane is cut at no more than this many of the front's
costs along each; a policy between two of them counts from the next larger one."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The plane (or line) of costs, cut into cells with the smallest difference known to cost no more.

    Attributes:
        low: Lower corners, float64 `(cells, costs)`.
        high: Upper corners, the same.
        best: Smallest (log) difference at or below the lower corner, at most the reference, `(cells,)`.
    """

    low: FloatArray
    high: FloatArray
    best: FloatArray

    def gains(self, costs: FloatArray, mean: FloatArray, std: FloatArray) -> FloatArray:
        """Return the expected hypervolume that each policy alone would add, float64 `(n,)`.

        Args:
            costs: Exact costs `(n, costs)`.
            mean: Expected (log) differences `(n,)`.
            std: Their standard deviations `(n,)`, positive.
        """
        sides = np.clip(self.high[None] - np.maximum(self.low[None], costs[:, None]), 0, None)
        shortfall = expected_shortfall(self.best[None], mean[:, None], std[:, None])
        return np.asarray((sides.prod(axis=2) * shortfall).sum(axis=1))

    def best_at(self, costs: FloatArray) -> FloatArray:
        """Return the smallest known (log) difference that costs no more than each policy, float64 `(n,)`."""
        inside = np.all((self.low[None] <= costs[:, None]) & (costs[:, None] < self.high[None]), axis=2)
        found = np.any(inside, axis=1)
        return np.asarray(np.where(found, self.best[inside.argmax(axis=1)], self.best.min(initial=np.inf)))


def cut(costs: FloatArray, values: FloatArray, ideal: FloatArray, reference: FloatArray, worst: float) -> Cells:
    """Return the cells that some policies leave.

    Args:
        costs: Costs of the policies `(n, costs)`; without any there is one cell, of size 1.
        values: Their (log) differences `(n,)`.
        ideal: Smallest costs `(costs,)`.
        reference: Largest costs `(costs,)`.
        worst: The (log) difference that counts where nothing costs so little.
    """
    if not costs.shape[1]:
        return Cells(np.empty((1, 0)), np.empty((1, 0)), np.array([values.min(initial=worst)]))
    points = np.column_stack([costs, values])
    front = points[moocore.is_nondominated(points)] if len(points) else points
    edges = []
    for k in range(costs.shape[1]):
        inner = np.unique(front[:, k])
        inner = inner[(inner > ideal[k]) & (inner < reference[k])]
        if costs.shape[1] > 1 and len(inner) > MOST_EDGES:
            inner = inner[np.linspace(0, len(inner) - 1, MOST_EDGES).round().astype(int)]
        edges.append(np.concatenate([[ideal[k]], inner, [reference[k]]]))
    low = np.stack(np.meshgrid(*(e[:-1] for e in edges), indexing="ij"), axis=-1).reshape(-1, len(edges))
    high = np.stack(np.meshgrid(*(e[1:] for e in edges), indexing="ij"), axis=-1).reshape(-1, len(edges))
    reached = (front[None, :, :-1] <= low[:, None, :]).all(axis=2)
    best = np.where(reached, front[None, :, -1], worst).min(axis=1, initial=worst)
    return Cells(low, high, best)
