"""A layer's weights by least squares: the float network's output from the quantized network's input.

Where a clip (a ReLU, say) stands behind the layer, outputs that both networks clip to the same bound are free: only
what passes the clip counts. That is no longer a linear problem, so it is solved by linear ones: each
:meth:`Regression.relax` takes the present outputs as the wanted ones where they are free, the float network's
elsewhere, and fits again. With the wanted output at the bound where only the float network's lies beyond, and at the
present output where only that does, each round would be a majorizer's minimum and never leave more error (Hunter and
Lange 2004); wanting the float network's own output there is no such guarantee, but left less difference on other
images (our choice, MobileNetV2 at W4A4). Inputs stay what they are, so a round costs two products and no new
factorization.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce

import torch
from torch import Tensor

from evoq_moo.calibration._patches import prior_weights, sampled_patches
from evoq_moo.calibration._solver import ridged, target_weights
from evoq_moo.calibration._walk import LayerView
from evoq_moo.graph import Clip

RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Pulls to the float weights that samples held out choose from, in units of :class:`Regression`."""
USUAL = 3
"""The one to begin with, and to keep where there are too few samples to hold any out (our choice)."""
FOLDS = 5
"""Parts of the samples, at most, that are held out in turn to choose it."""
FEW = 0.01
"""Inputs per product and position below which no ridge matters (measured: none changed the error by 1 %)."""
LEAST_RIDGE = 0.01
"""In units of the inputs' mean variance: inputs that never vary need some."""


@dataclass(frozen=True)
class _Sums:
    """Sums over the positions of some samples, of inputs and wanted outputs less their means over all samples."""

    count: int
    inputs: Tensor
    gram: Tensor
    outputs: Tensor
    cross: Tensor


