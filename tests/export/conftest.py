"""A small network with every kind of layer that matters to the export, quantized by random policies."""

import numpy as np
import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.export import make_template
from evoq_moo.zoo._cifar import CifarBlock


class Branches(nn.Module):
    """Two heads in a dict, a layer called twice, a grouped convolution, a matrix product of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.block = CifarBlock(4, 8, 2)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
        self.tokens = nn.Linear(8, 7)
        self.head = nn.Linear(7, 6, bias=False)

    def forward(self, x):
        x = self.block(self.stem(x))
        x = self.twice(torch.relu(self.twice(x)))
        tokens = self.tokens(x.flatten(2).transpose(1, 2))
        return {"maps": self.up(x), "logits": self.head(torch.nn.functional.gelu(tokens).mean(1))}


def every_width(model, samples):
    """A network whose layers may have any bit-width, 32 for weights and 16 for inputs among them."""
    return evoq.QuantizedNetwork(
        model,
        samples,
        weight_bits=(*range(2, 9), 32),
        activation_bits=(*range(2, 9), 16),
        pinned="none",
        difference="nmse",
        engine="reference",
        progress=False,
    )


@pytest.fixture(scope="session")
def branches(with_random_weights):
    generator = torch.Generator().manual_seed(5)
    model = with_random_weights(Branches(), generator)
    return every_width(model, torch.randn(8, 3, 8, 8, generator=generator))


@pytest.fixture(scope="session")
def branches_template(branches):
    return make_template(branches.apply(branches.uniform(8)), sample=(3, 8, 8))


@pytest.fixture(scope="session")
def policies_of():
    def draw(network, count, seed):
        return [network.space.policy(x) for x in network.space.sample(count, np.random.default_rng(seed))]

    return draw
