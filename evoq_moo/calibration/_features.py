"""Intermediate features: each layer's output matched to the float network's, by its bias and its weight scales."""

from dataclasses import replace

import torch
from torch import Tensor

from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.calibration._walk import LayerView
from evoq_moo.engines._capture import Op

LARGEST_GAIN = 2.0
"""Bound of the factor on a weight scale, and of its inverse (our choice): a channel with next to no signal left must
not have its noise blown up."""


def output_axis(op: Op, output: Tensor) -> int:
    """Return the axis of a layer's output that runs over channels: the last of a matrix product, else that of `NC...`.

    Args:
        op: The layer's call.
        output: Its output.
    """
    dims = int(op.args[1].dim())
    return output.dim() - 1 if dims == 2 else output.dim() - (dims - 1)


def channel_moments(tensors: list[Tensor], axis: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel over everything else, float64 `(channels,)` each.

    Args:
        tensors: Float32, one for each micro-batch.
        axis: The axis that runs over channels.
    """
    rows = [t.movedim(axis, 0).flatten(1) for t in tensors]
    count = sum(r.shape[1] for r in rows)
    mean = torch.stack([r.sum(1, dtype=torch.float64) for r in rows]).sum(0) / count
    centred = [(r - mean.float()[:, None]).square_().sum(1, dtype=torch.float64) for r in rows]
    return mean, torch.stack(centred).sum(0) / count


def _covariance(x: list[Tensor], y: list[Tensor], axis: int, mx: Tensor, my: Tensor) -> Tensor:
    pairs = [(a.movedim(axis, 0).flatten(1), b.movedim(axis, 0).flatten(1)) for a, b in zip(x, y, strict=True)]
    count = sum(a.shape[1] for a, _ in pairs)
    sums = [((a - mx.float()[:, None]) * (b - my.float()[:, None])).sum(1, dtype=torch.float64) for a, b in pairs]
    return torch.stack(sums).sum(0) / count


def match_mean(view: LayerView) -> LayerParameters:
    """Return a layer with its bias corrected: each output channel has the float network's mean.

    The bias correction of Nagel et al. 2019 (section 4.2), with means measured on the quantized network's own inputs.
    """
    return _matched(view, with_gain=False)


def match_features(view: LayerView) -> LayerParameters:
    """Return a layer with each output channel's mean and spread matched to the float network's.

    The gain goes into the weight scales, so that it costs nothing at inference. With r the correlation of the two
    networks' outputs, equal variances need the ratio of standard deviations, the least squared error r times that. We
    take their geometric mean, sqrt(r) times the ratio (our choice, measured: the first passes a broken channel's noise
    on at full strength, the second starves the layers behind it of signal).
    """
    return _matched(view, with_gain=True)


def _matched(view: LayerView, *, with_gain: bool) -> LayerParameters:
    outputs = view.compute(view.parameters)
    axis = output_axis(view.op, outputs[0])
    seen, wanted = view.fitted(outputs), view.fitted(view.targets)
    if with_gain:
        mean, variance = channel_moments(seen, axis)
        wanted_mean, wanted_variance = channel_moments(wanted, axis)
        covariance = _covariance(seen, wanted, axis, mean, wanted_mean)
        gain = gain_of(variance, wanted_variance, covariance)
    else:
        mean, wanted_mean = (channel_moments(tensors, axis)[0] for tensors in (seen, wanted))
        gain = torch.ones_like(mean).float()
    old = view.parameters.bias
    shift = (wanted_mean - gain.double() * mean).float()
    bias = shift if old is None else old * gain + shift
    shape = [1] * outputs[0].dim()
    shape[axis] = -1
    view.outputs = [o * gain.reshape(shape) + shift.reshape(shape) for o in outputs]
    if not with_gain:
        return replace(view.parameters, bias=bias)
    return view.parameters.scaled(gain, bias)


def gain_of(variance: Tensor, wanted: Tensor, covariance: Tensor) -> Tensor:
    """Return the gain of each channel, float32; 1 where a channel is constant or has turned against the float one."""
    usable = (variance > 0) & (wanted > 0) & (covariance > 0)
    # The ratio of standard deviations times the root of the correlation, with powers of the variances collected.
    gain = (covariance.clamp_min(0).sqrt() * wanted.clamp_min(0).pow(0.25)) / variance.clamp_min(1e-300).pow(0.75)
    return torch.where(usable, gain, 1.0).clamp(1 / LARGEST_GAIN, LARGEST_GAIN).float()
