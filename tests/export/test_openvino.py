"""A second judge of int8 files: OpenVINO computes the same, in integers.

Files for onnxruntime are not among them: OpenVINO 2026.4 computes other weights from bit planes.
"""

import numpy as np
import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.export import export_onnx, make_template, open_session

openvino = pytest.importorskip("openvino", reason="pip install 'evoq-moo[openvino]'")


class Fire(nn.Module):
    """As in SqueezeNet: joined convolutions behind max pools. Files of fewer than 8 bits aborted OpenVINO."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.squeeze = nn.Conv2d(8, 6, 1)
        self.left = nn.Conv2d(6, 8, 1)
        self.right = nn.Conv2d(6, 8, 3, padding=1)
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.stem(x)), 3, 2)
        x = torch.relu(self.squeeze(x))
        x = nn.functional.max_pool2d(torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1), 3, 2)
        return torch.relu(self.out(x)).mean((2, 3))


@pytest.fixture(scope="module")
def fire(with_random_weights):
    generator = torch.Generator().manual_seed(1)
    samples = torch.rand(4, 3, 40, 40, generator=generator)
    model = with_random_weights(Fire(), generator)
    network = evoq.QuantizedNetwork(
        model, samples, pinned="none", difference="nmse", engine="reference", progress=False
    )
    return network, make_template(network.apply(network.uniform(8)), samples)


@pytest.mark.parametrize("target", ["openvino", "portable"])
@pytest.mark.parametrize("bits", [7, 6, 5, 4, 3, 2])  # 8 by 8 bits saturate on processors without VNNI
def test_openvino_computes_the_same_in_integers(fire, tmp_path, bits, target):
    network, template = fire
    path = tmp_path / "m.onnx"
    export_onnx(network.apply(network.uniform(bits)), path, template=template, target=target)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
    found = next(iter(compiled({0: network.samples.numpy()}).values()))
    expected = open_session(path).run(None, {"input": network.samples.numpy()})[0]
    assert np.sqrt(np.mean((found - expected) ** 2)) < np.ptp(expected) / 255 * 2
    kinds = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    products = [str(info["runtimePrecision"].value) for info in kinds if "Conv" in str(info["layerType"].value)]
    assert len(products) >= 5
    assert set(products) <= {"u8", "i8"}
