"""What stands behind a layer in the captured graph."""

import torch
from torch import nn

from evoq_moo.calibration._graph import CapturedNetwork, clip_behind
from evoq_moo.engines._kernels import Clip


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
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    captured = CapturedNetwork(network.eval(), layers, samples, 2)
    stages = [stage for stage in captured.stages(2) if stage.layer is not None]
    return [clip_behind(captured, stage, 2) for stage in stages]


def test_a_clip_counts_where_it_alone_reads_the_output():
    x = torch.zeros(2, 3)
    assert clips(Reads(past=False), x) == [Clip(0.0, None), Clip(None, None)]
    assert clips(Reads(past=True), x) == [Clip(None, None), Clip(None, None)]


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
    assert clips(network, torch.zeros(2, 2, 4, 4)) == [Clip(0.0, 6.0), Clip(-1.0, 2.0), Clip(None, None)]
