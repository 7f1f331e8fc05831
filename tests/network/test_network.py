"""QuantizedNetwork against hand-written arithmetic, and its promises of determinism."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.difference import kl_divergence
from evoq_moo.errors import ArgumentError, NetworkError, NonFiniteError, UnknownNameError
from evoq_moo.quantizer import activation_range, weight_range
from evoq_moo.sensitivity import scan_policies


def make(tiny_model, tiny_samples, **options):
    return evoq.QuantizedNetwork(tiny_model, tiny_samples, **{"progress": False, **options})


def test_equals_hand_written_fake_quantization(tiny_samples):
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    network = make(model, tiny_samples, pinned="none", engine="reference", batch_size=len(tiny_samples), threads=1)
    policy = evoq.Policy(("0", "3"), (3, 5), (4, 7))

    def weight(layer, name, bits):
        scales = network.ranges[name].weight_scales[bits]
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(layer.weight.detach(), scales, zeros, 0, *weight_range(bits))

    def activation(x, name, bits):
        found = network.ranges[name].activation[bits]
        return torch.fake_quantize_per_tensor_affine(x, found.scale, found.zero_point, *activation_range(bits))

    def bias(layer, name, weight_bits, activation_bits):
        found = network.ranges[name]
        step = np.float32(found.activation[activation_bits].scale) * found.weight_scales[weight_bits]
        step = step * 2.0 ** -max(0, 7 - weight_bits)
        return (layer.bias.detach() / step).round() * step

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            x = activation(tiny_samples, "0", 4)
            x = nn.functional.conv2d(x, weight(model[0], "0", 3), bias(model[0], "0", 3, 4)).relu().flatten(1)
            x = nn.functional.linear(activation(x, "3", 7), weight(model[3], "3", 5), bias(model[3], "3", 5, 7))
        found = network.engine.heads(policy.to_array())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], x)


def test_apply_computes_what_the_search_scored(tiny_model, tiny_samples):
    network = make(tiny_model, tiny_samples, difference="kl")
    policy = network.uniform(3)
    applied = network.apply(policy)
    with torch.no_grad():
        parts = [applied(batch) for batch in tiny_samples.split(5)]
    difference = kl_divergence(network.float_heads, [torch.cat(parts)])
    assert difference == pytest.approx(network.evaluate(policy).difference, rel=1e-4)
    assert applied.policy == policy
    assert applied.reference is network.network
    assert not any(name.startswith("reference") for name in applied.state_dict())


@pytest.mark.parametrize("bits", [16, 32])
def test_not_quantized_is_the_float_network(tiny_model, tiny_samples, bits):
    network = make(tiny_model, tiny_samples, weight_bits=[8, bits], activation_bits=[8, bits], pinned="none")
    assert network.evaluate(network.uniform(bits)).difference == pytest.approx(0, abs=1e-12)


def test_the_float_network_is_restored_after_an_evaluation(tiny_model, tiny_samples):
    network = make(tiny_model, tiny_samples, engine="reference")
    with network.engine.bits(network.uniform(2).to_array()) as quantized:
        low = quantized(tiny_samples[:5])
    with network.engine.bits(np.full((len(network.space.layers), 2), 32)) as restored, torch.no_grad():
        again = restored(tiny_samples[:5])
    assert not torch.equal(low, again)
    with torch.no_grad():
        assert torch.allclose(again, network.float_heads[0][:5], atol=1e-5)


def test_restored_even_after_an_error(tiny_model, tiny_samples):
    network = make(tiny_model, tiny_samples, engine="reference")
    expected = network.evaluate(network.uniform(4))
    with pytest.raises(RuntimeError, match="stop"), network.engine.bits(network.uniform(2).to_array()):
        raise RuntimeError("stop")
    assert all(torch.equal(layer.module.weight, layer.float_weight) for layer in network.engine._layers)
    plain = network.engine.heads(np.full((len(network.space.layers), 2), 32))
    assert torch.allclose(plain[0], network.float_heads[0], atol=1e-5)
    assert network.evaluate(network.uniform(4)) == expected


def test_the_users_model_and_samples_are_not_changed(tiny_model, tiny_samples):
    tiny_model.train()
    state = copy.deepcopy(tiny_model.state_dict())
    samples = tiny_samples.clone()
    network = make(tiny_model, tiny_samples)
    network.evaluate(network.uniform(3))
    network.apply(network.uniform(3))
    assert tiny_model.training
    assert all(torch.equal(a, b) for a, b in zip(state.values(), tiny_model.state_dict().values(), strict=True))
    assert all(parameter.requires_grad for parameter in tiny_model.parameters())
    assert torch.equal(samples, tiny_samples)


@pytest.mark.parametrize("engine", ["reference", "auto"])
def test_same_bits_for_any_number_of_threads(tiny_model, tiny_samples, engine):
    results = []
    for threads in (1, 2, 3):
        network = make(tiny_model, tiny_samples, threads=threads, engine=engine)
        results.append((network.fingerprint, [network.evaluate(network.uniform(b)).difference for b in (2, 4, 8)]))
    assert results[0] == results[1] == results[2]


def test_pickles_to_an_equal_network(tiny_model, tiny_samples):
    network = make(tiny_model, tiny_samples)
    expected = network.evaluate(network.uniform(3))
    copied = pickle.loads(pickle.dumps(network))
    assert copied.fingerprint == network.fingerprint
    assert copied.evaluate(copied.uniform(3)) == expected


def test_the_fingerprint_follows_weights_samples_and_metric_not_the_space(tiny_model, tiny_samples):
    base = make(tiny_model, tiny_samples)
    assert make(tiny_model, tiny_samples, weight_bits=[4, 8], pinned="none", tied=False).fingerprint == base.fingerprint
    assert make(tiny_model, tiny_samples, difference="kl").fingerprint != base.fingerprint
    assert make(tiny_model, tiny_samples + 1e-3).fingerprint != base.fingerprint
    other = copy.deepcopy(tiny_model)
    other[0].weight.data[0, 0, 0, 0] += 1e-3
    changed = make(other, tiny_samples)
    assert changed.fingerprint != base.fingerprint
    assert changed.identity != base.identity


def test_ends_are_pinned_by_default(tiny_model, tiny_samples):
    network = make(tiny_model, tiny_samples)
    policy = network.uniform(2)
    assert policy.weight_bits[0] == policy.weight_bits[-1] == 8
    assert policy.activation_bits[0] == policy.activation_bits[-1] == 8
    assert set(policy.weight_bits[1:-1]) == {2}
    free = make(tiny_model, tiny_samples, pinned="none")
    assert free.space.n_var == 2 * len(free.space.layers)
    named = make(tiny_model, tiny_samples, pinned={free.space.layer_names[1]: 4})
    assert named.uniform(8).weight_bits[1] == 4


def test_layers_called_twice_share_their_bits(tiny_samples):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(self.stem(x)).relu()).mean((2, 3))

    network = make(Twice(), tiny_samples, pinned="none")
    assert any("called 2 times" in note for note in network.notes)
    differences = [network.evaluate(network.uniform(b)).difference for b in (2, 8)]
    assert differences[0] > differences[1] > 0


def test_a_module_registered_twice_is_one_layer(tiny_samples):
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.ReLU(), conv, nn.Flatten(), nn.Linear(192, 4))
    network = make(model, tiny_samples, pinned="none", difference="kl")
    assert network.space.layer_names == ("0", "4")
    assert network.graph.calls == (2, 1)
    applied = network.apply(network.uniform(4))
    with torch.no_grad():
        found = [applied(batch) for batch in tiny_samples.split(5)]
    difference = kl_divergence(network.float_heads, [torch.cat(found)])
    assert difference == pytest.approx(network.evaluate(network.uniform(4)).difference, rel=1e-4)
    assert len(applied.network.products[0].weight.unique()) <= 16 * 3  # 4 bits in each of three channels


def test_nested_outputs(tiny_samples):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Linear(8, 5)

        def forward(self, x):
            return {"a": self.a(x), "b": (self.b(x), torch.arange(len(x)))}

    network = make(Heads(), tiny_samples, pinned="none", difference="nmse")
    assert len(network.float_heads) == 2
    assert 0 < network.evaluate(network.uniform(8)).difference < network.evaluate(network.uniform(2)).difference


def test_a_callable_difference(tiny_model, tiny_samples):
    def largest(reference, quantized):
        return (reference[0] - quantized[0]).abs().max().item()

    network = make(tiny_model, tiny_samples, difference=largest)
    assert network.metric.endswith("largest")
    assert network.evaluate(network.uniform(8)).difference < network.evaluate(network.uniform(2)).difference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_bad_samples(tiny_model, tiny_samples, dtype):
    with pytest.raises(ArgumentError, match="samples: given torch"):
        make(tiny_model, tiny_samples.to(dtype))
    with pytest.raises(ArgumentError, match="at least one sample"):
        make(tiny_model, tiny_samples[:0])
    bad = tiny_samples.clone()
    bad[3, 0, 0, 0] = float("nan")
    with pytest.raises(ArgumentError, match=r"NaN or infinity in samples \[3\]"):
        make(tiny_model, bad)
    for wrong in (tiny_samples[:, :2], tiny_samples.to(torch.uint8)):
        shape = ", ".join(map(str, wrong.shape[1:]))
        with pytest.raises(NetworkError, match=rf"can't run on a batch of shape \(5, {shape}\)"):
            make(tiny_model, wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": []}, "weight_bits: given an empty set"),
        ({"weight_bits": [1, 4]}, r"weight_bits: given \[1\]"),
        ({"activation_bits": [9]}, r"activation_bits: given \[9\]"),
        ({"activation_bits": [4.0]}, r"activation_bits: given \[4.0\]"),
        ({"activation_bits": 4}, "activation_bits: given 4"),
        ({"pinned": "both"}, "pinned: unknown name 'both'"),
        ({"pinned": ["0", "nowhere"]}, "pinned: unknown name 'nowhere'"),
        ({"overrides": {"0": {"bits": [4]}}}, "unknown name 'bits'"),
        ({"difference": "kll"}, "did you mean 'kl'"),
        ({"threads": 0}, "threads: given 0"),
        ({"engine": "int"}, "did you mean 'integer'"),
        ({"batch_size": 2.5}, "batch_size: given 2.5"),
        ({"tied": True, "activation_bits": [8]}, "tied: weights and activations"),
    ],
)
def test_bad_arguments(tiny_model, tiny_samples, options, message):
    with pytest.raises(ArgumentError, match=message):
        make(tiny_model, tiny_samples, **options)


def test_unknown_layers_suggest_the_nearest(tiny_model, tiny_samples):
    with pytest.raises(UnknownNameError, match=r"did you mean '\d"):
        make(tiny_model, tiny_samples, overrides={"00": {"weight_bits": [4]}})


def test_a_scan_gives_what_single_evaluations_give(tiny_model, tiny_samples):
    for engine in ("reference", "auto"):
        network = make(tiny_model, tiny_samples, engine=engine)
        _, policies = scan_policies(network.space)
        assert list(network.scan(policies)) == [network.difference_of(p) for p in policies]


def test_engines_agree(tiny_model, tiny_samples):
    reference, auto = (make(tiny_model, tiny_samples, engine=engine) for engine in ("reference", "auto"))
    assert reference.engine_name == "reference"
    assert (reference.fingerprint == auto.fingerprint) == (auto.engine_name == "reference")
    for bits in (2, 4, 8):
        expected = reference.evaluate(reference.uniform(bits)).difference
        assert auto.evaluate(auto.uniform(bits)).difference == pytest.approx(expected, rel=0.05, abs=1e-5)


class Overflow(nn.Module):
    """Computes infinity where quantization makes its input exactly zero."""

    def forward(self, x):
        return 1 / x.mean((2, 3))


@pytest.mark.parametrize("engine", ["reference", "auto"])
def test_a_policy_with_nan_names_the_first_layer(engine):
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.data.fill_(0.0001)
    model = nn.Sequential(conv, Overflow())
    samples = torch.linspace(0.1, 1, 8).reshape(8, 1, 1, 1).repeat(1, 1, 2, 2)
    network = make(model, samples, pinned="none", difference="nmse", engine=engine)
    network.ranges["0"].weight_scales[2].fill_(1.0)  # every weight becomes zero
    with pytest.raises(NonFiniteError, match="first in layer '1'"):
        network.difference_of([[2, 32]])


def test_nan_outputs_name_the_first_layer(tiny_model, tiny_samples):
    tiny_model[3].conv1.weight.data[0] = float("inf")
    with pytest.raises(NonFiniteError, match="first in '3.conv1'"):
        make(tiny_model, tiny_samples)


def test_a_difference_of_nan_is_an_error(tiny_model, tiny_samples):
    with pytest.raises(NonFiniteError, match="gave nan"):
        make(tiny_model, tiny_samples, difference=lambda _r, _q: float("nan"))


def test_a_policy_of_another_network_is_refused(tiny_model, tiny_samples):
    network = make(tiny_model, tiny_samples)
    with pytest.raises(ArgumentError, match="policy: is of layers"):
        network.apply(evoq.Policy(("x",), (8,), (8,)))


def test_hawq_v3_resnet18_row(tiny_samples):
    """FP32 1858 GBOPs; W8A8 116 GBOPs, 11.1 MB; W4A4 with ends at 8 bits 34 GBOPs (34.71, cut), 5.8 MB."""
    network = make(evoq.zoo.load("resnet18").network, torch.zeros(1, 3, 224, 224).normal_(), pinned="ends")
    layers = network.space.layer_names
    eight, four = network.cost(network.uniform(8)), network.cost(network.uniform(4))
    full = network.cost(evoq.Policy(layers, (32,) * len(layers), (32,) * len(layers)))
    assert round(full.gbops) == 1858
    assert (round(eight.gbops), round(eight.size_mib, 1)) == (116, 11.1)
    assert (int(four.gbops), round(four.size_mib, 1)) == (34, 5.8)
    assert four.overhead_mib < 0.1


class Tempered(nn.Module):
    """Two layers, an activation function and a divisor that no parameter shows."""

    def __init__(self, *, act=torch.relu, t=1.0):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)
        self.act, self.t = act, t

    def forward(self, x):
        return self.b(self.act(self.a(x))) / self.t


def test_networks_of_one_weight_that_compute_otherwise_have_other_fingerprints():
    """Bug: what a network computes outside its modules was in no fingerprint, so one got the other's results."""

    def fingerprint(**options):
        torch.manual_seed(5)
        return evoq.QuantizedNetwork(Tempered(**options), torch.randn(9, 6), progress=False).fingerprint

    found = [fingerprint(), fingerprint(t=0.1), fingerprint(act=torch.sigmoid), fingerprint(act=torch.exp)]
    assert len(set(found)) == 4
    assert fingerprint() == found[0]


