"""Features: means, spreads and ranges of the quantized network, measured from outside."""

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
    monkeypatch.setattr("evoq_moo.calibration._calibrate.p_of_gain", lambda *_: 0.0)
    result, report = calibrated(tiny_network, policy_of(tiny_network, 4, 4), "features")
    assert report.outcome == "kept"
    for p in result.layers:
        ours, wanted = (outputs_of(m, p.name, tiny_network.samples) for m in (result.network, tiny_network.network))
        assert_means_are_as_near_as_biases_allow(ours, wanted, p)


def assert_means_are_as_near_as_biases_allow(ours, wanted, p):
    distance = (moments_of(ours, 1).mean - moments_of(wanted, 1).mean).abs()
    assert (distance <= p.bias_scales / 2 + 1e-3 * moments_of(wanted, 1).mean.abs() + 1e-4).all()


def test_features_match_means_and_bring_spreads_closer(tiny_network, policy_of, monkeypatch):
    monkeypatch.setattr("evoq_moo.calibration._calibrate.p_of_gain", lambda *_: 0.0)
    policy = policy_of(tiny_network, 3, 4)
    result, _ = calibrated(tiny_network, policy, "features")
    first = result.layers[0]
    outputs = [
        outputs_of(m, first.name, tiny_network.samples)
        for m in (result.network, tiny_network.network, tiny_network.apply(policy).network)
    ]
    assert_means_are_as_near_as_biases_allow(*outputs[:2], first)
    ours, wanted, plain = (moments_of(y, 1) for y in outputs)
    spread = wanted.variance
    assert (ours.variance / spread).log().abs().sum() <= (plain.variance / spread).log().abs().sum()
