"""Rounding: how far it leaves the float weights."""

import torch
from torch import nn

from evoq_moo.calibration._rounding import fit_rounding
from evoq_moo.graph import Clip
from evoq_moo.quantizer import LayerRanges, weight_scales


def test_the_fewer_positions_were_seen_the_closer_weights_stay_to_the_float_ones(view_of):
    generator = torch.Generator().manual_seed(4)
    layer, wanted = nn.Linear(48, 6).requires_grad_(False), nn.Linear(48, 6).requires_grad_(False)
    for linear in (layer, wanted):
        nn.init.normal_(linear.weight, std=0.1, generator=generator)
    moved = {}
    for count in (12, 4800):
        x = torch.randn(count, 48, generator=generator)
        ranges = LayerRanges(weight_scales={8: weight_scales(layer.weight, 8)}, activation={})
        view = view_of(layer, x, ranges, (8, 32))
        # What is wanted is another layer's output: with enough samples its weights are found.
        view.inputs, view.targets = (list(torch.chunk(t, 6)) for t in (x, wanted(x)))
        view.seen = (True,) * 6
        moved[count] = float((fit_rounding(view).value() - layer.weight).norm() / (wanted.weight - layer.weight).norm())
    print(moved)
    assert moved[4800] > 0.9
    assert moved[12] < 0.3


def test_a_relu_behind_the_layer_leaves_less_error_behind_it(view_of):
    generator = torch.Generator().manual_seed(6)
    layer = nn.Linear(24, 16).requires_grad_(False)
    nn.init.normal_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    ranges = LayerRanges(weight_scales={3: weight_scales(layer.weight, 3)}, activation={})
    view = view_of(layer, torch.randn(2000, 24, generator=generator), ranges, (3, 32))
    # Not a linear function of the input: what is wanted behind the clip and before it differ.
    view.targets = [view.inputs[0].abs() @ torch.randn(24, 16, generator=generator) * 0.5 + view.targets[0]]
    errors = []
    for clip in (Clip(None, None), Clip(0.0, None)):
        view.clip = clip
        output = view.compute(fit_rounding(view))[0]
        errors.append(float((output.relu() - view.targets[0].relu()).square().mean()))
    assert errors[1] < errors[0]
