"""Clipping ranges of minimum squared error, tabulated once for every (layer, bit-width) before the search.

The abstract does not say how ranges are found; these searches are ours. Weights: each output channel's step minimizes
the channel's squared error over a grid of clipping ratios, then a finer one, refined by the closed-form least-squares
step of the levels.
Activations: lower and upper end minimize the squared error over a histogram of the layer's inputs on all samples.

Nothing depends on the unit of weights or inputs: values are searched divided by a power of two, which is exact. Scales
are at least float32's smallest normal number, so that they have a reciprocal.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evoq_moo.graph import RESULT_BITS
from evoq_moo.quantizer.arithmetic import activation_range, least_weight_scales, weight_range

HISTOGRAM_BINS = 4096
_WEIGHT_RATIOS = torch.linspace(0.1, 1.05, 20)
_FINER = torch.linspace(-0.05, 0.05, 13)
_REFINEMENTS = 2
_SMALLEST_STEP = torch.finfo(torch.float32).tiny
_PLAIN_EXPONENTS = 32
"""Activations below 2^-32 or above 2^32 are counted in units of 2^-64 or 2^64, where float32 counts them rightly."""

OUTLIER_RATIO = 10.0
"""Our choice: a sample is an outlier if its largest magnitude is more than so many times the samples' median."""


@dataclass(frozen=True)
class ActivationRange:
    """Affine quantization of one activation at one bit-width.

    Attributes:
        scale: Step (float32 value).
        zero_point: Level of zero, 0..2^bits - 1.
    """

    scale: float
    zero_point: int


class ActivationHistogram:
    """Histogram of one activation, filled in two passes: first the extremes, then the counts.

    Bin centers are whole multiples of the bin width, so that exact zeros (most of what a ReLU gives) stay exact.
    """

    def __init__(self) -> None:
        self.lowest = 0.0
        self.highest = 0.0
        self.counts: Tensor | None = None
        self._first = 0

    def observe_extremes(self, x: Tensor) -> None:
        """Take in the extremes of a batch; zero always counts as seen, so that it is exactly representable."""
        low, high = torch.aminmax(x)
        self.lowest = min(self.lowest, low.item())
        self.highest = max(self.highest, high.item())

    @property
    def width(self) -> float:
        """Width of a bin."""
        return (self.highest - self.lowest) / (HISTOGRAM_BINS - 2) or 1.0  # of any width if all values are zero

    @property
    def _unit(self) -> float:
        """What values are divided by when they are counted: a power of two, 1 for usual values."""
        exponent = math.frexp(max(-self.lowest, self.highest))[1]
        return 1.0 if abs(exponent) <= _PLAIN_EXPONENTS else math.ldexp(1, int(math.copysign(64, exponent)))

    def observe_counts(self, x: Tensor) -> None:
        """Count the values of a batch; call after all extremes are known."""
        if self.counts is None:
            self._first = round(self.lowest / self.width) - 1
            self.counts = torch.zeros(HISTOGRAM_BINS + 2, dtype=torch.float64)
        unit, x = self._unit, x.float()
        low = (self._first - 0.5) * self.width / unit
        high = (self._first + HISTOGRAM_BINS + 1.5) * self.width / unit
        x = x if unit == 1 else x * (1 / unit)
        self.counts += torch.histc(x, bins=HISTOGRAM_BINS + 2, min=low, max=high).double().cpu()

    def values_and_counts(self) -> tuple[Tensor, Tensor]:
        """Return the centers and counts of the bins that are not empty, float64 each."""
        if self.counts is None:
            return torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        centers = (torch.arange(len(self.counts), dtype=torch.float64) + self._first) * self.width
        filled = self.counts > 0
        return centers[filled], self.counts[filled]