class Regression:
    """The least-squares problem of one layer on the samples to fit to.

    A ridge pulls the weights to the float ones: `ridge * k / positions` in units of the mean variance of the `k`
    inputs. So the pull is that of a prior by which all corrections together explain about `1 / ridge` of what is wrong
    with an output: a classifier of 1,280 inputs that saw 50 samples stays close to its float weights, a 3x3 kernel
    that saw 12,800 positions is free.

    Args:
        view: The layer; its product is a matrix product of patches.
        rows: Positions of its output that are looked at, at most.
        seed: Of their draw.

    Attributes:
        input_mean: Mean of the inputs, float32 `(groups, k)`.
        output_mean: Mean of the wanted outputs, `(groups, channels of a group)`.
        ridge: The ridge.
        h: Covariance of the inputs with the ridge, `(groups, k, k)`.
        target: Weights of least error, `(groups, channels of a group, k)`.
    """

    def __init__(self, view: LayerView, *, rows: int, seed: int) -> None:
        self._pool = view.pool
        self._clip = view.clip
        self._prior = prior_weights(view)
        drawn = sampled_patches(view, rows=rows, seed=seed, quantized=True)
        self._exact = self._wanted = [y for _, y in drawn]
        self._count = sum(x.shape[1] for x, _ in drawn)
        self.input_mean = torch.stack([x.sum(1) for x, _ in drawn]).sum(0) / self._count
        self._inputs = self._pool.map(lambda part: part[0].sub_(self.input_mean[:, None]), drawn)
        # Parts in turn, not in rows: micro-batches of the same samples must not be torn apart.
        folds = min(FOLDS, len(drawn))
        self._parts = [range(fold, len(drawn), folds) for fold in range(folds)]
        self._grams = self._pool.map(lambda part: _sum(x.transpose(1, 2) @ x for x in self._of(part)), self._parts)
        variance = _sum(iter(self._grams)).double().diagonal(dim1=1, dim2=2).mean(dim=1) / self._count
        self._variance = variance.clamp_min(1e-12)
        self._set_ridge(RIDGES[USUAL])

    def relax(self, weights: Tensor) -> None:
        """Take as wanted, where weights and the float network are clipped to the same bound, what the weights give.

        Args:
            weights: `(groups, channels of a group, k)`.
        """
        transposed, mean = weights.transpose(1, 2), self.output_mean[:, None]

        def wanted(i: int) -> Tensor:
            return relaxed(self._exact[i], self._inputs[i] @ transposed + mean, self._clip)

        self._wanted = self._pool.map(wanted, range(len(self._exact)))
        self._solve()

    def choose_ridge(self) -> None:
        """Set the ridge that predicts the wanted outputs of samples held out best."""
        if len(self._parts) < 2 or self._prior.shape[2] < FEW * self._count:
            return
        sums = self._pool.map(self._sums, range(len(self._parts)))

        @cache
        def error(choice: int) -> float:
            return sum(self._pool.map(lambda held: self._held_out(sums, held, RIDGES[choice]), range(len(sums))))

        choice = USUAL
        while (better := min(range(max(choice - 1, 0), min(choice + 2, len(RIDGES))), key=error)) != choice:
            choice = better
        self._set_ridge(RIDGES[choice])

    def bias(self, weights: Tensor) -> Tensor:
        """Return the bias that gives the wanted outputs' mean, `(groups, channels of a group)`."""
        return self.output_mean - (weights @ self.input_mean[:, :, None]).squeeze(-1)

    def _of(self, part: range) -> list[Tensor]:
        return [self._inputs[i] for i in part]

    def _strength(self, ridge: float, count: int) -> Tensor:
        # In units of all samples' variance: inputs may hardly vary among those that are not held out.
        return max(LEAST_RIDGE, ridge * self._prior.shape[2] / count) * self._variance

    def _set_ridge(self, ridge: float) -> None:
        self.ridge = ridge
        self._pull = self._strength(ridge, self._count)
        h = ridged(_sum(iter(self._grams)) / self._count, self._pull)
        self.h, self._factor = h.float(), torch.linalg.cholesky(h)
        self._solve()

    def _solve(self) -> None:
        self.output_mean = _sum(y.sum(1) for y in self._wanted) / self._count
        crosses = self._pool.map(self._cross, self._parts)
        self.target = target_weights(self._factor, _sum(iter(crosses)) / self._count, self._prior, self._pull)

    def _cross(self, part: range) -> Tensor:
        return _sum(self._inputs[i].transpose(1, 2) @ (self._wanted[i] - self.output_mean[:, None]) for i in part)

    def _sums(self, fold: int) -> _Sums:
        part = self._parts[fold]
        return _Sums(
            count=sum(x.shape[1] for x in self._of(part)),
            inputs=_sum(x.sum(1) for x in self._of(part)),
            gram=self._grams[fold],
            outputs=_sum((self._wanted[i] - self.output_mean[:, None]).sum(1) for i in part),
            cross=self._cross(part),
        )

    def _held_out(self, sums: Sequence[_Sums], held: int, ridge: float) -> float:
        """Return the squared error, up to a constant, on one part of the weights fitted to the others."""
        out, rest = sums[held], [s for i, s in enumerate(sums) if i != held]
        count = sum(s.count for s in rest)
        x, y = (_sum(getattr(s, name) for s in rest).double() / count for name in ("inputs", "outputs"))
        gram = _sum(s.gram for s in rest).double() / count - x[:, :, None] * x[:, None, :]
        cross = _sum(s.cross for s in rest).double() / count - x[:, :, None] * y[:, None, :]
        pull = self._strength(ridge, count)
        w = target_weights(torch.linalg.cholesky(ridged(gram, pull)), cross, self._prior, pull).double()
        b = y - (w @ x[:, :, None]).squeeze(-1)
        from_inputs = (w @ out.gram.double() * w).sum() - 2 * (w.transpose(1, 2) * out.cross).sum()
        from_bias = (
            b * (out.count * b - 2 * out.outputs + 2 * (w @ out.inputs.double()[:, :, None]).squeeze(-1))
        ).sum()
        return float(from_inputs + from_bias)


def _sum(tensors: Iterator[Tensor]) -> Tensor:
    """Return the sum in order, without holding all at once."""
    return reduce(torch.add, tensors)


def relaxed(exact: Tensor, present: Tensor, clip: Clip) -> Tensor:
    """Return wanted outputs: the exact ones, but the present ones where a clip makes both its same bound."""
    free = torch.zeros_like(exact, dtype=torch.bool)
    if clip.low is not None:
        free |= (exact <= clip.low) & (present <= clip.low)
    if clip.high is not None:
        free |= (exact >= clip.high) & (present >= clip.high)
    return torch.where(free, present, exact)
