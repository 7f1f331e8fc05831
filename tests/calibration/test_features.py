"""Features: means, spreads and ranges of the quantized network, measured from outside."""

import torch

from evoq_moo.calibration import calibrate
from evoq_moo.calibration._features import channel_moments


def outputs_of(module, name, x):
    found = []
    handle = dict(module.named_modules())[name].register_forward_hook(lambda _m, _a, y: found.append(y))
    module(x)
    handle.remove()
    return found[0]


def calibrated(network, policy, *steps):
    # Two folds of twelve samples: too few to decide anything, so the step's own fit is what is looked at.
    result = calibrate(network, policy, steps, progress=False)
    return result, result.report.steps[0]


def test_bias_gives_every_channel_the_float_mean(tiny_network, policy_of, monkeypatch):
    monkeypatch.setattr("evoq_moo.calibration._calibrate._Calibration._difference", lambda *_: 0.0)
    result, report = calibrated(tiny_network, policy_of(tiny_network, 4, 4), "bias")
    assert report.outcome == "kept"
    for name in tiny_network.space.layer_names:
        ours, wanted = (outputs_of(m, name, tiny_network.samples) for m in (result.network, tiny_network.network))
        axis = 1
        torch.testing.assert_close(
            channel_moments([ours], axis)[0], channel_moments([wanted], axis)[0], rtol=1e-3, atol=1e-4
        )


def test_features_match_means_and_bring_spreads_closer(tiny_network, policy_of, monkeypatch):
    monkeypatch.setattr("evoq_moo.calibration._calibrate._Calibration._difference", lambda *_: 0.0)
    policy = policy_of(tiny_network, 3, 4)
    result, _ = calibrated(tiny_network, policy, "features")
    name = tiny_network.space.layer_names[0]
    ours, wanted, plain = (
        channel_moments([outputs_of(m, name, tiny_network.samples)], 1)
        for m in (result.network, tiny_network.network, tiny_network.apply(policy).network)
    )
    torch.testing.assert_close(ours[0], wanted[0], rtol=1e-3, atol=1e-4)
    assert ((ours[1] / wanted[1]).log().abs().sum()) <= ((plain[1] / wanted[1]).log().abs().sum())


def test_channel_moments_are_those_of_float64():
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 + 10
    mean, variance = channel_moments(list(x.split(2)), 1)
    rows = x.double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(mean, rows.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance, rows.var(1, correction=0), rtol=1e-5, atol=1e-6)
