"""Intermediate features: each layer's output matched to the float network's, by its bias and its weight scales."""

import torch
from torch import Tensor

from evoq_moo.calibration._moments import moments_of, together
from evoq_moo.calibration._walk import LayerView
from evoq_moo.quantizer import LayerParameters

LARGEST_GAIN = 2.0
"""Bound of the factor on a weight scale, and of its inverse (our choice): a channel with next to no signal left must
not have its noise blown up."""


def match_features(view: LayerView) -> LayerParameters:
    """Return a layer with each output channel's mean and spread matched to the float network's.

    The gain goes into the weight scales, so that it costs nothing at inference. With r the correlation of the two
    networks' outputs, equal variances need the ratio of standard deviations, the least squared error r times that. We
    take their geometric mean, sqrt(r) times the ratio (our choice, measured: the first passes a broken channel's noise
    on at full strength, the second starves the layers behind it of signal).
    """
    outputs = view.compute(view.parameters)
    axis = view.layer.geometry.channel_axis
    pairs = zip(view.fitted(outputs), view.fitted(view.targets), strict=True)
    parts = view.pool.map(lambda pair: moments_of(pair[0], axis, pair[1]), pairs)
    others = view.fitted(view.target_moments())
    wanted, found = together(others), together(parts, others)
    gain = torch.ones_like(found.mean).float()
    if found.cross is not None:
        gain = gain_of(found.variance, wanted.variance, found.cross / found.count)
    old = view.parameters.bias
    shift = (wanted.mean - gain.double() * found.mean).float()
    fitted = view.parameters.scaled(gain, shift if old is None else old * gain + shift)
    shape = [1] * outputs[0].dim()
    shape[axis] = -1
    factor, term = gain.reshape(shape), shift_to(fitted, gain, old).reshape(shape)
    view.outputs = view.pool.map(lambda o: torch.addcmul(term, o, factor), outputs)
    return fitted


def shift_to(fitted: LayerParameters, gain: Tensor, old: Tensor | None) -> Tensor:
    """Return what outputs times a gain are shifted by, `(channels,)`, once the new bias has moved to its levels.

    Args:
        fitted: The layer with its new bias.
        gain: What its outputs are multiplied by.
        old: The bias before.
    """
    bias = torch.zeros_like(gain) if fitted.bias is None else fitted.bias
    return bias if old is None else bias - old * gain


def gain_of(variance: Tensor, wanted: Tensor, covariance: Tensor) -> Tensor:
    """Return the gain of each channel, float32; 1 where a channel is constant or has turned against the float one."""
    usable = (variance > 0) & (wanted > 0) & (covariance > 0)
    # The ratio of standard deviations times the root of the correlation, with powers of the variances collected.
    gain = (covariance.clamp_min(0).sqrt() * wanted.clamp_min(0).pow(0.25)) / variance.clamp_min(1e-300).pow(0.75)
    return torch.where(usable, gain, 1.0).clamp(1 / LARGEST_GAIN, LARGEST_GAIN).float()
