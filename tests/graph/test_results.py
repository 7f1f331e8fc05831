"""Where results have 8 bits, network by network, under policies."""

import pytest
import torch
from torch import nn

from evoq_moo.graph import Grid, ResultPlaces, has_stream, own_copy, prepare

OWN = Grid(9.0, 9, 8)
"""A place's own levels."""


class Residual(nn.Module):
    """A stem, a sum of it and a branch, and a mean behind the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = torch.relu(self.a(x))
        return self.head(torch.relu(self.b(y) + x).mean((2, 3)))


class Joined(nn.Module):
    """Two branches joined, pooled and read by a convolution that the network returns."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(3, 4, 3, padding=1)
        self.c = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = torch.cat([torch.relu(self.a(x)), self.b(x)], 1)
        return self.c(torch.max_pool2d(x, 2)).flatten(1)


class Shuffled(nn.Module):
    """A unit of ShuffleNetV2: half of the channels passes by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.branch = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, torch.relu(self.branch(right))], 1)
        x = x.reshape(len(x), 2, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.last(x).mean((2, 3))


class Gated(nn.Module):
    """SiLU behind a convolution, and a ConvTranspose as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)

    def forward(self, x):
        return self.up(nn.functional.silu(self.a(x)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.b = nn.Linear(8, 8)

    def forward(self, x):
        x = self.a(x).flatten(2).transpose(1, 2)
        return (x + self.b(self.norm(x))).mean(1)


def captured(network):
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return prepare(own_copy(network.eval())[0], x).graph


def found(network, bits, *, linear=False):
    """Return the levels of results, named by what makes them, where layers have given bits."""
    graph = captured(network)
    places = ResultPlaces(graph, linear=linear)
    inputs = [None if b > 8 else Grid(float(i), i, b) for i, b in enumerate(bits)]
    grids = places.grids(inputs, [b <= 8 for b in bits], dict.fromkeys(places.names, OWN))
    kinds = {op.name: graph.layers[op.layer] if op.layer is not None else op.target.__name__ for op in graph.ops}
    return [(kinds[name], grid) for name, grid in grids.items()]


def test_a_sum_and_what_it_adds_are_on_levels():
    # The stem's reader has 8 bits, and has seen the same values: its levels serve the sum as well.
    assert found(Residual(), [8, 8, 8, 8]) == [
        ("relu.default", Grid(1.0, 1, 8)),
        ("b", OWN),
        ("relu.default", OWN),
    ]
    # Readers of other bits read 8-bit levels of the value's own range.
    assert found(Residual(), [8, 4, 4, 8]) == [("relu.default", OWN), ("b", OWN), ("relu.default", OWN)]


def test_float_layers_leave_values_and_sums_with_them_do_too():
    assert found(Residual(), [32, 8, 8, 8]) == [("b", OWN)]
    # A layer in float reads values: what a quantized layer gives it has 8 bits.
    assert found(Residual(), [8, 8, 32, 8]) == [("relu.default", Grid(1.0, 1, 8)), ("relu.default", OWN)]
    assert found(Residual(), [32, 32, 32, 32]) == []


def test_matrix_products_stay_float_unless_asked_for():
    assert found(Residual(), [8, 8, 8, 8], linear=True)[-1] == ("head", OWN)


def test_one_quantizer_behind_a_join_and_a_pool_reads_levels_of_its_own():
    # Convolutions, join and pool in front of it make those: only the output is left.
    assert found(Joined(), [8, 8, 8]) == [("c", OWN)]
    assert found(Joined(), [4, 8, 2]) == [("c", OWN)]
    # The join stays float with one of its parts; the other is read by a join of values.
    assert found(Joined(), [8, 8, 32]) == [("max_pool2d.default", OWN)]
    assert found(Joined(), [8, 32, 32]) == [("relu.default", OWN)]


def test_halves_of_channels_share_the_levels_of_the_whole():
    # The branch has seen half of the stem's channels: its levels would not hold the other half.
    assert found(Shuffled(), [8, 8, 8]) == [("stem", OWN), ("last", OWN)]
    assert found(Shuffled(), [8, 32, 8]) == [("stem", OWN), ("last", OWN)]


def test_what_an_activation_function_reads_has_8_bits():
    assert found(Gated(), [8, 8]) == [("a", OWN), ("up", OWN)]
    assert found(Gated(), [8, 16]) == [("a", OWN)]


@pytest.mark.parametrize("network", [Residual(), Joined(), Shuffled(), Gated()])
def test_places_hold_all_that_any_policy_quantizes(network):
    graph = captured(network)
    names = ResultPlaces(graph).names
    assert names == tuple(op.name for op in graph.ops if op.name in names)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        bits = [(2, 4, 8, 32)[int(i)] for i in torch.randint(4, (len(graph.layers),), generator=generator)]
        inputs = [None if b > 8 else Grid(1.0, 0, b) for b in bits]
        grids = ResultPlaces(graph).grids(inputs, [b <= 8 for b in bits], dict.fromkeys(names, OWN))
        assert set(grids) <= set(names), f"seed {seed}"
        assert all(grid.bits == 8 for grid in grids.values())


def test_transformers_are_known_by_what_stands_between_their_layers():
    assert has_stream(captured(Transformer()))
    assert not any(has_stream(captured(network)) for network in (Residual(), Joined(), Shuffled(), Gated()))