def test_a_report_says_what_was_found():
    torch.manual_seed(5)
    network = evoq.QuantizedNetwork(Tempered(), torch.randn(9, 6), progress=False)
    report = network.report()
    assert report.layers == 2
    assert report.macs_quantized == 1
    assert report.parameters_quantized == (48 + 32) / (48 + 8 + 32 + 4)
    assert report.float_error <= 1e-6
    assert report.difference == "nmse"
    assert "2 layers with 100.0 % of the MACs" in str(report)


def test_networks_are_made_and_used_in_inference_mode():
    """Bug: torch.export does not run there, and tensors made there can't be changed elsewhere."""
    with torch.inference_mode():
        model, samples = Tempered().eval(), torch.randn(9, 6)
        network = evoq.QuantizedNetwork(model, samples, progress=False)
        found = network.evaluate(network.uniform(4)).difference
        applied = network.apply(network.uniform(4))(samples)
    assert network.difference_between([applied.clone()]) == pytest.approx(found, rel=1e-3)
    assert network.evaluate(network.uniform(4)).difference == found


def test_class_dim_is_the_users():
    torch.manual_seed(6)
    model, samples = nn.Conv1d(3, 6, 1), torch.randn(9, 3, 7)
    last, second = (
        evoq.QuantizedNetwork(model, samples, pinned="none", difference="kl", class_dim=dim, progress=False)
        for dim in (None, 1)
    )
    assert last.fingerprint != second.fingerprint
    assert last.evaluate(last.uniform(3)).difference != second.evaluate(second.uniform(3)).difference
