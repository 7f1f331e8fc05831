"""Clip ranges tuned again, on what the quantized network feeds each layer and for what the layer makes of it."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.calibration._patches import has_patches, prior_weights, sampled_patches
from evoq_moo.calibration._walk import LayerView
from evoq_moo.ranges import ActivationHistogram, activation_range_of

ROWS = 2048
"""Patches that candidate ranges are compared on (our choice)."""
_RATIOS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.35)


def tune_range(view: LayerView, *, seed: int) -> LayerParameters:
    """Return a layer with the range of its input chosen anew.

    Candidates are the tabulated range, that of minimum squared error on the quantized network's inputs, and both
    with the two ends scaled alike; the one with the least squared error of the layer's output (its float weights on
    the quantized input, against the float network's output, means removed) is taken. Our choice.

    Args:
        view: The layer.
        seed: Of the draw of patches.
    """
    p = view.parameters
    if p.activation_scale is None or p.activation_zero_point is None or not has_patches(view):
        return p
    histogram = ActivationHistogram()
    inputs = view.fitted(view.inputs)
    for x in inputs:
        histogram.observe_extremes(x)
    for x in inputs:
        histogram.observe_counts(x)
    found = activation_range_of(histogram, p.activation_bits)
    parts = sampled_patches(view, rows=ROWS, seed=seed, quantized=False)
    x, y = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    weight = prior_weights(view).transpose(1, 2)
    starts = [(p.activation_scale, p.activation_zero_point), (found.scale, found.zero_point)]
    candidates = list(dict.fromkeys(c for start in starts for c in _scaled(*start, p.activation_bits)))

    def error(candidate: tuple[float, int]) -> float:
        q = replace(p, activation_scale=candidate[0], activation_zero_point=candidate[1])
        difference = q.quantize_input(x) @ weight - y
        return float(difference.sub_(difference.mean(dim=1, keepdim=True)).square_().sum(dtype=torch.float64))

    errors = view.pool.map(error, candidates)
    scale, zero_point = candidates[errors.index(min(errors))]
    return replace(p, activation_scale=scale, activation_zero_point=zero_point)


def _scaled(scale: float, zero_point: int, bits: int) -> Iterator[tuple[float, int]]:
    """Give the range with both ends scaled alike: the level of zero stays."""
    for ratio in _RATIOS:
        # Scales are float32 values everywhere.
        yield float(torch.tensor(scale * ratio, dtype=torch.float32)), zero_point
