"""Learned rounding, layer by layer: AdaRound's objective with the quantized network's own inputs, solved directly."""

from dataclasses import replace

import torch

from evoq_moo.calibration._patches import has_patches
from evoq_moo.calibration._regression import Regression
from evoq_moo.calibration._solver import improve_levels, solve_levels
from evoq_moo.calibration._walk import LayerView
from evoq_moo.graph import NO_CLIP
from evoq_moo.quantizer import LayerParameters

POSITIONS = 12_800
"""Positions of a layer's output that it is fitted to, at most (our choice): 256 of each of 50 images."""
FLOAT_ROUNDS, LEVEL_ROUNDS = 3, 2
"""Rounds in which a clip behind the layer frees outputs, before and after there are levels (our choice)."""


def fit_rounding(view: LayerView, *, seed: int = 0) -> LayerParameters:
    """Return a layer with levels, scales and bias fitted to the float network's output.

    Args:
        view: The layer.
        seed: Of the draw of positions.
    """
    p = view.parameters
    if not has_patches(view) or not p.quantized_weight:
        return p
    problem = Regression(view, rows=POSITIONS, seed=seed)
    clipped = view.clip != NO_CLIP
    for _ in range(FLOAT_ROUNDS if clipped else 0):
        problem.relax(problem.target)
    problem.choose_ridge()
    levels, scales = solve_levels(problem.h, problem.target, p.weight_bits)
    for _ in range(LEVEL_ROUNDS if clipped else 0):
        problem.relax(levels * scales[:, :, None])
        levels, scales = improve_levels(problem.h, problem.target, levels, scales, p.weight_bits, sweeps=2)
    return replace(
        p,
        weight_levels=levels.reshape(view.layer.weight.shape).to(torch.int8),
        weight_scales=scales.flatten(),
        bias=problem.bias(levels * scales[:, :, None]).flatten(),
    )
