"""Channels of depthwise layers' inputs scaled to one range: the function stays, and no level moves."""

import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.calibration import calibrate
from evoq_moo.calibration._equalize import LARGEST_FACTOR, Pair, equalize, factors_of, pairs_of
from evoq_moo.graph import StagedNetwork


class Inverted(nn.Module):
    """Two inverted residuals: the second one's first clip is read twice, so nothing may be scaled there."""

    def __init__(self):
        super().__init__()
        self.expand, self.clip = nn.Conv2d(3, 6, 1), nn.ReLU6()
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.project = nn.Conv2d(12, 6, 1)
        self.again = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        y = self.project(torch.relu(self.depthwise(self.clip(self.expand(x)))))
        z = torch.relu(y)
        return self.head(torch.cat([self.again(z), z], 1).mean((2, 3)))


@pytest.fixture(scope="module")
def inverted():
    generator = torch.Generator().manual_seed(31)
    model = Inverted().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3, generator=generator)
    # Channels of very different sizes that all count as much, one that reaches the clip and one that is always silent.
    sizes = torch.tensor([0.01, 0.1, 1, 2, 30, 1])
    model.expand.weight.data *= sizes.reshape(-1, 1, 1, 1)
    model.depthwise.weight.data /= sizes.clamp(max=6).repeat_interleave(2).reshape(-1, 1, 1, 1)
    model.expand.bias.data = torch.tensor([0.01, 0.1, 1, 1, 5, -100])
    samples = torch.randn(12, 3, 8, 8, generator=generator)
    return evoq.QuantizedNetwork(model, samples, pinned="none", engine="reference", progress=False)


@pytest.fixture(scope="module")
def staged(inverted):
    return StagedNetwork(inverted.network)


def test_only_channels_that_nothing_else_reads_are_scaled(staged):
    assert pairs_of(staged) == (Pair(maker=0, reader=1, bound=6.0),)


def test_factors_never_move_a_clip_on_the_samples():
    sizes, highest = torch.tensor([4.0, 1.0, 0.1, 1e-9, 0.0]), torch.tensor([6.0, 1.5, 0.2, 1e-9, 0.0])
    found = factors_of(sizes, highest, 6.0)
    assert found.tolist() == pytest.approx([1, 4, 30, LARGEST_FACTOR, 1])
    assert (highest * found <= 6.0).all()
    assert factors_of(sizes, highest, float("inf")).tolist() == pytest.approx([1, 4, 40, LARGEST_FACTOR, 1])


def test_the_float_network_computes_the_same_and_no_level_moves(inverted, staged, policy_of):
    pool = inverted.pool
    policy = policy_of(inverted, 4, 4)
    start = calibrate(inverted, policy, ("features",), progress=False).layers
    scaled, (found,) = equalize(staged, [inverted.samples], [start], inverted.results, pool)
    torch.testing.assert_close(scaled.run(inverted.samples, scaled.float_call)[0], inverted.float_heads[0])
    changed = [not torch.equal(a.value(), b.value()) for a, b in zip(start, found, strict=True)]
    assert changed == [True, True, False, False, False]
    for a, b in zip(start, found, strict=True):
        assert torch.equal(a.weight_levels, b.weight_levels)
    # Of the same products: what the reader makes of an input in the maker's new units.
    gain = found[0].weight_scales / start[0].weight_scales
    assert gain.max() > 4
    torch.testing.assert_close(
        found[1].value() * gain.repeat_interleave(2).reshape(-1, 1, 1, 1), start[1].value(), rtol=1e-5, atol=1e-7
    )


def test_small_channels_get_more_levels(inverted, policy_of):
    policy = policy_of(inverted, 8, 4)
    found = calibrate(inverted, policy, ("equalize",), progress=False)
    assert found.report.steps[0].outcome == "kept"
    plain = inverted.difference_of(policy.to_array())
    assert inverted.difference_between([found(inverted.samples)]) < 0.9 * plain


def test_every_other_step_works_behind_it(inverted, policy_of):
    steps = ("equalize", "rounding", "equalize", "features", "outputs")
    found = calibrate(inverted, policy_of(inverted, 4, 4), steps, progress=False)
    kept = [s for s in found.report.steps if s.outcome == "kept"]
    assert inverted.difference_between([found(inverted.samples)]) == pytest.approx(kept[-1].after, rel=2e-2)


def test_a_network_without_depthwise_layers_stays_as_it_is(tiny_network, policy_of):
    found = calibrate(tiny_network, policy_of(tiny_network, 4, 4), ("equalize",), progress=False)
    assert found.report.steps[0].outcome == "no change"
