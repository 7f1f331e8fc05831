"""A layer's weights by least squares: the float network's output from the quantized network's input.

Where a clip (a ReLU, say) stands behind the layer, outputs that both networks clip to the same bound are free: only
what passes the clip counts. That is no longer a linear problem, but it has a linear majorizer: with `y` the present
output, the squared error behind the clip is at most that of reaching the wanted output where it shows, and of staying
at `y` where both are clipped to the same bound; and it is equal at `y`. So each :meth:`Regression.relax`, which takes
those as the wanted outputs, leaves less error behind the clip (majorize and minimize, Hunter and Lange 2004). Inputs
stay what they are, so a round costs two products and no new factorization.
"""

import torch
from torch import Tensor

from evoq_moo.calibration._patches import prior_weights, sampled_patches
from evoq_moo.calibration._solver import ridged, target_weights
from evoq_moo.calibration._walk import LayerView
from evoq_moo.engines._kernels import Clip


class Regression:
    """The least-squares problem of one layer on the samples to fit to.

    Args:
        view: The layer; its product is a matrix product of patches.
        rows: Positions of its output that are looked at, at most.
        seed: Of their draw.
        ridge: Pull to the float weights in units of the inputs' mean variance, times inputs per product over positions.
        least_ridge: Pull at least, in units of the inputs' mean variance.

    Attributes:
        input_mean: Mean of the inputs, float32 `(groups, k)`.
        output_mean: Mean of the wanted outputs, `(groups, channels of a group)`.
        h: Covariance of the inputs with the ridge, `(groups, k, k)`.
        target: Weights of least error, `(groups, channels of a group, k)`.
    """

    def __init__(self, view: LayerView, *, rows: int, seed: int, ridge: float, least_ridge: float) -> None:
        self._pool = view.pool
        self._clip = view.clip
        drawn = sampled_patches(view, rows=rows, seed=seed, quantized=True)
        self._count = sum(x.shape[1] for x, _ in drawn)
        self.input_mean = torch.stack([x.sum(1) for x, _ in drawn]).sum(0) / self._count
        self._inputs = self._pool.map(lambda part: part[0].sub_(self.input_mean[:, None]), drawn)
        self._exact = [y for _, y in drawn]
        gram = torch.stack(self._pool.map(lambda x: x.transpose(1, 2) @ x, self._inputs)).sum(0) / self._count
        self._prior = prior_weights(view)
        h, self._strength = ridged(gram, max(least_ridge, ridge * gram.shape[1] / self._count))
        self.h, self._factor = h.float(), torch.linalg.cholesky(h)
        self._solve(self._exact)

    def relax(self, weights: Tensor) -> None:
        """Take as wanted, where weights and the float network are clipped to the same bound, what the weights give.

        Args:
            weights: `(groups, channels of a group, k)`.
        """
        transposed, mean = weights.transpose(1, 2), self.output_mean[:, None]

        def wanted(i: int) -> Tensor:
            return relaxed(self._exact[i], self._inputs[i] @ transposed + mean, self._clip)

        self._solve(self._pool.map(wanted, range(len(self._exact))))

    def bias(self, weights: Tensor) -> Tensor:
        """Return the bias that gives the wanted outputs' mean, `(groups, channels of a group)`."""
        return self.output_mean - (weights @ self.input_mean[:, :, None]).squeeze(-1)

    def _solve(self, wanted: list[Tensor]) -> None:
        self.output_mean = torch.stack([y.sum(1) for y in wanted]).sum(0) / self._count
        mean = self.output_mean[:, None]
        parts = self._pool.map(lambda i: self._inputs[i].transpose(1, 2) @ (wanted[i] - mean), range(len(wanted)))
        cross = torch.stack(parts).sum(0) / self._count
        self.target = target_weights(self._factor, cross, self._prior, self._strength)


def relaxed(exact: Tensor, present: Tensor, clip: Clip) -> Tensor:
    """Return wanted outputs: the exact ones, but the present ones where a clip makes both its same bound."""
    free = torch.zeros_like(exact, dtype=torch.bool)
    if clip.low is not None:
        free |= (exact <= clip.low) & (present <= clip.low)
    if clip.high is not None:
        free |= (exact >= clip.high) & (present >= clip.high)
    return torch.where(free, present, exact)
