"""A captured network run stage by stage, and what stands behind its layers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from evoq_moo.errors import NetworkError
from evoq_moo.graph import NO_CLIP, RELU, Clip, StagedNetwork, capture_network, own_copy, untouched


class Twice(nn.Module):
    """Two heads, a layer called twice, and work before the first layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x, y):
        x = self.stem(x.sin() * 2)
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return {"a": self.head(x), "b": [x + y]}


SAMPLES = (torch.randn(5, 3), torch.randn(5, 4))


@pytest.fixture(scope="module")
def network():
    with untouched():
        return capture_network(own_copy(Twice())[0], SAMPLES)


def test_stages_together_are_the_network(network):
    staged = StagedNetwork(network)
    assert [stage.layer for stage in staged.stages] == [None, 0, 1, 1, 2]
    assert staged.calls == (1, 2, 1)
    assert staged.size is None
    assert [op.name for stage in staged.stages for op in stage.ops] == [op.name for op in network.graph.ops]
    expected = network(*SAMPLES)
    heads = staged.run(SAMPLES, staged.float_call)
    assert torch.equal(heads[0], expected["a"])
    assert torch.equal(heads[1], expected["b"][0])


def test_values_are_kept_as_long_as_something_reads_them(network):
    staged = StagedNetwork(network)
    values = staged.start(SAMPLES)
    last = values[network.graph.inputs[1]]
    sizes = []
    for stage in staged.stages:
        staged.run_stage(stage, values, staged.float_call)
        sizes.append(len(values))
    # What the layer behind reads, and the second input until the last stage; then the two heads.
    assert sizes == [2, 2, 2, 2, 2]
    assert last is not None
    assert len(staged.heads(values)) == 2


def test_layers_can_be_replaced_without_changing_the_network(network):
    staged = StagedNetwork(network)
    own = staged.layers[2]
    other = staged.with_layers({2: replace(own, weight=own.weight * 2, bias=own.bias * 2)})
    expected = network(*SAMPLES)["a"]
    torch.testing.assert_close(other.run(SAMPLES, other.float_call)[0], expected * 2)
    assert torch.equal(staged.run(SAMPLES, staged.float_call)[0], expected)
    x = torch.randn(2, 4)
    torch.testing.assert_close(own(x), x @ own.weight.T + own.bias)


def test_a_network_without_a_graph_and_constant_outputs_are_refused():
    with pytest.raises(NetworkError, match="network: calibration needs the network as a graph"):
        StagedNetwork(nn.Linear(2, 2))

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.table = nn.Linear(3, 2), nn.Parameter(torch.randn(5, 2))

        def forward(self, x):
            return self.layer(x), self.table

    with untouched():
        captured = capture_network(own_copy(Constant())[0], SAMPLES[0])
    with pytest.raises(NetworkError, match="one is a constant"):
        StagedNetwork(captured)


class Reads(nn.Module):
    """Two layers; the first's output goes through a ReLU and, if wanted, past it."""

    def __init__(self, past):
        super().__init__()
        self.first, self.second, self.past = nn.Linear(3, 3), nn.Linear(3, 3), past

    def forward(self, x):
        y = self.first(x)
        z = self.second(y.relu())
        return z + y if self.past else z


def clips(network, samples):
    with untouched():
        staged = StagedNetwork(capture_network(own_copy(network)[0], samples))
    return [staged.clip_behind(stage.ops[0]) for stage in staged.stages if stage.layer is not None]


def test_a_clip_counts_where_it_alone_reads_the_output():
    x = torch.zeros(2, 3)
    assert clips(Reads(past=False), x) == [RELU, NO_CLIP]
    assert clips(Reads(past=True), x) == [NO_CLIP, NO_CLIP]


def test_kinds_of_clips():
    network = nn.Sequential(
        nn.Conv2d(2, 2, 1),
        nn.ReLU6(),
        nn.Conv2d(2, 2, 1),
        nn.Hardtanh(-1.0, 2.0),
        nn.Conv2d(2, 2, 1),
        nn.MaxPool2d(2),
        nn.ReLU(),
    )
    assert clips(network, torch.zeros(2, 2, 4, 4)) == [Clip(0.0, 6.0), Clip(-1.0, 2.0), NO_CLIP]
