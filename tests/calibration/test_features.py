"""Features: means, spreads and ranges of the quantized network, measured from outside."""

import torch

from evoq_moo.calibration import calibrate
from evoq_moo.calibration._moments import moments_of


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


def test_features_give_every_channel_the_float_mean(tiny_network, policy_of, monkeypatch):
    monkeypatch.setattr("evoq_moo.calibration._calibrate._Calibration._difference", lambda *_: 0.0)
    result, report = calibrated(tiny_network, policy_of(tiny_network, 4, 4), "features")
    assert report.outcome == "kept"
    for name in tiny_network.space.layer_names:
        ours, wanted = (outputs_of(m, name, tiny_network.samples) for m in (result.network, tiny_network.network))
        axis = 1
        torch.testing.assert_close(moments_of(ours, axis).mean, moments_of(wanted, axis).mean, rtol=1e-3, atol=1e-4)


def test_features_match_means_and_bring_spreads_closer(tiny_network, policy_of, monkeypatch):
    monkeypatch.setattr("evoq_moo.calibration._calibrate._Calibration._difference", lambda *_: 0.0)
    policy = policy_of(tiny_network, 3, 4)
    result, _ = calibrated(tiny_network, policy, "features")
    name = tiny_network.space.layer_names[0]
    ours, wanted, plain = (
        moments_of(outputs_of(m, name, tiny_network.samples), 1)
        for m in (result.network, tiny_network.network, tiny_network.apply(policy).network)
    )
    torch.testing.assert_close(ours.mean, wanted.mean, rtol=1e-3, atol=1e-4)
    spread = wanted.variance
    assert (ours.variance / spread).log().abs().sum() <= (plain.variance / spread).log().abs().sum()
