"""Clipping ranges against brute-force search in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from evoq_moo.errors import NonFiniteError
from evoq_moo.network import QuantizedNetwork
from evoq_moo.quantizer import (
    ActivationHistogram,
    ActivationRange,
    activation_range,
    activation_range_of,
    layer_weight_scales,
    outlier_note,
    result_range,
    weight_range,
    weight_scales,
)
from evoq_moo.quantizer.arithmetic import least_weight_scales
from evoq_moo.quantizer.ranges import HISTOGRAM_BINS


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


def plain_weight_scales(rows, bits):
    """The search as it was before weights were divided by a power of two."""
    lowest, highest = weight_range(bits)
    largest = rows.abs().amax(dim=1, keepdim=True)
    best_error, best = torch.full_like(largest, torch.inf), torch.ones_like(largest)

    def consider(scale):
        nonlocal best_error, best
        error = ((rows / scale).round().clamp(lowest, highest) * scale - rows).square().sum(dim=1, keepdim=True)
        best = torch.where(error < best_error, scale, best)
        best_error = torch.minimum(error, best_error)

    for ratio in torch.linspace(0.1, 1.05, 20):
        consider(largest * ratio / highest)
    coarse = best
    for ratio in torch.linspace(-0.05, 0.05, 13):
        consider(coarse + largest * ratio / highest)
    for _ in range(2):
        levels = (rows / best).round().clamp(lowest, highest)
        power = levels.square().sum(dim=1, keepdim=True)
        consider(torch.where(power > 0, (levels * rows).sum(dim=1, keepdim=True) / power, best))
    return best.flatten()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
def test_usual_weights_have_the_scales_they_always_had(bits, size):
    rows = size * torch.randn(30, 70, generator=torch.Generator().manual_seed(bits)) ** 3
    assert torch.equal(weight_scales(rows, bits), plain_weight_scales(rows, bits))


@pytest.mark.parametrize("exponent", [-100, -50, -33, -7, 7, 33, 50, 100])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ranges_do_not_depend_on_the_unit(bits, exponent):
    """Bug: steps were at least 1e-12, so that layers of small scale were all zeros at every bit-width."""
    factor = 2.0**exponent
    generator = torch.Generator().manual_seed(bits)
    rows, x = torch.randn(9, 40, generator=generator), torch.randn(3000, generator=generator)
    assert torch.equal(weight_scales(rows * factor, bits), weight_scales(rows, bits) * factor)
    for values in (x, x.relu(), x - 5):
        plain, scaled = histogram_of(values), histogram_of(values * factor)
        assert torch.equal(plain.counts, scaled.counts)
        one, other = (activation_range_of(histogram, bits) for histogram in (plain, scaled))
        assert (other.scale, other.zero_point) == (one.scale * factor, one.zero_point)


@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-37, 1e37, 3e38])
def test_scales_of_extreme_values_have_a_reciprocal(size):
    rows = size * torch.rand(3, 20)
    rows[0] = size
    found = activation_range_of(histogram_of(rows), 8)
    for scale in (*(weight_scales(rows, b) for b in (2, 8)), torch.tensor([found.scale])):
        assert scale.isfinite().all()
        assert scale.reciprocal().isfinite().all()
        assert (scale > 0).all()


def test_the_unit_of_layers_does_not_change_a_network():
    """Bug: a ReLU network with first weights x 1e10 and last x 1e-10 lost its resolution, though it is the same one."""
    generator = torch.Generator().manual_seed(4)
    first, last = torch.randn(8, 6, generator=generator), torch.randn(4, 8, generator=generator)
    samples = torch.randn(20, 6, generator=generator)

    def difference(weights, inputs, bits):
        model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
        model[0].weight.data, model[2].weight.data = first * weights, last / weights
        network = QuantizedNetwork(model, samples * inputs, difference="nmse", engine="reference", progress=False)
        return network.difference_of([[bits, bits]] * 2)

    for bits in (2, 4, 8):
        expected = difference(1, 1, bits)
        assert 0 < expected < 1
        for weights, inputs in ((1e10, 1), (1e15, 1), (1, 1e-10)):
            assert difference(weights, inputs, bits) == pytest.approx(expected, rel=1e-4)


def test_outliers_among_samples_are_named():
    """Bug: one pixel of 1000 among values of 0..1 was accepted without a word."""
    samples = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert outlier_note(samples) is None
    samples[7, 1, 2, 3] = 1000
    note = outlier_note(samples)
    assert note.startswith(
        "1 of 20 samples hold values up to 1000, more than 10 times the median sample's largest (0.99"
    )
    assert "indices 7;" in note
    assert "leave out these samples" in note
    samples[12:, 0, 0, 0] = -50
    assert "9 of 20 samples" in outlier_note(samples)
    assert outlier_note(torch.arange(2000).reshape(2, 1000)) is None
    assert outlier_note(torch.zeros(3, 4)) is None
    assert outlier_note(torch.randn(50, 3, 32, 32, generator=torch.Generator().manual_seed(1))) is None


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-2.5, 0.0), (-1.0, 7.0), (-1e-30, 1e-31), (-3e30, 1e30)])
def test_ranges_of_results_hold_both_ends_and_zero(low, high):
    found = result_range(low, high)
    levels = [round(value / found.scale) + found.zero_point for value in (low, high)]
    assert found.scale == np.float32(found.scale)
    assert -1 <= levels[0] <= levels[1] <= 256
    assert 0 <= found.zero_point <= 255
    assert found.scale == pytest.approx(max((high - low) / 255, np.finfo(np.float32).tiny), rel=1e-6)


def test_the_range_of_a_result_that_is_all_zeros():
    assert result_range(0.0, 0.0) == ActivationRange(1.0, 0)


def test_layers_get_weight_scales_with_which_their_biases_fit():
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [1e-20], [0.0]])
    bias = torch.tensor([0.5, -0.5, 0.25])
    plain, found = weight_scales(rows, 4), layer_weight_scales(rows, bias, 0.1, 4)
    assert found[0] == plain[0]
    assert torch.equal(found[1:], least_weight_scales(bias, 0.1, 4)[1:])
    assert torch.equal(layer_weight_scales(rows, None, 0.1, 4), plain)
    assert torch.equal(layer_weight_scales(rows, torch.zeros(3), 0.1, 4), plain)


def test_an_infinite_input_of_a_layer_is_refused_by_its_name():
    class Masked(nn.Module):
        """Its second layer reads infinity where the output is finite."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.second(self.first(x) / 0).nan_to_num(0, 0, 0)

    with pytest.raises(NonFiniteError, match="input of layer 'second'"):
        QuantizedNetwork(Masked(), torch.rand(3, 4), progress=False)