def weight_scales(rows: Tensor, bits: int) -> Tensor:
    """Return the step of each output channel that minimizes the squared error of its weights.

    Args:
        rows: Float32 weights `(channels, weights of that channel)`.
        bits: Bit-width, 2..8 (bits).

    Returns:
        Float32 `(channels,)`, positive. A channel of zeros gets step 1.
    """
    lowest, highest = weight_range(bits)
    original = rows.abs().amax(dim=1, keepdim=True)
    # The power of two that brings the largest magnitude of each channel to 1..2.
    unit = torch.where(original > 0, original / (2 * original.frexp().mantissa), 1)
    rows, largest = rows / unit, original / unit
    best_error = torch.full_like(largest, torch.inf)
    best = torch.ones_like(largest)

    def consider(scale: Tensor) -> None:
        nonlocal best_error, best
        levels = (rows / scale).round_().clamp_(lowest, highest)
        error = (levels * scale - rows).square_().sum(dim=1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = torch.where(better, scale, best)

    for ratio in _WEIGHT_RATIOS.to(rows.device):
        consider(largest * ratio / highest)
    coarse = best
    for ratio in _FINER.to(rows.device):
        consider(coarse + largest * ratio / highest)
    for _ in range(_REFINEMENTS):
        levels = (rows / best).round_().clamp_(lowest, highest)
        power = levels.square().sum(dim=1, keepdim=True)
        consider(torch.where(power > 0, (levels * rows).sum(dim=1, keepdim=True) / power, best))
    return torch.where(largest > 0, (best * unit).clamp_min(_SMALLEST_STEP), 1).flatten()


def layer_weight_scales(rows: Tensor, bias: Tensor | None, activation_scale: float, bits: int) -> Tensor:
    """Return the step of each output channel of a layer: that of :func:`weight_scales`, with which its bias fits.

    Args:
        rows: Float32 weights `(channels, weights of that channel)`.
        bias: Float32 `(channels,)` or None.
        activation_scale: The finest step of the layer's input at any bit-width.
        bits: Bit-width of the weights, 2..8 (bits).

    Returns:
        Float32 `(channels,)`, positive. A channel of zeros gets the step that suits its bias best.
    """
    scales = weight_scales(rows, bits)
    if bias is None:
        return scales
    least = least_weight_scales(bias, activation_scale, bits)
    empty = (rows == 0).all(dim=1) & (least > 0)
    return torch.where(empty, least, scales.maximum(least))


def activation_range_of(histogram: ActivationHistogram, bits: int) -> ActivationRange:
    """Return the range of an activation that minimizes the squared error of its histogram.

    Both ends shrink toward zero over a grid, then over a finer grid around the best pair.

    Args:
        histogram: The values seen on the samples.
        bits: Bit-width, 2..8 (bits).
    """
    lowest, highest = activation_range(bits)
    values, counts = histogram.values_and_counts()
    low, high = histogram.lowest, histogram.highest
    if high == low:
        return ActivationRange(1.0, 0)

    coarse = torch.arange(1, 25, dtype=torch.float64) / 24
    fine = torch.arange(-8, 9, dtype=torch.float64) / 24 / 8
    low_ratios = coarse if low < 0 else torch.ones(1, dtype=torch.float64)
    high_ratios = coarse if high > 0 else torch.ones(1, dtype=torch.float64)
    best = (torch.inf, 1.0, 0, 1.0, 1.0)
    for _ in range(2):
        pairs = torch.cartesian_prod(low_ratios, high_ratios).reshape(-1, 2)
        scale = ((high * pairs[:, 1] - low * pairs[:, 0]) / highest).clamp_min(_SMALLEST_STEP).float()
        zero_point = (-low * pairs[:, 0] / scale).round().clamp(lowest, highest)
        step = scale.double()
        errors = _squared_errors(values, counts, step, zero_point, highest)
        i = int(errors.argmin())
        if errors[i] < best[0]:
            best = (errors[i].item(), scale[i].item(), int(zero_point[i]), pairs[i, 0].item(), pairs[i, 1].item())
        low_ratios = torch.unique((best[3] + fine).clamp(1e-3, 1)) if low < 0 else low_ratios
        high_ratios = torch.unique((best[4] + fine).clamp(1e-3, 1)) if high > 0 else high_ratios
    return ActivationRange(best[1], best[2])


def result_range(lowest: float, highest: float) -> ActivationRange:
    """Return the range of 8 bits that holds all values seen of a result, and zero.

    Nothing is clipped: a result is read as it is, by sums and as the network's output.

    Args:
        lowest: Smallest value seen, at most 0.
        highest: Largest value seen, at least 0.
    """
    levels = activation_range(RESULT_BITS)[1]
    if highest == lowest:
        return ActivationRange(1.0, 0)
    scale = torch.tensor(max((highest - lowest) / levels, _SMALLEST_STEP), dtype=torch.float32).item()
    return ActivationRange(scale, min(max(round(-lowest / scale), 0), levels))


def _squared_errors(values: Tensor, counts: Tensor, scale: Tensor, zero_point: Tensor, highest: int) -> Tensor:
    errors = []
    for s, z in zip(torch.split(scale, 64), torch.split(zero_point, 64), strict=True):
        levels = (values / s[:, None]).round_().add_(z[:, None]).clamp_(0, highest)
        restored = levels.sub_(z[:, None]).mul_(s[:, None])
        errors.append(restored.sub_(values).square_() @ counts)
    return torch.cat(errors)


def outlier_note(samples: Tensor) -> str | None:
    """Return a sentence that names samples with outliers, None if there are none.

    Ranges come from all samples, so a single value far beyond the others' (one pixel of 1000 among values of 0..1)
    takes levels from everything else.

    Args:
        samples: `(samples, ...)`; integers (token ids) have no outliers.
    """
    if not samples.is_floating_point() or samples.numel() == 0:
        return None
    peaks = samples.reshape(len(samples), -1).abs().amax(dim=1).double()
    median = peaks.median().item()
    outliers = (peaks > OUTLIER_RATIO * median).nonzero().flatten().tolist() if median > 0 else []
    if not outliers:
        return None
    shown = ", ".join(str(i) for i in outliers[:10]) + (", ..." if len(outliers) > 10 else "")
    return (
        f"{len(outliers)} of {len(samples)} samples hold values up to {peaks.max().item():.4g}, more than "
        f"{OUTLIER_RATIO:g} times the median sample's largest ({median:.4g}): indices {shown}; the input's range holds "
        "them at the expense of everything else: correct or leave out these samples, unless such values are usual"
    )


@dataclass(frozen=True, kw_only=True)
class LayerRanges:
    """Everything needed to quantize one layer at any of its bit-widths.

    Attributes:
        weight_scales: For each weight bit-width, float32 `(channels,)`.
        activation: For each activation bit-width, its range.
    """

    weight_scales: dict[int, Tensor]
    activation: dict[int, ActivationRange]

    def to_json(self) -> dict[str, Any]:
        """Return the ranges as JSON-ready plain data."""
        return {
            "weight_scales": {str(b): s.tolist() for b, s in self.weight_scales.items()},
            "activation": {str(b): {"scale": r.scale, "zero_point": r.zero_point} for b, r in self.activation.items()},
        }
