"""Parameters that stay float are counted, apart from the size of quantized weights."""

import numpy as np
import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.costs import policy_cost
from evoq_moo.errors import BitWidthError


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(64, 128, 2, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1000, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.embedding(x).mean(1))


@pytest.mark.parametrize(
    ("make", "samples", "name"),
    [
        (Recurrent, lambda generator: torch.randn(4, 3, 64, generator=generator), "lstm"),
        (Bag, lambda generator: torch.randint(0, 1000, (4, 5), generator=generator), "embedding"),
    ],
)
def test_what_is_not_quantized_is_in_the_overhead(with_random_weights, make, samples, name):
    """Bug: 0.88 MiB of an LSTM were in no cost."""
    generator = torch.Generator().manual_seed(0)
    model = with_random_weights(make(), generator)
    network = evoq.QuantizedNetwork(model, samples(generator), pinned="none", engine="reference", progress=False)
    assert network.space.layer_names == ("head",)
    floats = 4 * sum(parameter.numel() for parameter in getattr(model, name).parameters())
    for bits, head in ((8, 4 * 10 + 4 * 10 + 5), (32, 4 * 10)):  # biases; scales, and a zero point
        cost = network.cost(evoq.Policy(("head",), (bits,), (bits,)))
        assert cost.overhead_mib * 2**20 == floats + head
        assert cost.size_mib == model.head.weight.numel() * bits / 8 / 2**20


def test_bits_are_never_truncated(tiny_model, tiny_samples):
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)
    layers = network.space.layers
    bits = np.full((len(layers), 2), 4.5)
    asked = [
        lambda: policy_cost(layers, bits),
        lambda: network.difference_of(bits),
        lambda: next(network.scan(bits[None])),
        lambda: network.parameters_of(bits),
        lambda: network.engine.heads(bits),
        lambda: list(network.engine.scan(bits[None])),
        lambda: evoq.calibration.CalibratingNetwork(network).difference_of(bits),
        lambda: next(evoq.calibration.CalibratingNetwork(network).scan(bits[None])),
    ]
    for ask in asked:
        with pytest.raises(BitWidthError, match=r"given 4\.5; allowed: whole numbers"):
            ask()
