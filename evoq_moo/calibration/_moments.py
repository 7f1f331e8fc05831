"""Means, variances and covariances of channels, micro-batch by micro-batch and then together.

Sums over the places of one sample are float32 (torch adds in blocks, so their error is a few units of the last digit),
those over samples and micro-batches float64: float64 over every place would cost several times the layer itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChannelMoments:
    """Moments of each channel over some places, float64 `(channels,)` each.

    Attributes:
        count: Number of places.
        mean: Mean.
        power: Sum of squared deviations from the mean.
        cross: Sum of products of deviations from the means of this and another tensor, where there is another.
    """

    count: int
    mean: Tensor
    power: Tensor
    cross: Tensor | None = None

    @property
    def variance(self) -> Tensor:
        """Mean squared deviation."""
        return self.power / self.count


def moments_of(x: Tensor, axis: int, other: Tensor | None = None) -> ChannelMoments:
    """Return the moments of one tensor's channels.

    Args:
        x: Float32, samples first.
        axis: The axis that runs over channels, not the first; negative ones count from the end.
        other: A tensor of the same shape to take `cross` with.
    """
    shape = [1] * x.dim()
    shape[axis] = -1
    count = x.numel() // x.shape[axis]
    mean = _sum(x, axis) / count
    centred = x - mean.float().reshape(shape)
    # `other` need not be centred: deviations of one side alone from its mean give the same sum.
    cross = None if other is None else _sum(centred * other, axis)
    return ChannelMoments(count, mean, _sum(centred.square_(), axis), cross)


def together(parts: Sequence[ChannelMoments], others: Sequence[ChannelMoments] | None = None) -> ChannelMoments:
    """Return the moments of several tensors' channels taken together (Chan, Golub and LeVeque 1979).

    Args:
        parts: Moments of each tensor.
        others: Those of each of the tensors that `cross` is with, if `parts` have it.
    """
    counts = torch.tensor([p.count for p in parts], dtype=torch.float64)[:, None]
    total = int(counts.sum())
    means = torch.stack([p.mean for p in parts])
    mean = (counts * means).sum(0) / total
    power = torch.stack([p.power for p in parts]).sum(0) + (counts * (means - mean).square()).sum(0)
    cross = None
    if others is not None:
        other = torch.stack([p.mean for p in others])
        inside = torch.stack([p.cross for p in parts if p.cross is not None])
        cross = inside.sum(0) + (counts * (means - mean) * (other - (counts * other).sum(0) / total)).sum(0)
    return ChannelMoments(total, mean, power, cross)


def _sum(x: Tensor, axis: int) -> Tensor:
    places = [d for d in range(1, x.dim()) if d != axis % x.dim()]
    return (x.sum(places) if places else x).sum(0, dtype=torch.float64)
