"""Learned rounding, layer by layer: AdaRound's objective with the quantized network's own inputs, solved directly."""

from dataclasses import replace

import torch

from evoq_moo.calibration._gram import moments, prior_weights, supports_moments
from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.calibration._solver import solve_levels, target_weights
from evoq_moo.calibration._walk import LayerView

RIDGE = 10.0
"""Pull to the float weights: this times inputs per product over positions seen, in units of the inputs' mean variance.

So the pull is that of a prior by which all corrections together explain about a tenth of what is wrong with an output
(our choice, measured on calibration images that were not among the samples): a classifier of 1,280 inputs that saw 50
samples stays close to its float weights, a 3x3 kernel that saw 12,800 positions is free.
"""
LEAST_RIDGE = 0.01
"""In the same units: inputs that never vary need some."""


def fit_rounding(view: LayerView, *, seed: int = 0, ridge: float = RIDGE) -> LayerParameters:
    """Return a layer with levels, scales and bias fitted to the float network's output.

    Args:
        view: The layer.
        seed: Of the draw of positions.
        ridge: Strength of the pull to the float weights, see :data:`RIDGE`.
    """
    p = view.parameters
    if not supports_moments(view) or not p.quantized_weight:
        return p
    m = moments(view, seed=seed)
    strength = max(LEAST_RIDGE, ridge * m.input.shape[1] / m.count)
    h, target = target_weights(m.input, m.cross, prior_weights(view), strength)
    levels, scales = solve_levels(h, target, p.weight_bits)
    w = levels * scales[:, :, None]
    bias = m.output_mean - (w @ m.input_mean[:, :, None]).squeeze(-1)
    return replace(
        p,
        weight_levels=levels.reshape(view.weight.shape).to(torch.int8),
        weight_scales=scales.flatten(),
        bias=bias.flatten(),
    )
