"""Clipping ranges of minimum squared error, tabulated once for every (layer, bit-width) before the search.

The abstract does not say how ranges are found; these searches are ours. Weights: each output channel's step minimizes
the channel's squared error over a grid of clipping ratios, then a finer one, refined by the closed-form least-squares
step of the levels.
Activations: lower and upper end minimize the squared error over a histogram of the layer's inputs on all samples.

Nothing depends on the unit of weights or inputs: values are searched divided by a power of two, which is exact. Scales
are at least float32's smallest normal number, so that they have a reciprocal.
"""

import math
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evoq_moo.graph import RESULT_BITS
from evoq_moo.quantizer.arithmetic import activation_range, least_weight_scales, weight_range

HISTOGRAM_BINS = 4096
_WEIGHT_RATIOS = torch.linspace(0.1, 1.05, 20)[:, None, None]
_FINER = torch.linspace(-0.05, 0.05, 13)[:, None, None]
_REFINEMENTS = 2
_SMALLEST_STEP = torch.finfo(torch.float32).tiny
_TOGETHER = 2**16
"""Elements computed with at once: what is made of so many stays in cache (measured: 2^15 to 2^17 are alike)."""
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
    Threads may fill one at once: counts are whole numbers, whose sum has no order.

    Attributes:
        lowest: Smallest value seen, at most 0.
        highest: Largest value seen, at least 0.
        finite: Whether all values seen are finite.
        counts: Of each bin, float64 `(HISTOGRAM_BINS + 2,)`; None before any value is counted.
    """

    def __init__(self) -> None:
        self.lowest = 0.0
        self.highest = 0.0
        self.finite = True
        self.counts: Tensor | None = None
        self._first = 0
        self._lock = threading.Lock()

    def observe_extremes(self, x: Tensor) -> None:
        """Take in the extremes of a batch; zero always counts as seen, so that it is exactly representable."""
        low, high = (bound.item() for bound in torch.aminmax(x))
        with self._lock:
            self.lowest = min(self.lowest, low)
            self.highest = max(self.highest, high)
            self.finite &= math.isfinite(low) and math.isfinite(high)

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
        with self._lock:
            if self.counts is None:
                self._first = round(self.lowest / self.width) - 1
                self.counts = torch.zeros(HISTOGRAM_BINS + 2, dtype=torch.float64)
        unit = self._unit
        edges = [(self._first + bins) * self.width / unit for bins in (-0.5, HISTOGRAM_BINS + 1.5)]
        low, high = torch.tensor(edges, dtype=torch.float32)
        found = torch.zeros(HISTOGRAM_BINS + 2, dtype=torch.int64)
        for part in torch.split(x.flatten(), _TOGETHER):
            values = part.float() if unit == 1 else part.float() * (1 / unit)
            # torch.histc's formula, in a third of its time.
            bins = values.sub(low.item()).mul_(len(found)).div_((high - low).item()).to(torch.int64)
            found += torch.bincount(bins, minlength=len(found)).cpu()
        with self._lock:
            self.counts += found

    def values_and_counts(self) -> tuple[Tensor, Tensor]:
        """Return the centers and counts of the bins that are not empty, float64 each."""
        if self.counts is None:
            return torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        centers = (torch.arange(len(self.counts), dtype=torch.float64) + self._first) * self.width
        filled = self.counts > 0
        return centers[filled], self.counts[filled]

    def nearly_best(self, scale: Tensor, zero_point: Tensor, highest: int) -> Tensor:
        """Return which of some ranges have the least squared error, or all but that (to a millionth).

        The values of one level `r` are neighbouring bins of values `v` and counts `n`, whose error follows from sums:
        `sum n (r - v)^2 = r^2 sum n - 2 r sum n v + sum n v^2`.

        Args:
            scale: Float64 steps `(ranges,)`.
            zero_point: Levels of zero `(ranges,)`.
            highest: Highest level.

        Returns:
            Indices of the ranges.
        """
        counts = torch.zeros(1) if self.counts is None else self.counts
        values = (torch.arange(len(counts), dtype=torch.float64) + self._first) * self.width
        numbers, sums = (functional.pad(terms.cumsum(0), (1, 0)) for terms in (counts, counts * values))
        energy = (counts * values.square()).sum()
        levels = torch.arange(highest + 1, dtype=torch.float64)
        together = max(1, _TOGETHER // len(levels))
        errors = []
        for step, zero in zip(torch.split(scale, together), torch.split(zero_point, together), strict=True):
            restored = (levels - zero[:, None]) * step[:, None]
            # How many bins lie below the middle between a level and the next.
            ends = ((restored[:, :-1] + step[:, None] / 2) / self.width - self._first).ceil_().clamp_(0, len(counts))
            ends = functional.pad(functional.pad(ends, (1, 0)), (0, 1), value=len(counts)).long()
            within = restored.square() * numbers[ends].diff() - 2 * restored * sums[ends].diff()
            errors.append(within.sum(1) + energy)
        found = torch.cat(errors)
        return (found <= found.min() * (1 + 1e-6) + 1e-12 * energy).nonzero().flatten()


def weight_scales(rows: Tensor, bits: int) -> Tensor:
    """Return the step of each output channel that minimizes the squared error of its weights.

    Args:
        rows: Float32 weights `(channels, weights of that channel)`.
        bits: Bit-width, 2..8 (bits).

    Returns:
        Float32 `(channels,)`, positive. A channel of zeros gets step 1.
    """
    together = max(1, _TOGETHER // max(1, rows.shape[1]))
    return torch.cat([_weight_scales(part, bits) for part in torch.split(rows, together)])


def _weight_scales(rows: Tensor, bits: int) -> Tensor:
    lowest, highest = weight_range(bits)
    original = rows.abs().amax(dim=1, keepdim=True)
    # The power of two that brings the largest magnitude of each channel to 1..2.
    unit = torch.where(original > 0, original / (2 * original.frexp().mantissa), 1)
    rows, largest = rows / unit, original / unit
    best_error = torch.full_like(largest, torch.inf)
    best = torch.ones_like(largest)
    levels = torch.empty_like(rows)

    def consider(scales: Tensor) -> None:
        nonlocal best_error, best
        errors = torch.empty_like(scales)
        for scale, error in zip(scales, errors, strict=True):
            torch.div(rows, scale, out=levels).round_().clamp_(lowest, highest)
            torch.sum(levels.mul_(scale).sub_(rows).square_(), dim=1, keepdim=True, out=error)
        error, index = errors.min(dim=0, keepdim=True)
        better = error[0] < best_error
        best_error = torch.where(better, error[0], best_error)
        best = torch.where(better, scales.gather(0, index)[0], best)

    consider(largest * _WEIGHT_RATIOS.to(rows.device) / highest)
    consider(best + largest * _FINER.to(rows.device) / highest)
    for _ in range(_REFINEMENTS):
        torch.div(rows, best, out=levels).round_().clamp_(lowest, highest)
        power = levels.square().sum(dim=1, keepdim=True)
        consider(torch.where(power > 0, levels.mul_(rows).sum(dim=1, keepdim=True) / power, best)[None])
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
        near = histogram.nearly_best(scale.double(), zero_point, highest)
        pairs, scale, zero_point = pairs[near], scale[near], zero_point[near]
        errors = _squared_errors(values, counts, scale.double(), zero_point, highest)
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
