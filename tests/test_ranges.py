"""Clipping ranges against brute-force search in float64."""

import pytest
import torch

from evoq_moo.arithmetic import activation_range, weight_range
from evoq_moo.ranges import ActivationHistogram, activation_range_of, weight_scales


def histogram_of(x):
    histogram = ActivationHistogram()
    histogram.observe_extremes(x)
    histogram.observe_counts(x)
    return histogram


def weight_error(rows, scales, bits):
    lowest, highest = weight_range(bits)
    rows, scales = rows.double(), scales.double()[:, None]
    return (((rows / scales).round().clamp(lowest, highest) * scales) - rows).square().sum(1)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["normal", "uniform", "heavy"])
def test_weight_scales_are_nearly_the_best_of_a_fine_grid(bits, kind):
    generator = torch.Generator().manual_seed(bits)
    rows = {
        "normal": torch.randn(20, 300, generator=generator),
        "uniform": torch.rand(20, 300, generator=generator) * 2 - 1,
        "heavy": torch.randn(20, 300, generator=generator) ** 3,
    }[kind]
    found = weight_error(rows, weight_scales(rows, bits), bits)
    largest = rows.abs().amax(1) / weight_range(bits)[1]
    grid = torch.stack([weight_error(rows, largest * ratio, bits) for ratio in torch.linspace(0.02, 1.2, 300)])
    # At many bits the error curve has hundreds of narrow dips; the search need not find the deepest of each channel.
    ratio = found / grid.amin(0)
    assert ratio.mean() <= 1.03
    assert ratio.max() <= (1.03 if bits <= 4 else 1.2)


def test_weight_scales_of_a_zero_channel_are_one():
    rows = torch.zeros(2, 5)
    rows[1] = 1.0
    scales = weight_scales(rows, 4)
    assert scales[0] == 1.0
    assert 0 < scales[1] < 1


def test_weight_scales_leave_the_weights_alone():
    rows = torch.randn(4, 9)
    before = rows.clone()
    weight_scales(rows, 3)
    assert torch.equal(rows, before)


def activation_error(x, scale, zero_point, bits):
    lowest, highest = activation_range(bits)
    x = x.double()
    levels = ((x / scale).round() + zero_point).clamp(lowest, highest)
    return ((levels - zero_point) * scale - x).square().mean().item()


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("kind", ["relu", "signed", "shifted", "negative"])
def test_activation_ranges_are_nearly_the_best_of_a_fine_grid(bits, kind):
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(4_000, generator=generator)
    x = {"relu": x.relu(), "signed": x, "shifted": x + 2, "negative": -x.abs()}[kind]
    found = activation_range_of(histogram_of(x), bits)
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    highest = activation_range(bits)[1]
    best = min(
        activation_error(x, scale, min(max(round(-low * a / scale), 0), highest), bits)
        for a in (torch.linspace(0.05, 1, 25).tolist() if low < 0 else [1.0])
        for b in (torch.linspace(0.05, 1, 25).tolist() if high > 0 else [1.0])
        if (scale := (high * b - low * a) / highest) > 0
    )
    assert activation_error(x, found.scale, found.zero_point, bits) <= 1.03 * best
    assert 0 <= found.zero_point <= highest


def test_a_constant_zero_activation_has_a_usable_range():
    found = activation_range_of(histogram_of(torch.zeros(10)), 4)
    assert found.scale > 0
    assert found.zero_point == 0


def test_counts_do_not_depend_on_how_values_are_batched():
    x = torch.randn(1000)
    whole, parts = ActivationHistogram(), ActivationHistogram()
    whole.observe_extremes(x)
    for part in x.split(77):
        parts.observe_extremes(part)
    whole.observe_counts(x)
    for part in x.split(77):
        parts.observe_counts(part)
    assert torch.equal(whole.counts, parts.counts)
    assert whole.counts.sum() == 1000


def test_exact_zeros_stay_exact():
    x = torch.cat([torch.zeros(1000), torch.rand(10)])
    values, counts = histogram_of(x).values_and_counts()
    assert counts[values == 0] >= 1000
