"""Results on levels, against the arithmetic written out in float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError, NetworkError, UnknownNameError
from evoq_moo.quantizer import ResultParameters, quantize_results
from evoq_moo.zoo._cifar import CifarBlock


@pytest.fixture(scope="module")
def residual(with_random_weights):
    generator = torch.Generator().manual_seed(11)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), CifarBlock(4, 8, 2), CifarBlock(8, 8, 1), nn.Flatten(), nn.Linear(72, 3))
    return with_random_weights(model, generator), torch.randn(6, 3, 8, 8, generator=generator)


def network_of(residual, **options):
    model, samples = residual
    options = {"pinned": "none", "engine": "reference", "difference": "nmse", "progress": False, **options}
    return evoq.QuantizedNetwork(model, samples, weight_bits=(4, 8, 32), activation_bits=(4, 8, 32), **options)


def test_levels_are_those_of_float64():
    p = ResultParameters(name="x", scale=0.037, zero_point=91)
    x = torch.linspace(-9, 9, 1001)
    step = torch.tensor(0.037).double()
    expected = (((x.double() / step).round() + 91).clamp(0, 255) - 91) * step
    torch.testing.assert_close(p.quantize(x).double(), expected, rtol=1e-6, atol=1e-6)


def test_ranges_hold_every_value_of_the_samples(residual):
    network = network_of(residual)
    values = dict.fromkeys(network.results.places.names)
    watched = copy.deepcopy(network.network)

    class Keep(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            values[self.name] = x
            return x

    watched.place_results({name: Keep(name) for name in values})
    watched(network.samples)
    for name, x in values.items():
        found = ResultParameters(name=name, **vars(network.results.ranges[name]))
        torch.testing.assert_close(found.quantize(x), x, rtol=0, atol=found.scale * 0.51)
        assert found.scale <= (x.max().clamp_min(0) - x.min().clamp_max(0)).item() / 255 * 1.0001


def test_a_network_under_a_policy_passes_them(residual):
    network = network_of(residual)
    applied = network.apply(network.uniform(8))
    assert [p.name for p in applied.results] == list(applied.network.results)
    kept = [name for name in network.results.places.names if name in applied.network.results]
    assert kept == [p.name for p in applied.results]
    heads = network.heads_of(network.uniform(8).to_array())
    torch.testing.assert_close(applied(network.samples), heads[0], rtol=1e-4, atol=1e-5)
    assert not network.network.results


def test_float_policies_give_the_float_network(residual):
    network = network_of(residual)
    applied = network.apply(network.uniform(32))
    assert applied.results == ()
    assert torch.equal(applied(network.samples), network.network(network.samples))
    assert network.difference_of(network.uniform(32).to_array()) == network.float_difference


@pytest.mark.parametrize("results", ["auto", "float", "int8"])
def test_the_argument_is_part_of_the_fingerprint_and_of_the_report(residual, results):
    network = network_of(residual, results=results)
    others = {network_of(residual, results=r).fingerprint for r in ("auto", "float", "int8") if r != results}
    assert network.fingerprint not in others
    assert network.results.reason in str(network.report())
    number = len(network.apply(network.uniform(8)).results)
    assert (number == 0) == (results == "float")
    assert (network.network.graph.ops[-1].name in network.results.ranges) == (results == "int8")


def test_unknown_results_are_refused(residual):
    with pytest.raises(UnknownNameError, match="results"):
        network_of(residual, results="int4")


class Stateful(nn.Module):
    """Asks for values in its forward pass, which no capture follows."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = self.a(x)
        return self.b(y if float(y[0].sum()) > 1e9 else y.relu())


def test_a_network_that_is_not_captured_has_float_results(residual):
    network = network_of((Stateful(), residual[1]))
    assert network.graph is None
    assert "module by module" in network.results.reason
    assert network.apply(network.uniform(8)).results == ()
    with pytest.raises(ArgumentError, match="results: given 'int8'"):
        network_of((Stateful(), residual[1]), results="int8")
    with pytest.raises(NetworkError, match="not captured"):
        quantize_results(Stateful(), [ResultParameters(name="x", scale=1.0, zero_point=0)])


def test_results_that_a_network_does_not_have_are_refused(residual):
    network = network_of(residual)
    with pytest.raises(NetworkError, match="nowhere"):
        quantize_results(network.network, [ResultParameters(name="nowhere", scale=1.0, zero_point=0)])


def test_transformers_keep_theirs_float(with_random_weights):
    generator = torch.Generator().manual_seed(2)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    samples = torch.randn(4, 5, 8, generator=generator)
    network = network_of((with_random_weights(layer, generator), samples))
    assert "attends" in network.results.reason
    assert np.isfinite(network.difference_of(network.uniform(8).to_array()))
    assert network_of((layer, samples), results="int8").apply(network.uniform(8)).results
