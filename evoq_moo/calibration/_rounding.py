"""Learned rounding, layer by layer: AdaRound's objective with the quantized network's own inputs, solved directly."""

from dataclasses import replace

import torch

from evoq_moo.calibration._gram import moments, prior_weights, supports_moments
from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.calibration._solver import solve_levels, target_weights
from evoq_moo.calibration._walk import LayerView

RIDGE = 2.0
"""Pull to the float weights, in units of the mean variance of a layer's inputs (our choice, measured: with 50 samples
less lets wide layers fit the noise of the samples)."""


def fit_rounding(view: LayerView, *, seed: int = 0, ridge: float = RIDGE) -> LayerParameters:
    """Return a layer with levels, scales and bias fitted to the float network's output.

    Args:
        view: The layer.
        seed: Of the draw of positions.
        ridge: Strength of the pull to the float weights.
    """
    p = view.parameters
    if not supports_moments(view) or not p.quantized_weight:
        return p
    m = moments(view, seed=seed)
    h, target = target_weights(m.input, m.cross, prior_weights(view), ridge)
    levels, scales = solve_levels(h, target, p.weight_bits)
    w = levels * scales[:, :, None]
    bias = m.output_mean - (w @ m.input_mean[:, :, None]).squeeze(-1)
    return replace(
        p,
        weight_levels=levels.reshape(view.weight.shape).to(torch.int8),
        weight_scales=scales.flatten(),
        bias=bias.flatten(),
    )
