"""Outputs: a scale and a shift of each channel of each head, shrunk hard, chosen by leave-one-out."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SHRINKAGES = (*(10.0**e for e in range(-3, 5)), math.inf)
"""Ridge strengths that leave-one-out chooses from, in units of the channels' mean power; infinite: no change."""


@dataclass(frozen=True, eq=False)
class OutputMap:
    """An affine map of one head, channel by channel: `scale * y + shift`.

    Attributes:
        scale: Float32 `(channels,)`.
        shift: Float32 `(channels,)`.
        axis: Axis of the head that runs over channels, negative: the last one of logits `(N, ..., classes)`, that
            behind the samples of images `(N, channels, height, width)`.
    """

    scale: Tensor
    shift: Tensor
    axis: int

    @classmethod
    def identity(cls, head: Tensor) -> "OutputMap":
        """Return the map that changes nothing of heads like one, `(samples, ...)`."""
        axis = -3 if head.dim() == 4 else -1
        channels = head.shape[axis] if head.dim() > 1 else 1
        return cls(torch.ones(channels), torch.zeros(channels), axis)

    @property
    def is_identity(self) -> bool:
        """Whether the map changes nothing."""
        return bool((self.scale == 1).all() and (self.shift == 0).all())

    def __call__(self, head: Tensor) -> Tensor:
        """Return a head, mapped."""
        if self.is_identity:
            return head
        shape = [1] * head.dim()
        if head.dim() > 1:
            shape[self.axis] = -1
        return head * self.scale.to(head.device).reshape(shape) + self.shift.to(head.device).reshape(shape)


def fit_output(quantized: Tensor, wanted: Tensor, start: OutputMap) -> OutputMap:
    """Return the map that brings a head to the float network's, as far as leave-one-out says it generalizes.

    For each channel `c` ridge regression of `wanted - quantized` on `(quantized - mean, 1)`, both coefficients pulled
    to 0; one strength for all slopes and one for all shifts, the pair of least squared leave-one-sample-out error.
    With a handful of samples and many channels it is usually "no change" for slopes.

    Args:
        quantized: The quantized network's head on the samples, `(samples, ...)`, not mapped.
        wanted: The float network's.
        start: Says the axis of channels.

    Returns:
        The map.
    """
    q, w = (_rows(t, start.axis) for t in (quantized, wanted))
    n = len(q)
    if n < 3:
        return start
    slopes, shifts = _sums(q, w)
    best = (math.inf, math.inf, math.inf)
    for a in _SHRINKAGES:
        for b in _SHRINKAGES:
            error = _left_out(q, w, slopes, shifts, a, b)
            if error < best[0]:
                best = (error, a, b)
    slope, shift = _coefficients(slopes.sum(0), shifts.sum(0), best[1], best[2])
    return OutputMap((1 + slope).float(), shift.float(), start.axis)


def _rows(head: Tensor, axis: int) -> Tensor:
    """Return a head as float64 `(samples, channels, positions)`."""
    head = head.double()
    if head.dim() == 1:
        return head[:, None, None]
    return head.movedim(axis, 1).flatten(2) if head.dim() > 2 else head[:, :, None]


def _sums(q: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ridge regression needs of each sample: (sum q (w - q), sum q q), (sum (w - q), count, sum q)."""
    d = w - q
    count = torch.full(q.shape[:2], float(q.shape[2]), dtype=torch.float64)
    return torch.stack([(q * d).sum(2), (q * q).sum(2)], dim=-1), torch.stack([d.sum(2), count, q.sum(2)], dim=-1)


def _coefficients(slopes: Tensor, shifts: Tensor, a: float, b: float) -> tuple[Tensor, Tensor]:
    """Return slope and shift of each channel from sums over samples `(..., channels, 2)` and `(..., channels, 3)`."""
    qd, qq = slopes.unbind(-1)
    d, count, sq = shifts.unbind(-1)
    mean = sq / count
    cross, power = qd - mean * d, (qq - mean * sq).clamp_min(0)
    typical = power.mean(-1, keepdim=True)
    slope = torch.zeros_like(cross) if math.isinf(a) else cross / (power + a * typical).clamp_min(1e-300)
    # The shift is fitted at the mean, so that it and the slope are shrunk apart.
    at_mean = torch.zeros_like(d) if math.isinf(b) else d / (count * (1 + b))
    return slope, at_mean - slope * mean


def _left_out(q: Tensor, w: Tensor, slopes: Tensor, shifts: Tensor, a: float, b: float) -> float:
    slope, shift = _coefficients(slopes.sum(0) - slopes, shifts.sum(0) - shifts, a, b)
    return float((q * (1 + slope[:, :, None]) + shift[:, :, None] - w).square().sum())