@pytest.mark.parametrize("kind", ["relu", "signed", "steps", "zeros and ones", "tiny", "huge"])
def test_counts_are_those_of_histc_and_the_shortlist_holds_the_best(kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, generator=generator)
    x = {
        "relu": x.relu(),
        "signed": x,
        "steps": (3 * x).round(),
        "zeros and ones": (x > 0).float(),
        "tiny": x * 1e-20,
        "huge": x * 1e20,
    }[kind]
    histogram = histogram_of(x)
    unit = {"tiny": 2.0**-64, "huge": 2.0**64}.get(kind, 1.0)
    low, high = ((histogram._first + bins) * histogram.width / unit for bins in (-0.5, HISTOGRAM_BINS + 1.5))
    expected = torch.histc(x * (1 / unit), HISTOGRAM_BINS + 2, low, high)
    assert torch.equal(histogram.counts, expected.double())

    values, counts = histogram.values_and_counts()
    for bits in (2, 4, 8):
        highest = activation_range(bits)[1]
        scale = torch.linspace(0.05, 1, 200, dtype=torch.float64) * (histogram.highest - histogram.lowest) / highest
        zero_point = (-histogram.lowest / scale).round().clamp(0, highest)
        levels = ((values / scale[:, None]).round() + zero_point[:, None]).clamp(0, highest)
        errors = ((levels - zero_point[:, None]) * scale[:, None] - values).square() @ counts
        near = histogram.nearly_best(scale, zero_point, highest)
        assert errors.argmin() in near
        assert len(near) < 100 or kind == "zeros and ones"


@pytest.mark.parametrize("shape", [(1, 70_000), (300, 200), (1000, 9), (3, 1)])
def test_weight_scales_of_many_channels_are_those_of_each(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = weight_scales(rows, 5)
    some = range(0, len(rows), 97)
    assert torch.equal(found[some], torch.cat([weight_scales(rows[i : i + 1], 5) for i in some]))
